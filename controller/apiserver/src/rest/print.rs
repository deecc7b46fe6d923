//! Objects and lists as responses, in the shape the client asked for.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use super::create::remove;
use super::meta::metadata_mut;
use super::{Request, events, table};
use crate::error::ApiError;
use crate::http::{Body, Shape, json as respond, raw};
use crate::store::Object;

/// What a write or a read has to show.
pub(super) enum Outcome {
    Stored(Arc<Object>),
    /// Never stored: a dry run, or an object made for the answer.
    Value(Value),
}

/// The metadata of a list.
#[derive(Debug, Default)]
pub(super) struct ListMeta {
    pub revision: u64,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

const METADATA_HEAD: &[u8] =
    b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",";

impl Request<'_> {
    pub(super) fn print_one(
        &self,
        code: u16,
        outcome: &Outcome,
    ) -> Result<Response<Body>, ApiError> {
        let syntax = self.accept.syntax;
        match (self.accept.shape, outcome) {
            (Shape::Table, outcome) => {
                let value = self.value(outcome);
                let meta = ListMeta {
                    revision: match outcome {
                        Outcome::Stored(object) => object.revision(),
                        Outcome::Value(_) => 0,
                    },
                    ..ListMeta::default()
                };
                Ok(respond(code, syntax, &self.table(&meta, &[value], true)?))
            }
            (Shape::Metadata, outcome) => Ok(raw(code, syntax, only_metadata(self.value(outcome)))),
            (Shape::MetadataList, _) => Err(ApiError::not_of_that_shape(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{})",
                self.package(),
                self.resource.kind
            ))),
            (_, Outcome::Stored(object)) if events::is_renamed(&self.resource) => {
                Ok(respond(code, syntax, &self.value_of(object)))
            }
            (_, Outcome::Stored(object)) => {
                let mut out = Vec::new();
                object.print(&self.resource.head(), &mut out);
                Ok(raw(code, syntax, out))
            }
            (_, Outcome::Value(value)) => Ok(respond(code, syntax, value)),
        }
    }

    pub(super) fn print_list(
        &self,
        objects: &[Arc<Object>],
        meta: &ListMeta,
    ) -> Result<Response<Body>, ApiError> {
        let syntax = self.accept.syntax;
        match self.accept.shape {
            Shape::Table => {
                let values: Vec<_> = objects.iter().map(|object| self.value_of(object)).collect();
                Ok(respond(200, syntax, &self.table(meta, &values, true)?))
            }
            Shape::Metadata => Err(ApiError::not_of_that_shape(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{}.{})",
                self.package(),
                self.resource.list_kind
            ))),
            Shape::MetadataList => {
                let head = self.resource.head();
                let mut out = list_head("PartialObjectMetadataList", "meta.k8s.io/v1", meta);
                for (index, object) in objects.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend(only_metadata(object.value(&head)));
                }
                out.extend_from_slice(b"]}");
                Ok(raw(200, syntax, out))
            }
            Shape::Full | Shape::Discovery if events::is_renamed(&self.resource) => {
                let mut items: Vec<_> =
                    objects.iter().map(|object| self.value_of(object)).collect();
                for item in &mut items {
                    remove(item, "kind");
                    remove(item, "apiVersion");
                }
                let list = json!({
                    "kind": self.resource.list_kind, "apiVersion": self.resource.api_version(),
                    "metadata": list_metadata(meta), "items": items,
                });
                Ok(respond(200, syntax, &list))
            }
            Shape::Full | Shape::Discovery => {
                let head = self.resource.item_head();
                let mut out =
                    list_head(&self.resource.list_kind, &self.resource.api_version(), meta);
                out.reserve(objects.iter().map(|object| object.size() + 128).sum());
                for (index, object) in objects.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    object.print(&head, &mut out);
                }
                out.extend_from_slice(b"]}");
                Ok(raw(200, syntax, out))
            }
        }
    }

    /// The object of a watch event, in the wanted shape. `columns` is set in a watch's first
    /// table only, as later ones need no definitions.
    pub(super) fn print_event(
        &self,
        object: &Object,
        revision: u64,
        columns: bool,
        out: &mut Vec<u8>,
    ) {
        let head = self.resource.head();
        match self.accept.shape {
            Shape::Full | Shape::Discovery if events::is_renamed(&self.resource) => {
                let value = self.event_value(object, revision);
                serde_json::to_writer(out, &value).expect("a value is serialisable");
            }
            Shape::Full | Shape::Discovery => object.print_at(&head, revision, out),
            Shape::Metadata | Shape::MetadataList => {
                let value = self.event_value(object, revision);
                out.extend(only_metadata(value));
            }
            Shape::Table => {
                let value = self.event_value(object, revision);
                let meta = ListMeta {
                    revision,
                    ..ListMeta::default()
                };
                let shown = self
                    .table(&meta, &[value], columns)
                    .unwrap_or_else(|e| e.status());
                serde_json::to_writer(out, &shown).expect("a value is serialisable");
            }
        }
    }

    fn event_value(&self, object: &Object, revision: u64) -> Value {
        let mut value = self.value_of(object);
        let revision = Value::String(revision.to_string());
        metadata_mut(&mut value).insert("resourceVersion".to_owned(), revision);
        value
    }

    /// A stored object in the form that this resource shows.
    pub(super) fn value_of(&self, object: &Object) -> Value {
        let mut value = object.value(&self.resource.head());
        if events::is_renamed(&self.resource) {
            events::from_stored(&mut value);
        }
        value
    }

    pub(super) fn value(&self, outcome: &Outcome) -> Value {
        match outcome {
            Outcome::Stored(object) => self.value_of(object),
            Outcome::Value(value) => value.clone(),
        }
    }

    /// Where the kind's type lives in the real server, for messages that name it.
    fn package(&self) -> &str {
        match self.resource.group.split('.').next() {
            _ if self.resource.custom.is_some() => "unstructured",
            None | Some("") => "core",
            Some(first) => first,
        }
    }

    fn table(&self, meta: &ListMeta, objects: &[Value], columns: bool) -> Result<Value, ApiError> {
        let include = table::Include::parse(self.query.text("includeObject"))?;
        let now = self.core.now();
        let metadata = list_metadata(meta);
        let shown = if self.is_scale() {
            table::scale_columns()
        } else {
            table::columns_of(&self.resource)
        };
        let head = table::Head {
            metadata,
            columns: shown,
            definitions: columns,
        };
        Ok(table::table(&head, objects, include, now))
    }
}

pub(super) fn only_metadata(mut object: Value) -> Vec<u8> {
    let metadata = object["metadata"].take();
    let mut out = METADATA_HEAD.to_vec();
    out.extend_from_slice(b"\"metadata\":");
    serde_json::to_writer(&mut out, &metadata).expect("a value is serialisable");
    out.push(b'}');
    out
}

fn list_head(kind: &str, version: &str, meta: &ListMeta) -> Vec<u8> {
    let metadata = list_metadata(meta);
    let head = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    );
    head.into_bytes()
}

fn list_metadata(meta: &ListMeta) -> Value {
    let mut metadata = json!({});
    if meta.revision > 0 {
        metadata["resourceVersion"] = json!(meta.revision.to_string());
    }
    if !meta.continue_token.is_empty() {
        metadata["continue"] = json!(meta.continue_token);
    }
    if let Some(remaining) = meta.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}
