//! What a follower hands on of its proxies, as messages, and how the leader takes them.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::proxy::Refusal;
use fairlead_config::{
    name::{MemberName, ServiceName},
    xds::{
        endpoints::member_locality,
        proto::{
            core::{Address, AddressKind, Node, Port, SocketAddress},
            fairlead::Verdict,
            load_stats::{
                ClusterStats, Handed, HandedRefusal, HandedReport, LoadStatsRequest,
                UpstreamLocalityStats,
            },
        },
    },
};
use fairlead_runtime::clock::Tick;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Fleet, Proxy, ProxyId};

/// The proxies that one replica hands on, as its leader counts them.
#[derive(Debug, Default)]
pub struct Source {
    connected: BTreeSet<ProxyId>,
}

impl Fleet {
    /// A proxy without its report: that it is connected (here), and what it made of its updates.
    pub fn handed(&self, id: &ProxyId, connected: bool) -> LoadStatsRequest {
        let proxy = self.proxies.get(id);
        let refused = proxy.into_iter().flat_map(|proxy| &proxy.refused);
        let handed = Handed {
            connected,
            version: proxy.map_or_else(String::new, |proxy| proxy.version.clone()),
            applied: proxy.and_then(|proxy| proxy.applied.clone()),
            settled: proxy.is_some_and(|proxy| proxy.settled),
            refused: refused
                .map(|one| HandedRefusal {
                    resource: one.resource.clone(),
                    reason: one.reason.clone(),
                })
                .collect(),
            report: HandedReport::None.into(),
        };
        LoadStatsRequest {
            node: Some(Node {
                id: id.node.clone(),
                cluster: id.group.clone(),
                ..Node::default()
            }),
            handed: Some(handed),
            ..LoadStatsRequest::default()
        }
    }

    /// A proxy with all that it has reported, if it has.
    pub fn handed_whole(&self, id: &ProxyId, connected: bool) -> LoadStatsRequest {
        let mut message = self.handed(id, connected);
        let Some(proxy) = self.proxies.get(id).filter(|one| one.reported.is_some()) else {
            return message;
        };
        if let Some(handed) = &mut message.handed {
            handed.report = HandedReport::Whole.into();
        }
        message.proxy = Some(proxy.state.clone());
        message.cluster_stats = proxy.stats();
        message.verdicts = proxy.verdicts().collect();
        message
    }

    /// Takes what a follower handed on.
    pub fn take_handed(
        &mut self,
        source: &mut Source,
        message: &LoadStatsRequest,
        now: Tick,
        time: &Time,
    ) {
        let (Some(node), Some(handed)) = (&message.node, &message.handed) else {
            return;
        };
        let id = ProxyId {
            group: node.cluster.clone(),
            node: node.id.clone(),
        };
        if handed.connected && source.connected.insert(id.clone()) {
            self.connected(&id, &handed.version);
        }
        let refused = handed.refused.iter().map(|one| Refusal {
            resource: one.resource.clone(),
            reason: one.reason.clone(),
        });
        if handed.connected {
            let refused = refused.collect();
            self.answered(&id, handed.applied.as_deref(), handed.settled, refused);
        }
        match handed.report() {
            HandedReport::None => {}
            kind => self.reported(&id, message, kind == HandedReport::Whole, now, time),
        }
        if !handed.connected && source.connected.remove(&id) {
            self.disconnected(&id, now);
        }
    }

    /// The follower hands on no more: what it had connected is not, as far as is known.
    pub fn end_handed(&mut self, source: Source, now: Tick) {
        for id in source.connected {
            self.disconnected(&id, now);
        }
    }
}

impl Proxy {
    fn stats(&self) -> Vec<ClusterStats> {
        let mut by_service: BTreeMap<&ServiceName, Vec<(&MemberName, u64)>> = BTreeMap::new();
        for ((service, member), active) in self.sessions.values().flatten() {
            by_service
                .entry(service)
                .or_default()
                .push((member, *active));
        }
        let all = by_service.into_iter().map(|(service, members)| {
            let stats = members
                .into_iter()
                .map(|(member, active)| UpstreamLocalityStats {
                    locality: Some(member_locality(member)),
                    total_active_connections: active,
                    ..UpstreamLocalityStats::default()
                });
            ClusterStats {
                cluster_name: service.to_string(),
                upstream_locality_stats: stats.collect(),
                ..ClusterStats::default()
            }
        });
        all.collect()
    }

    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        let all = self.verdicts.values().flatten();
        all.filter_map(|((service, member, address), (kind, reason))| {
            let (host, port) = address.rsplit_once(':')?;
            let port = match port.parse() {
                Ok(number) => Port::Value(number),
                Err(_) => Port::Named(port.to_owned()),
            };
            let socket = SocketAddress {
                address: host.to_owned(),
                port: Some(port),
                ..SocketAddress::default()
            };
            Some(Verdict {
                service: service.to_string(),
                member: member.to_string(),
                address: Some(Address {
                    address: Some(AddressKind::Socket(socket)),
                }),
                kind: (*kind).into(),
                reason: reason.clone(),
                since_unix_millis: 0,
            })
        })
    }
}
