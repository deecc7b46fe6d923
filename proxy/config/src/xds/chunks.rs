//! Endpoints cut into small resources, so that a change of one costs the same however many there are.
//!
//! A `ClusterLoadAssignment` holds every endpoint of a service: one that changes brings all of them
//! again, to each proxy. A client that asks for [`LbEndpointList`]s is told otherwise: the assignment
//! names a collection for each locality (`leds_cluster_locality_config`, as xDS has it for this very
//! end), and the collection's resources come one by one, a *chunk* each. Whoever does not ask for
//! chunks, an Envoy or an older proxy, gets the assignment with everything in it, as before.
//!
//! Why chunks and not one resource an endpoint, as LEDS would have it: name, hash and stamp of a
//! resource are as large as five endpoints, and a fleet has 100,000 endpoints. Why not one
//! resource a member: a member may have a thousand endpoints of a service. Chunks are cut by
//! content: an endpoint whose hash ends in [`OPENING_BITS`] zeros opens one. So
//! cutting needs no memory, replicas cut alike, and a change of one endpoint touches one chunk, or two
//! where it opened one. A chunk has 4 endpoints in the mean and is named
//! `namespace/name:port/member/opener`; the first one of a member has no opener.
//!
//! Rules that a client lives by: chunks come before the assignment that names their collection, and go
//! with it, without being told to. A chunk that goes alone is told as an empty one ([`gone`]): it carries a
//! stamp, so that a replica that is behind cannot take endpoints away which it has not seen yet.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    endpoints::{self, lb_endpoint},
    envelope::{Stamp, seal},
    policy::ads,
    proto::{
        Typed,
        discovery::Resource,
        endpoint::{
            ClusterLoadAssignment, LbEndpoint, LbEndpointList, LedsClusterLocalityConfig,
            LocalityLbEndpoints,
        },
        unpack,
    },
};
use crate::{
    endpoint::{Endpoint, Target},
    name::{MemberName, ServiceName},
    service::Service,
    snapshot::Endpoints,
    yaml::metadata::Fault,
};

/// The assignment of a service without its endpoints: each locality names its collection.
pub fn outline(service: &Service) -> ClusterLoadAssignment {
    let mut outline = endpoints::assignment(service, &Endpoints::new());
    let members = service.tiers.iter().flat_map(|tier| &tier.members);
    for (locality, member) in outline.endpoints.iter_mut().zip(members) {
        locality.leds_cluster_locality_config = Some(LedsClusterLocalityConfig {
            leds_config: Some(ads()),
            leds_collection_name: collection(service.name.as_str(), &member.name),
        });
    }
    outline
}

/// A member's endpoints of a service, in order, cut into chunks.
pub fn cut(rows: &[Arc<Endpoint>]) -> impl Iterator<Item = &[Arc<Endpoint>]> {
    rows.chunk_by(|_, next| !opens(&next.key.target))
}

/// What a chunk that [`cut`] made is named.
pub fn name(service: &ServiceName, chunk: &[Arc<Endpoint>]) -> Option<String> {
    let first = &chunk.first()?.key;
    let member = &first.member;
    Some(match opens(&first.target) {
        true => format!("{service}/{member}/{}", first.target),
        false => format!("{service}/{member}/"),
    })
}

/// A chunk as a message.
pub fn message(chunk: &[Arc<Endpoint>]) -> LbEndpointList {
    LbEndpointList {
        lb_endpoints: chunk.iter().map(|row| lb_endpoint(row)).collect(),
    }
}

/// How a chunk that is no more is told.
pub fn gone(name: &str, stamp: &Stamp) -> Resource {
    seal(name, &LbEndpointList::default(), stamp)
}

/// Whether that is what a chunk says.
pub fn is_gone(chunk: &Resource) -> bool {
    let any = chunk.resource.as_ref();
    any.is_some_and(|any| any.type_url == URL && any.value.is_empty())
}

/// The assignment that a chunk belongs to, and the member.
pub fn parts(chunk: &str) -> Option<(&str, &str)> {
    let (namespace, _) = chunk.split_once('/')?;
    let (service, _) = chunk[namespace.len() + 1..].split_once('/')?;
    let end = namespace.len() + 1 + service.len();
    let (member, _) = chunk[end + 1..].split_once('/')?;
    Some((&chunk[..end], member))
}

/// What the names of an assignment's chunks begin with.
pub fn prefix(assignment: &str) -> String {
    format!("{assignment}/")
}

/// An assignment with all its endpoints in it, from its outline and its chunks; `None` where it is
/// whole already, or can't be read. O(endpoints).
pub fn whole<'c>(
    outline: &Resource,
    chunks: impl Iterator<Item = &'c Resource>,
) -> Option<ClusterLoadAssignment> {
    let mut message: ClusterLoadAssignment = unpack(outline.resource.as_ref()?).ok()?;
    if !message.endpoints.iter().any(is_collection) {
        return None;
    }
    let mut by_member: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for chunk in chunks {
        let list = chunk.resource.as_ref().map(unpack::<LbEndpointList>);
        if let (Some((_, member)), Some(Ok(list))) = (parts(&chunk.name), list) {
            let rows = by_member.entry(member).or_default();
            rows.extend(list.lb_endpoints);
        }
    }
    for locality in &mut message.endpoints {
        if locality.leds_cluster_locality_config.take().is_some() {
            let member = locality.locality.as_ref().map(|it| it.region.as_str());
            let rows = by_member.remove(member.unwrap_or_default());
            locality.lb_endpoints.extend(rows.unwrap_or_default());
        }
    }
    Some(message)
}

/// The endpoints of a chunk.
pub(super) fn read(resource: &Resource) -> Result<(&str, MemberName, Vec<Endpoint>), Vec<Fault>> {
    let whole = |message: String| vec![(String::new(), message)];
    let any = resource.resource.as_ref();
    let any = any.ok_or_else(|| whole("has no content".to_owned()))?;
    let (assignment, member) = parts(&resource.name)
        .and_then(|(assignment, member)| Some((assignment, MemberName::parse(member).ok()?)))
        .ok_or_else(|| whole("is not named namespace/name:port/member/first".to_owned()))?;
    let list: LbEndpointList = unpack(any).map_err(whole)?;
    let rows = endpoints::read_list(&member, &list.lb_endpoints)?;
    Ok((assignment, member, rows))
}

/// Whether a locality of an assignment is told by chunks; the error says that they are not ours.
pub(super) fn follows(
    assignment: &str,
    member: &MemberName,
    locality: &LocalityLbEndpoints,
) -> Result<bool, String> {
    let Some(config) = &locality.leds_cluster_locality_config else {
        return Ok(false);
    };
    let expected = collection(assignment, member);
    if config.leds_collection_name == expected {
        return Ok(true);
    }
    let given = &config.leds_collection_name;
    Err(format!(
        "has its endpoints in the collection {given:?}, which is not followed here; only {expected:?} would be"
    ))
}

/// The type URL of chunks.
pub const URL: &str = LbEndpointList::URL;

fn collection(assignment: &str, member: &MemberName) -> String {
    format!("{assignment}/{member}/*")
}

fn is_collection(locality: &LocalityLbEndpoints) -> bool {
    locality.leds_cluster_locality_config.is_some()
}

/// FNV-1a over address and port, stirred so that neighbours differ in every bit; the same in every
/// process and release.
fn opens(target: &Target) -> bool {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match target {
        Target::Addr(addr) => {
            match addr.ip() {
                std::net::IpAddr::V4(ip) => take(&ip.octets()),
                std::net::IpAddr::V6(ip) => take(&ip.octets()),
            }
            take(&addr.port().to_be_bytes());
        }
        Target::Dns { host, port } => {
            take(host.as_bytes());
            take(&port.to_be_bytes());
        }
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32).trailing_zeros() >= OPENING_BITS
}

/// One endpoint in four opens a chunk. The chunk that a given endpoint is in has twice the mean: seven,
/// which with their zones are less than a KiB.
const OPENING_BITS: u32 = 2;

#[cfg(test)]
mod tests;
