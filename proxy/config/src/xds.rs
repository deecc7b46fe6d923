//! The tables as xDS v3 resources, and back.
//!
//! | row | resource |
//! |---|---|
//! | service: policy | `Cluster` of the same name |
//! | service: tiers, members, weights; its endpoints | `ClusterLoadAssignment` (priority = tier, locality = member); inside the `Cluster` when one of the endpoints is a DNS name |
//! | the endpoints of a service, for clients that ask for them apart | `LbEndpointList`, see [`chunks`] |
//! | frontends of one protocol, address and ports | `Listener`, a filter chain each |
//!
//! What the published messages have no field for rides in
//! `metadata.filter_metadata["fairlead.dev"]`, under the keys of the file; it is written only where
//! the fields alone would say something else, and wins where it stands. So an Envoy takes what we
//! publish, and our proxy takes what others publish.
//!
//! Order (make before break): clusters, chunks, assignments, listeners; removals the other way round.
//! A [`decoder::Decoder`] holds a service back until its assignment has come, so that no frontend
//! binds before there is somewhere to go.
//!
//! What has no equal: an Envoy without our code ignores `allow` and `from` lists on UDP and PROXY
//! protocol, ports of a range beyond the first [`listeners::ADDITIONAL_MAX`], UDP probes, hedging,
//! and `noFallback`, `minHealthy`, drain deadlines.

pub mod chunks;
pub mod decoder;
pub mod endpoints;
pub mod envelope;
pub mod intake;
pub mod listeners;
pub mod policy;
pub mod proto;
pub mod saved;
pub mod service;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use prost_types::{Struct, Value, value::Kind};

use crate::snapshot::{Endpoints, Snapshot};
use envelope::Stamp;
use proto::{core::Metadata, discovery::Resource};
pub use types::Type;

/// All resources of a snapshot, in the order in which they must be sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// One a service.
    pub clusters: Vec<Resource>,
    /// One a service, except for those with DNS endpoints.
    pub assignments: Vec<Resource>,
    /// One for each protocol, address and range of ports.
    pub listeners: Vec<Resource>,
}

/// Encodes a snapshot. Costs one message per row; whoever distributes changes encodes the touched
/// rows with [`policy::cluster`], [`endpoints::assignment`] and [`listeners::listener`].
pub fn encode(snapshot: &Snapshot, stamp: &Stamp) -> Resources {
    let mut resources = Resources::default();
    let none = Endpoints::new();
    for (name, service) in &snapshot.services {
        let rows = snapshot.endpoints.get(name).map_or(&none, |rows| rows);
        let cluster = policy::cluster(service, rows);
        resources
            .clusters
            .push(envelope::seal(name.as_str(), &cluster, stamp));
        if cluster.load_assignment.is_none() {
            let assignment = endpoints::assignment(service, rows);
            resources
                .assignments
                .push(envelope::seal(name.as_str(), &assignment, stamp));
        }
    }
    let mut groups: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for frontend in snapshot.frontends.values() {
        let name = listeners::listener_name(frontend);
        groups.entry(name).or_default().push(&**frontend);
    }
    for (name, frontends) in groups {
        let service = |frontend: &crate::frontend::Frontend| {
            let service = snapshot.services.get(&frontend.service);
            service.map(|service| &service.policy)
        };
        if let Some(listener) = listeners::listener(&name, &frontends, service) {
            resources
                .listeners
                .push(envelope::seal(&name, &listener, stamp));
        }
    }
    resources
}

/// Our own key in `filter_metadata`.
pub const METADATA_KEY: &str = "fairlead.dev";

/// Our part of a resource's metadata.
pub(crate) fn ours(metadata: Option<&Metadata>) -> Option<&Struct> {
    metadata?.filter_metadata.get(METADATA_KEY)
}

/// Metadata with our part only; none when it is empty.
pub(crate) fn metadata(ours: Struct) -> Option<Metadata> {
    if ours.fields.is_empty() {
        return None;
    }
    Some(Metadata {
        filter_metadata: BTreeMap::from([(METADATA_KEY.to_owned(), ours)]),
        typed_filter_metadata: BTreeMap::new(),
    })
}

pub(crate) fn text(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

/// The text at `key`.
pub(crate) fn text_at<'s>(values: &'s Struct, key: &str) -> Option<&'s str> {
    match values.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
