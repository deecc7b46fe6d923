//! What is really so: clusters, their endpoints, and who reaches whom.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fairlead_config::name::MemberName;
use fairlead_runtime::clock::Tick;
use serde_json::json;

/// A cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) name: MemberName,
    /// Of its slice.
    pub(crate) version: u64,
    /// Its endpoints, by address.
    pub(crate) endpoints: BTreeMap<Ipv4Addr, Endpoint>,
    /// Whether its own API server answers its agent.
    pub(crate) api: bool,
    /// Whether its agent reaches the hub's API server.
    pub(crate) link: bool,
    /// Whether each proxy reaches its endpoints.
    pub(crate) reachable: Vec<bool>,
}

/// A server.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) alive: bool,
    /// Whether its cluster's slice has it.
    pub(crate) listed: bool,
    /// Since when its agent has had told the hub that it was listed, or unlisted, last.
    pub(crate) told: Option<Tick>,
    /// Since when each proxy gets answers, or gets none.
    pub(crate) since: Vec<(bool, Tick)>,
}

impl Cluster {
    pub(crate) fn new(number: u8, endpoints: u8, proxies: usize) -> Self {
        let endpoint = |index| {
            let endpoint = Endpoint {
                alive: true,
                listed: true,
                told: Some(Tick::ZERO),
                since: vec![(true, Tick::ZERO); proxies],
            };
            (Ipv4Addr::new(10, 0, number, index + 1), endpoint)
        };
        Self {
            name: MemberName::parse(&format!("m{number}")).unwrap(),
            version: 1,
            endpoints: (0..endpoints).map(endpoint).collect(),
            api: true,
            link: true,
            reachable: vec![true; proxies],
        }
    }

    /// Brings up to date since when each proxy gets answers.
    pub(crate) fn look(&mut self, now: Tick) {
        for endpoint in self.endpoints.values_mut() {
            for (proxy, since) in endpoint.since.iter_mut().enumerate() {
                let answers = endpoint.alive && self.reachable[proxy];
                if since.0 != answers {
                    *since = (answers, now);
                }
            }
        }
    }

    /// The slice as its own API server has it.
    pub(crate) fn slice(&self) -> k8s_openapi::api::discovery::v1::EndpointSlice {
        let listed = self.endpoints.iter().filter(|(_, one)| one.listed);
        let endpoints = listed.map(
            |(ip, _)| json!({ "addresses": [ip.to_string()], "conditions": { "ready": true } }),
        );
        from(json!({
            "metadata": {
                "name": "web-1",
                "namespace": "shop",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [
                { "name": "http", "protocol": "TCP", "port": PORT },
                { "name": "dns", "protocol": "UDP", "port": DATAGRAM_PORT },
            ],
        }))
    }
}

impl Endpoint {
    /// Whether a proxy has had answers from it for this long.
    pub(crate) fn good_for(&self, proxy: usize, now: Tick) -> Option<Duration> {
        let (answers, since) = self.since[proxy];
        answers.then(|| now.since(since))
    }

    /// Whether a proxy has had none for this long.
    pub(crate) fn dead_for(&self, proxy: usize, now: Tick) -> Option<Duration> {
        let (answers, since) = self.since[proxy];
        (!answers).then(|| now.since(since))
    }
}

/// An object from its JSON.
pub(crate) fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// The addresses of an endpoint, as proxies know it.
pub(crate) fn addrs(ip: Ipv4Addr) -> [SocketAddr; 2] {
    [(ip, PORT).into(), (ip, DATAGRAM_PORT).into()]
}

const PORT: u16 = 8080;
/// Nothing probes it: what the probes of the other port say holds for it, too.
const DATAGRAM_PORT: u16 = 5353;
