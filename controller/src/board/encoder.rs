//! Services and their endpoints as resources, encoding only what changed.
//!
//! An assignment is mostly the endpoints of members that did not change. The bytes of each member
//! are kept, and those of an assignment put together from them: a change of one endpoint costs the
//! encoding of one member, a comparison of pointers and a hash over the whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_config::{
    endpoint::Endpoint,
    name::{MemberName, ServiceName},
    service::{Member, MemberWeight, Service, Tier},
    snapshot::Endpoints,
    xds::{
        endpoints,
        envelope::{Stamp, content_hash, seal},
        policy,
        proto::{Any, Typed, endpoint::ClusterLoadAssignment},
    },
};
use prost::Message;

use super::Resource;

/// Encodes a row once for all groups that share it.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    stamp: Stamp,
    /// Of this round: what was encoded, with what it was encoded from, so that no address is taken
    /// for another's.
    round: Vec<(Arc<Service>, Arc<Endpoints>, Encoded)>,
    members: BTreeMap<ServiceName, BTreeMap<(MemberName, usize), Kept>>,
}

type Encoded = (Resource, Option<Resource>);

/// A member's part of an assignment.
#[derive(Debug)]
struct Kept {
    weight: MemberWeight,
    rows: Vec<Arc<Endpoint>>,
    bytes: Vec<u8>,
}

impl Encoder {
    /// Starts a round: one plan.
    pub(super) fn start(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.round.clear();
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Forgets the members of a service that is gone.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.members.remove(service);
    }

    /// The Cluster and the assignment of a service; no assignment where it is inside the Cluster.
    pub(super) fn service(&mut self, service: &Arc<Service>, rows: &Arc<Endpoints>) -> Encoded {
        let mut round = self.round.iter();
        let found =
            round.find(|(one, other, _)| Arc::ptr_eq(one, service) && Arc::ptr_eq(other, rows));
        if let Some((.., encoded)) = found {
            return encoded.clone();
        }
        let cluster = policy::cluster(service, rows);
        let assignment = match cluster.load_assignment.is_none() {
            true => Some(self.assignment(service, rows)),
            false => None,
        };
        let cluster = seal(service.name.as_str(), &cluster, &self.stamp).into();
        let encoded: Encoded = (cluster, assignment);
        self.round
            .push((Arc::clone(service), Arc::clone(rows), encoded.clone()));
        encoded
    }

    fn assignment(&mut self, service: &Service, rows: &Endpoints) -> Resource {
        let frame = Service {
            tiers: Vec::new(),
            ..service.clone()
        };
        let mut value = endpoints::assignment(&frame, rows).encode_to_vec();
        let kept = self.members.entry(service.name.clone()).or_default();
        let mut present = BTreeSet::new();
        for (at, tier) in service.tiers.iter().enumerate() {
            for member in &tier.members {
                let theirs = rows.of_member(&member.name);
                let slot = (member.name.clone(), at);
                if !kept
                    .get(&slot)
                    .is_some_and(|kept| kept.is_of(member, theirs))
                {
                    let fresh = Kept::encode(&frame, member, at, rows, theirs);
                    kept.insert(slot.clone(), fresh);
                }
                value.extend_from_slice(&kept[&slot].bytes);
                present.insert(member.name.clone());
            }
        }
        kept.retain(|(member, _), _| present.contains(member));
        let any = Any {
            type_url: ClusterLoadAssignment::URL.to_owned(),
            value,
        };
        let name = service.name.as_str();
        let mut resource = seal(name, &ClusterLoadAssignment::default(), &self.stamp);
        resource.version = content_hash(&any);
        resource.resource = Some(any);
        resource.into()
    }
}

impl Kept {
    fn is_of(&self, member: &Member, rows: &[Arc<Endpoint>]) -> bool {
        let same =
            |(old, new): (&Arc<Endpoint>, &Arc<Endpoint>)| Arc::ptr_eq(old, new) || old == new;
        self.weight == member.weight
            && self.rows.len() == rows.len()
            && self.rows.iter().zip(rows).all(same)
    }

    /// The bytes of the one repeated field that a member is, tag included: a message may be cut
    /// between fields and put together again.
    fn encode(
        frame: &Service,
        member: &Member,
        tier: usize,
        rows: &Endpoints,
        theirs: &[Arc<Endpoint>],
    ) -> Self {
        let mut tiers = vec![Tier::default(); tier];
        tiers.push(Tier {
            members: vec![member.clone()],
        });
        let alone = Service {
            tiers,
            ..frame.clone()
        };
        let message = ClusterLoadAssignment {
            endpoints: endpoints::assignment(&alone, rows).endpoints,
            ..ClusterLoadAssignment::default()
        };
        Self {
            weight: member.weight,
            rows: theirs.to_vec(),
            bytes: message.encode_to_vec(),
        }
    }
}
