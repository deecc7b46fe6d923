//! The last good state as bytes.
//!
//! A line that names the form, the resources, and a SHA-256 of both: a file that was cut short or
//! changed is not half-read but refused, and then the proxy waits for its control plane.

use std::sync::Arc;

use fairlead_config::xds::proto::{
    Message,
    discovery::{Resource, SavedResource, SavedResources},
};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// Why a saved state can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Another program's file, or a form of another version.
    #[error("it is not in the form {FORM:?}")]
    Form,
    /// Cut short or changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// Not what this form holds.
    #[error("it can't be decoded: {0}")]
    Content(String),
}

/// Writes resources with their types.
pub fn encode(resources: &[(&'static str, Arc<Resource>)]) -> Vec<u8> {
    let saved = SavedResources {
        resources: resources
            .iter()
            .map(|(type_url, resource)| SavedResource {
                type_url: (*type_url).to_owned(),
                resource: Some((**resource).clone()),
            })
            .collect(),
    };
    let mut bytes = FORM.as_bytes().to_vec();
    saved.encode(&mut bytes).expect("a vector grows");
    let sum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(sum.as_ref());
    bytes
}

/// Reads what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Vec<(String, Resource)>, Unusable> {
    if !bytes.starts_with(FORM.as_bytes()) {
        return Err(Unusable::Form);
    }
    let end = bytes.len().checked_sub(SHA256_OUTPUT_LEN);
    let end = end.filter(|end| *end >= FORM.len());
    let (body, sum) = bytes.split_at(end.ok_or(Unusable::Checksum)?);
    if digest(&SHA256, body).as_ref() != sum {
        return Err(Unusable::Checksum);
    }
    let saved = SavedResources::decode(&body[FORM.len()..])
        .map_err(|error| Unusable::Content(error.to_string()))?;
    let pairs = saved.resources.into_iter();
    Ok(pairs
        .filter_map(|saved| Some((saved.type_url, saved.resource?)))
        .collect())
}

/// The first line.
const FORM: &str = "fairlead resources 1\n";
