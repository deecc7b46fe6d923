//! Requests and responses: paths, queries, selectors, media types, bodies. No kinds, no store.

mod accept;
mod body;
mod path;
mod query;
pub(crate) mod selector;

pub(crate) use accept::{Accept, ContentType, Shape, Syntax};
pub(crate) use body::Body;
pub(crate) use body::{json, raw, status, text};
pub(crate) use path::{Place, Target};
pub(crate) use query::{Query, options_invalid};
pub(crate) use selector::{FieldSelector, LabelSelector};
