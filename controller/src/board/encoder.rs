//! Services as resources, encoded once for all groups that share them.

use std::sync::Arc;

use fairlead_config::{
    service::Service,
    snapshot::Endpoints,
    xds::{
        chunks,
        envelope::{Stamp, seal},
        policy,
    },
};

use super::Resource;

/// Encodes a row once for all groups that share it.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    stamp: Stamp,
    /// Of this round: what was encoded, with what it was encoded from, so that no address is taken
    /// for another's.
    round: Vec<(Arc<Service>, Arc<Endpoints>, Encoded)>,
}

/// The Cluster and the outline of the assignment of a service; no outline where its endpoints are
/// inside the Cluster.
pub(super) type Encoded = (Resource, Option<Resource>);

impl Encoder {
    /// Starts a round: one plan.
    pub(super) fn start(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.round.clear();
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    pub(super) fn service(&mut self, service: &Arc<Service>, rows: &Arc<Endpoints>) -> Encoded {
        let mut round = self.round.iter();
        let found =
            round.find(|(one, other, _)| Arc::ptr_eq(one, service) && Arc::ptr_eq(other, rows));
        if let Some((.., encoded)) = found {
            return encoded.clone();
        }
        let name = service.name.as_str();
        let cluster = policy::cluster(service, rows);
        let outline = cluster.load_assignment.is_none().then(|| {
            let outline = chunks::outline(service);
            seal(name, &outline, &self.stamp).into()
        });
        let encoded: Encoded = (seal(name, &cluster, &self.stamp).into(), outline);
        self.round
            .push((Arc::clone(service), Arc::clone(rows), encoded.clone()));
        encoded
    }
}
