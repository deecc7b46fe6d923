//! What was learned about endpoints, on its way to the process that takes over: verdicts, connect
//! times, slow starts and the clocks of returning tiers. Times travel as spans before or after now,
//! since two processes share no clock.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use fairlead_config::name::ServiceName;
use fairlead_runtime::clock::Tick;
use serde::{Deserialize, Serialize};

use super::Directory;
use crate::{
    balancer::{
        hash::{self, Identity},
        tiers::LearnedHold,
    },
    health::passive::LearnedEjection,
    registry::EndpointState,
};

/// What was learned about a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Learned {
    /// Its name.
    pub service: String,
    /// How long its tiers are held back, in order.
    #[serde(default)]
    pub holds: Vec<LearnedHold>,
    /// The members that anybody connected to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<LearnedMember>,
    /// The endpoints of which anything was learned.
    #[serde(default)]
    pub endpoints: Vec<LearnedEndpoint>,
}

/// What was learned about a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedMember {
    /// Its name.
    pub member: String,
    /// How long connects to it took: numbers of a bucket, and how many it has.
    pub connects: Vec<(u8, u32)>,
}

/// What was learned about an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedEndpoint {
    /// Its member.
    pub member: String,
    /// Its address.
    pub addr: SocketAddr,
    /// Its smoothed connect time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_micros: Option<u64>,
    /// How long its slow start runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramping_millis: Option<u64>,
    /// What its probes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_good: Option<bool>,
    /// Where they are bad: whether nobody is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Its ejection, or its last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<LearnedEjection>,
}

impl Directory {
    /// Everything that was learned, a service at a time; endpoints of which nothing was are left
    /// out.
    pub fn learned(&self, now: Tick) -> impl Iterator<Item = Learned> {
        self.served.values().filter_map(move |served| {
            let row = self.registry.service(&served.service.name)?;
            let entries = row.members.iter().flat_map(|member| &*member.endpoints);
            let endpoints = entries.filter_map(|entry| {
                let state = &entry.state;
                let ramping = served.ramping.get(&state.id);
                let learned = LearnedEndpoint {
                    member: state.member.name.to_string(),
                    addr: state.addr,
                    connect_micros: state.connect_time().map(micros),
                    ramping_millis: ramping.map(|(_, since)| millis(now - *since)),
                    probed_good: self.probes.verdict(state.id),
                    gone: self.probes.is_gone(state.id),
                    ejection: served.ejections.learned(state.id, now),
                };
                learned.says_anything().then_some(learned)
            });
            let members = row.members.iter().filter_map(|member| {
                Some(LearnedMember {
                    member: member.state.name.to_string(),
                    connects: member.state.times()?.samples(),
                })
            });
            let learned = Learned {
                service: served.service.name.to_string(),
                holds: served.holds.learned(now),
                members: members.collect(),
                endpoints: endpoints.collect(),
            };
            learned.says_anything().then_some(learned)
        })
    }

    /// Takes over what an earlier process learned, where service and endpoint are still there.
    pub fn learn(&mut self, learned: &Learned, now: Tick) {
        let Ok(name) = ServiceName::parse(&learned.service) else {
            return;
        };
        let Some(row) = self.registry.service(&name) else {
            return;
        };
        let id = row.state.id;
        let entries = row.members.iter().flat_map(|member| &*member.endpoints);
        let known: HashMap<(Identity, SocketAddr), Arc<EndpointState>> = entries
            .map(|entry| {
                (
                    (entry.state.member.identity, entry.state.addr),
                    entry.state.clone(),
                )
            })
            .collect();
        for learned in &learned.members {
            let identity = hash::member(&learned.member);
            let mut members = row.members.iter();
            if let Some(member) = members.find(|member| member.state.identity == identity) {
                member.state.restore_times(&learned.connects);
            }
        }
        for learned in &learned.endpoints {
            let Some(state) = known.get(&(hash::member(&learned.member), learned.addr)) else {
                continue;
            };
            if let Some(micros) = learned.connect_micros {
                state.restore_connect_time(Duration::from_micros(micros));
            }
            if let Some(good) = learned.probed_good {
                self.probes.restore(state, good, learned.gone);
                self.set_probed(state, now);
            }
            if let (Some(served), Some(ejection)) = (self.served.get_mut(&id), &learned.ejection) {
                served.ejections.restore(state, ejection, now);
            }
            if let Some(millis) = learned.ramping_millis {
                self.ramp(id, state, before(now, millis));
            }
        }
        if let Some(served) = self.served.get_mut(&id) {
            served.holds.restore(&learned.holds, now);
        }
        self.dirty.insert(id);
        self.flush(now);
    }
}

impl Learned {
    fn says_anything(&self) -> bool {
        !(self.endpoints.is_empty() && self.holds.is_empty() && self.members.is_empty())
    }
}

impl LearnedEndpoint {
    fn says_anything(&self) -> bool {
        self.connect_micros.is_some()
            || self.ramping_millis.is_some()
            || self.probed_good.is_some()
            || self.ejection.is_some()
    }
}

/// `millis` before `now`.
pub(crate) fn before(now: Tick, millis: u64) -> Tick {
    let span = Tick::from_start(Duration::from_millis(millis));
    Tick(now.0.saturating_sub(span.0))
}

/// A span in milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
