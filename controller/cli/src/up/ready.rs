//! The ready file, and what is printed once all is serving.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;
use serde::Serialize;

use super::{
    hub::{Endpoint, Hub},
    members::Members,
    objects::ServiceName,
    proxy::Proxy,
};

/// Where everything is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ready {
    #[serde(flatten)]
    first: Service,
    /// Where there are more than the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Service>,
    hub: Cluster,
    members: Vec<Member>,
    proxy_admin: String,
}

#[derive(Serialize)]
struct Service {
    service: String,
    endpoint: Addresses,
}

/// A service without a port of a protocol has no address of it.
#[derive(Serialize)]
struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<String>,
}

#[derive(Serialize)]
struct Cluster {
    kubeconfig: String,
}

#[derive(Serialize)]
struct Member {
    name: String,
    kubeconfig: String,
    pid: u32,
}

impl Ready {
    /// `services` has one at least.
    pub(super) fn new(
        hub: &Hub,
        members: &Members,
        proxy: &Proxy,
        services: &[(ServiceName, Endpoint)],
    ) -> anyhow::Result<Self> {
        let members = members.iter().map(|member| Member {
            name: member.name.clone(),
            kubeconfig: member.kubeconfig.display().to_string(),
            pid: member.pid,
        });
        let mut services = services.iter().map(|(name, endpoint)| Service {
            service: name.to_string(),
            endpoint: Addresses {
                tcp: endpoint.tcp.map(|addr| addr.to_string()),
                udp: endpoint.udp.map(|addr| addr.to_string()),
            },
        });
        Ok(Self {
            first: services.next().context("nothing is exported")?,
            more: services.collect(),
            hub: Cluster {
                kubeconfig: hub.cluster.kubeconfig.display().to_string(),
            },
            members: members.collect(),
            proxy_admin: format!("http://{}", proxy.admin),
        })
    }

    /// Whole or not at all: who waits for the file may read it at once.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let part = path.with_extension("part");
        std::fs::write(&part, serde_json::to_string_pretty(self)? + "\n")
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people: where everything is, and what to try.
    pub(super) fn text(&self, folder: &Path) -> String {
        let mut out = String::new();
        for one in std::iter::once(&self.first).chain(&self.more) {
            let _ = writeln!(
                out,
                "{} is served at one address by {} members:\n",
                one.service,
                self.members.len(),
            );
            for (protocol, addr) in [("TCP", &one.endpoint.tcp), ("UDP", &one.endpoint.udp)] {
                if let Some(addr) = addr {
                    let _ = writeln!(out, "  {protocol}  {addr}");
                }
            }
            out.push('\n');
        }
        let width = self.members.iter().map(|member| member.name.len()).max();
        let width = width.unwrap_or_default().max("cluster".len());
        let _ = writeln!(out, "  {:<width$} {:>8}  kubeconfig", "cluster", "pid");
        let _ = writeln!(
            out,
            "  {:<width$} {:>8}  {}",
            "hub", "-", self.hub.kubeconfig
        );
        for Member {
            name,
            pid,
            kubeconfig,
        } in &self.members
        {
            let _ = writeln!(out, "  {name:<width$} {pid:>8}  {kubeconfig}");
        }
        let admin = &self.proxy_admin;
        let _ = writeln!(out, "\n  proxy      {admin}/services  {admin}/metrics");
        let _ = writeln!(out, "  logs       {}", folder.join("logs").display());
        out.push_str(&self.next_steps());
        out
    }

    fn next_steps(&self) -> String {
        let hub = &self.hub.kubeconfig;
        let Some(member) = self.members.first() else {
            return String::new();
        };
        let Member {
            name,
            pid,
            kubeconfig,
        } = member;
        let me = std::env::args().next();
        let me = me.unwrap_or_else(|| "fairlead".to_owned());
        let watch = self.first.endpoint.tcp.as_deref().and_then(|tcp| {
            let (ip, port) = tcp.rsplit_once(':')?;
            Some(format!(
                "  while sleep 0.2; do echo hello | nc -N {ip} {port}; done\n"
            ))
        });
        let watch = watch.unwrap_or_default();
        let (namespace, service) = self.first.service.split_once('/').unwrap_or_default();
        format!(
            "\nTry, in another terminal:\n\n{watch}\
             \x20 export KUBECONFIG={hub}\n\
             \x20 {me} status\n\
             \x20 {me} explain service {namespace}/{service}\n\
             \x20 {me} drain {name}; {me} undrain {name}\n\
             \x20 kubectl get memberclusters,multiclusterservices,proxygroups -A\n\
             \x20 kubectl --kubeconfig {kubeconfig} annotate -n {namespace} serviceexport {service} fairlead.dev/weight=10\n\
             \x20 kill -9 {pid}\n\n\
             Here: `blackhole {name}`, `heal {name}`, `restart hub`; Ctrl-C ends the fleet.\n\n",
        )
    }
}
