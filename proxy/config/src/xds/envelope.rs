//! The envelope of a resource: its name, the hash of its content, and from when it is.
//!
//! `version` is the hash, so a server can skip what a client says it has, and two replicas that
//! decided the same send the same. `asOf` and `epoch` ride in the envelope's metadata; whoever
//! doesn't know them sees a standard resource.

use prost_types::Struct;
use sha2::{Digest, Sha256};

use super::{
    metadata, ours,
    proto::{Any, Typed, discovery::Resource, pack},
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
    let as_of = text_at(values, "asOf").and_then(|text| text.parse().ok());
    Stamp {
        as_of: as_of.unwrap_or_default(),
        epoch: text_at(values, "epoch").unwrap_or_default().to_owned(),
    }
}

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
