//! The last good state as bytes, for a client's disk.
//!
//! A line that names the form, the resources, and a SHA-256 of both: a file that was cut short or
//! changed is not half-read but refused, and then the client waits for its control plane.

use std::{io::Write, sync::Arc};

use sha2::{Digest, Sha256};

use super::proto::{
    Message,
    discovery::{Resource, SavedResource, SavedResources},
};

/// Why a saved state can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Another program's file, or a form of a later version.
    #[error("it is not in the form {FORM:?}, nor in an earlier one")]
    Form,
    /// Cut short or changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// Not what this form holds.
    #[error("it can't be decoded: {0}")]
    Content(String),
}

/// Writes resources with their types. Holds one of them at a time beside what it is given.
pub fn write(
    resources: &[(&'static str, Arc<Resource>)],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut sum = Sha256::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        out.write_all(bytes)
    };
    put(FORM.as_bytes())?;
    for (type_url, resource) in resources {
        // Messages one after the other are one message with all their rows.
        let one = SavedResources {
            resources: vec![SavedResource {
                type_url: (*type_url).to_owned(),
                resource: Some((**resource).clone()),
            }],
        };
        put(&one.encode_to_vec())?;
    }
    out.write_all(&sum.finalize())
}

/// What [`write()`] writes.
pub fn encode(resources: &[(&'static str, Arc<Resource>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(resources, &mut bytes).expect("a vector grows");
    bytes
}

/// Reads what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Vec<(String, Resource)>, Unusable> {
    if !bytes.starts_with(FORM.as_bytes()) && !bytes.starts_with(FORM_1.as_bytes()) {
        return Err(Unusable::Form);
    }
    let end = bytes.len().checked_sub(SUM_BYTES);
    let end = end.filter(|end| *end >= FORM.len());
    let (body, sum) = bytes.split_at(end.ok_or(Unusable::Checksum)?);
    if Sha256::digest(body).as_slice() != sum {
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
const FORM: &str = "fairlead resources 2\n";
/// Before there were chunks: whoever reads only this would take assignments without endpoints for all
/// there is.
const FORM_1: &str = "fairlead resources 1\n";
/// Of a SHA-256.
const SUM_BYTES: usize = 32;
