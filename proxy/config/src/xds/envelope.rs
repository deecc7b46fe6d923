//! The envelope of a resource: its name, the hash of its content, and from when it is.
//!
//! `version` is the hash, so a server can skip what a client says it has, and two replicas that
//! decided the same send the same. `asOf` and `epoch` ride in the envelope's metadata; whoever
//! doesn't know them sees a standard resource.

use std::collections::BTreeMap;

use prost_types::{Struct, Value, value::Kind};
use sha2::{Digest, Sha256};

use super::{
    METADATA_KEY, metadata, ours,
    proto::{Any, Typed, core::Node, discovery::Resource, pack},
    text, text_at,
};

/// From when a resource is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The highest resourceVersion among the objects it was decided from.
    pub as_of: u64,
    /// The life of the hub's store: a restored hub starts a new one. Empty: none stated.
    pub epoch: String,
}

/// Wraps `message` as the resource `name`.
pub fn seal<T: Typed>(name: &str, message: &T, stamp: &Stamp) -> Resource {
    let any = pack(message);
    Resource {
        name: name.to_owned(),
        version: content_hash(&any),
        resource: Some(any),
        metadata: metadata(stamp_values(stamp)),
        ..Resource::default()
    }
}

/// The stamp of a resource; the default where it states none.
pub fn stamp(resource: &Resource) -> Stamp {
    let Some(values) = ours(resource.metadata.as_ref()) else {
        return Stamp::default();
    };
    stamp_of(values)
}

fn stamp_of(values: &Struct) -> Stamp {
    let as_of = text_at(values, "asOf").and_then(|text| text.parse().ok());
    Stamp {
        as_of: as_of.unwrap_or_default(),
        epoch: text_at(values, "epoch").unwrap_or_default().to_owned(),
    }
}

/// What a client tells of itself when it opens a stream: the newest stamp that it runs on. So a
/// control plane that was restored knows before it says anything.
pub fn node_metadata(stamp: &Stamp) -> Option<Struct> {
    let ours = stamp_values(stamp);
    if ours.fields.is_empty() {
        return None;
    }
    let ours = Value {
        kind: Some(Kind::StructValue(ours)),
    };
    let mut all = Struct::default();
    all.fields.insert(METADATA_KEY.to_owned(), ours);
    Some(all)
}

/// The stamp that a client tells; the default where it tells none.
pub fn node_stamp(node: &Node) -> Stamp {
    let ours = node.metadata.as_ref();
    let ours = ours.and_then(|all| all.fields.get(METADATA_KEY));
    match ours.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StructValue(values)) => stamp_of(values),
        _ => Stamp::default(),
    }
}

/// Remembers from when a removed resource was, so that a replica that is behind can't bring it back.
/// Of [`REMOVED_MAX`] the older half is forgotten to make room: those come back for as long as such a
/// replica is behind.
pub fn remember<K: Ord>(removed: &mut BTreeMap<K, Stamp>, name: K, gone: &Resource) {
    if removed.len() >= REMOVED_MAX {
        let mut all: Vec<u64> = removed.values().map(|stamp| stamp.as_of).collect();
        let (_, middle, _) = all.select_nth_unstable(REMOVED_MAX / 2);
        let middle = *middle;
        removed.retain(|_, stamp| stamp.as_of > middle);
    }
    removed.insert(name, stamp(gone));
}

/// Removed resources that a client remembers.
pub const REMOVED_MAX: usize = 10_000;

/// The first 128 bits of SHA-256 over type and bytes, in hexadecimal. Equal messages have equal
/// bytes, because maps are encoded in the order of their keys.
pub fn content_hash(any: &Any) -> String {
    let mut hasher = Sha256::new();
    hasher.update(any.type_url.as_bytes());
    hasher.update([0]);
    hasher.update(&any.value);
    let digest = hasher.finalize();
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn stamp_values(stamp: &Stamp) -> Struct {
    let mut values = Struct::default();
    if stamp.as_of > 0 {
        // As text: a number of a Struct is a double, exact to 2^53 only.
        values
            .fields
            .insert("asOf".to_owned(), text(stamp.as_of.to_string()));
    }
    if !stamp.epoch.is_empty() {
        values
            .fields
            .insert("epoch".to_owned(), text(stamp.epoch.as_str()));
    }
    values
}
