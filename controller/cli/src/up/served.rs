//! Waiting until real clusters serve what `--export` names.
//!
//! Each member has to be joined and healthy, and the proxy has to have a usable endpoint of each
//! service in each member that has it. A member does not have it, and is named instead of waited for, when
//! it has no such Service, no ready endpoint of it, an export that is not valid, or is in no tier.
//! Objects of real clusters may tell of an earlier fleet, so it is the proxy that is asked at last.

use fairlead_api::{
    conditions::{find, kind},
    mcs::v1beta1::ServiceExport,
    member::MemberCluster,
    service::{MemberState, MultiClusterService},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

use super::{objects::ServiceName, proxy::Proxy, wait};

/// What is waited for.
pub(super) struct Wait<'f> {
    /// Of the hub.
    pub(super) hub: Client,
    /// By name.
    pub(super) members: Vec<(String, Client)>,
    pub(super) services: Vec<ServiceName>,
    pub(super) proxy: &'f Proxy,
}

/// How far a member is with a service.
type Seen = anyhow::Result<Result<Option<String>, String>>;

impl Wait<'_> {
    /// What it is, for people.
    pub(super) fn text(&self) -> String {
        let names: Vec<&str> = self.members.iter().map(|(name, _)| &**name).collect();
        let services: Vec<String> = self.services.iter().map(ToString::to_string).collect();
        format!(
            "waiting until {} are joined and healthy, and until each of them that has {} serves it",
            names.join(", "),
            services.join(", "),
        )
    }

    /// Waits; who has to be left out of it, and why.
    pub(super) async fn over(&self) -> anyhow::Result<Vec<String>> {
        let mut left_out = Vec::new();
        for (name, client) in &self.members {
            self.joined(name).await?;
            for service in &self.services {
                let what = format!("member {name} to serve {service}");
                let seen = wait::until(&what, async || self.look(name, client, service).await);
                left_out.extend(seen.await?);
            }
        }
        Ok(left_out)
    }

    async fn joined(&self, name: &str) -> anyhow::Result<()> {
        let api = Api::<MemberCluster>::all(self.hub.clone());
        let what = format!("member {name} to be joined and healthy");
        wait::until(&what, async || {
            let status = api.get(name).await?.status.unwrap_or_default();
            let missing = [kind::JOINED, kind::HEALTHY].into_iter().find_map(|of| {
                match find(&status.conditions, of) {
                    Some(said) if said.status == "True" => None,
                    Some(said) => Some(format!("{of}: {}", said.message)),
                    None => Some(format!("{of} is not known")),
                }
            });
            Ok(missing.map_or(Ok(()), Err))
        })
        .await
    }

    async fn look(&self, member: &str, client: &Client, service: &ServiceName) -> Seen {
        let ServiceName { namespace, name } = service;
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        if services.get_opt(name).await?.is_none() {
            return Ok(Ok(Some(format!("{member} has no Service {service}"))));
        }
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
        let own = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        if !slices.list(&own).await?.items.iter().any(is_ready) {
            let message = format!("{member} has no ready endpoint of {service}");
            return Ok(Ok(Some(message)));
        }
        let exports = Api::<ServiceExport>::namespaced(client.clone(), namespace);
        let status = exports.get_opt(name).await?.and_then(|one| one.status);
        let conditions = status.map(|status| status.conditions).unwrap_or_default();
        if let Some(said) = find(&conditions, kind::VALID).filter(|said| said.status == "False") {
            let message = format!("{member} does not export {service}: {}", said.message);
            return Ok(Ok(Some(message)));
        }
        let objects = Api::<MultiClusterService>::namespaced(self.hub.clone(), namespace);
        let status = objects.get(name).await?.status.unwrap_or_default();
        let row = status.members.iter().find(|row| row.member == member);
        if row.is_some_and(|row| row.state == MemberState::NotSelected) {
            let message = format!("{member} is in no tier of {service}");
            return Ok(Ok(Some(message)));
        }
        let page = self.proxy.page("/services?limit=1000").await?;
        let why = row
            .map(|row| row.reason.as_str())
            .filter(|why| !why.is_empty());
        Ok(match serves(&page, member, service) {
            Ok(()) => Ok(None),
            Err(seen) => {
                Err(why.map_or(seen.clone(), |why| format!("{seen}; the hub says: {why}")))
            }
        })
    }
}

fn is_ready(slice: &EndpointSlice) -> bool {
    let endpoints = slice.endpoints.iter().flatten();
    let mut conditions = endpoints.map(|endpoint| endpoint.conditions.as_ref());
    // Where nothing is said it is ready.
    conditions.any(|said| said.and_then(|said| said.ready).unwrap_or(true))
}

/// Whether the proxy can send new sessions to a member, by each port of the service that it has there.
fn serves(page: &Value, member: &str, service: &ServiceName) -> Result<(), String> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let prefix = format!("{service}:");
    let mut ports = 0;
    for port in list(page, "services") {
        let name = port["name"].as_str().unwrap_or_default();
        if !name.starts_with(&prefix) {
            continue;
        }
        let members = list(&port, "tiers").into_iter();
        let mut members = members.flat_map(|tier| list(&tier, "members"));
        let Some(found) = members.find(|row| row["name"] == member) else {
            continue;
        };
        ports += 1;
        let endpoints = list(&found, "endpoints");
        if !endpoints.iter().any(|row| row["state"] == "usable") {
            let first = endpoints.first().map(|row| row["reason"].to_string());
            let first = first.unwrap_or_else(|| "it has none there".to_owned());
            return Err(format!("the proxy can use no endpoint of {name}: {first}"));
        }
    }
    match ports {
        0 => Err("the proxy does not know of it yet".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(name: &str, member: &str, states: &[&str]) -> Value {
        let endpoint = |state: &&str| json!({ "state": state, "reason": "refused" });
        let endpoints: Vec<Value> = states.iter().map(endpoint).collect();
        let members = [json!({ "name": member, "endpoints": endpoints })];
        json!({ "name": name, "tiers": [ { "members": [] }, { "members": members } ] })
    }

    #[test]
    fn a_member_serves_once_each_port_that_it_has_is_usable_at_the_proxy() {
        let service = ServiceName::sample();
        let line = |states: &[&str]| port("demo/echo:line", "m", states);
        let others = [
            port("demo/echo:line", "other", &["usable"]),
            port("demo/echoes:line", "m", &["usable"]),
        ];
        let page = |ports: &[Value]| {
            let all = [&others, ports].concat();
            json!({ "services": all })
        };
        let serves = |ports: &[Value]| serves(&page(ports), "m", &service);
        assert_eq!(
            serves(&[]),
            Err("the proxy does not know of it yet".to_owned())
        );
        assert!(serves(&[line(&[])]).unwrap_err().contains("has none there"));
        let failing = serves(&[line(&["probes-fail", "removed"])]).unwrap_err();
        assert!(
            failing.contains("demo/echo:line") && failing.contains("refused"),
            "{failing}"
        );
        assert_eq!(serves(&[line(&["probes-fail", "usable"])]), Ok(()));
        let datagram = port("demo/echo:datagram", "m", &["not-ready"]);
        assert!(serves(&[line(&["usable"]), datagram]).is_err());
    }
}
