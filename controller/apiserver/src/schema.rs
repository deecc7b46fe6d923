//! What the server knows about the shape of objects: one [`Schema`] tree for built-in kinds and for custom resources.
//!
//! Built-in kinds come from a reduced form of Kubernetes' published OpenAPI ([`builtin`]): a static table that every server
//! in the process shares, parsed one definition at a time when first asked for. Custom resources build the same tree from
//! the structural schema in their CustomResourceDefinition (`crd::structural`).
//!
//! The tree answers: decoding with unknown fields ([`Schema::decode`]), defaults, pruning, validation of custom resources,
//! and how lists and maps merge (`patch`). It holds no texts. Nothing here does I/O or panics on any input.

mod builtin;
mod decode;
mod defaults;
mod json;
pub(crate) mod path;
mod prune;
mod strings;
mod validate;

use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use builtin::{builtin, definition, kinds as builtin_kinds};
pub(crate) use builtin::{builtin_name, raw};
pub use decode::Decoded;
pub(crate) use decode::found as go_type;
pub use json::{ParsedJson, parse_json};
pub(crate) use json::{text, texts};
pub(crate) use strings::is_format_known;

/// A node: a type, its children, and how values of it merge.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub kind: Kind,
    /// `int32`, `date-time`…; empty for none.
    pub format: Box<str>,
    /// A definition this node stands for. Its own `default`, `list` and `patch` still count; everything about the shape is
    /// the definition's: use [`Schema::target`].
    pub reference: Option<Reference>,
    pub properties: Properties,
    /// The schema of fields that `properties` doesn't name.
    pub additional: Option<Box<Self>>,
    pub items: Option<Box<Self>>,
    pub required: Vec<Box<str>>,
    pub default: Option<Value>,
    pub nullable: bool,
    /// Unknown fields stay (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// The value is an object with apiVersion, kind and metadata of its own.
    pub embedded: bool,
    /// A Go struct's: fields with a default are always there.
    pub is_struct: bool,
    pub list: ListKind,
    /// Owned and replaced as one value, whether map or struct.
    pub atomic_map: bool,
    pub patch: Option<Box<StrategicKeys>>,
    pub checks: Option<Box<Checks>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// No type given: any value.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// A string or a number, as `resource.Quantity` is.
    Quantity,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Elements are told apart by these fields.
    Map(Vec<Box<str>>),
}

/// How strategic merge patch treats a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrategicKeys {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    pub merge_key: Box<str>,
}

/// Value validation of custom resources, everything beyond type and required.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    pub enumeration: Vec<Value>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    /// The node says which kinds it takes although it has no `type` (inside allOf and its like).
    pub int_or_string: bool,
}

/// A regular expression and the text it came from.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub text: Box<str>,
    pub regex: regex::Regex,
}

/// Fields in order of their names.
#[derive(Debug, Clone, Default)]
pub struct Properties(Vec<(Box<str>, Schema)>);

/// A link to a definition of the static table, followed when first needed: definitions may be recursive.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    name: &'static str,
    target: OnceLock<Option<Arc<Schema>>>,
}

// === impl Schema ===

impl Schema {
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    pub fn reference(name: &'static str) -> Self {
        Self {
            reference: Some(Reference {
                name,
                ..Reference::default()
            }),
            ..Self::default()
        }
    }

    /// The node that describes the shape: the definition where this node is a reference, else itself.
    pub fn target(&self) -> &Self {
        match &self.reference {
            Some(reference) => reference.follow().unwrap_or(any()),
            None => self,
        }
    }

    /// The schema of the field `name`: its own, else that of additional fields, else none.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let target = self.target();
        target
            .properties
            .find(name)
            .or(target.additional.as_deref())
    }

    /// The schema of list elements.
    pub fn element(&self) -> Option<&Self> {
        self.target().items.as_deref()
    }

    /// True for maps with free keys, false for structs.
    pub fn is_map(&self) -> bool {
        let target = self.target();
        target.kind == Kind::Object && target.additional.is_some()
    }

    pub(crate) fn is_atomic_map(&self) -> bool {
        self.atomic_map || self.target().atomic_map
    }

    /// The definition's last name (`Container`), empty for anonymous nodes.
    pub(crate) fn type_name(&self) -> &str {
        self.reference.as_ref().map_or("", |reference| {
            reference.name.rsplit('.').next().unwrap_or_default()
        })
    }

    pub(crate) fn reference_name(&self) -> Option<&'static str> {
        self.reference.as_ref().map(|reference| reference.name)
    }
}

/// What a broken reference means; the table's test shows that there is none.
fn any() -> &'static Schema {
    static ANY: OnceLock<Schema> = OnceLock::new();
    ANY.get_or_init(|| Schema {
        preserve_unknown: true,
        ..Schema::default()
    })
}

// === impl Reference ===

impl Reference {
    fn follow(&self) -> Option<&Schema> {
        self.target.get_or_init(|| definition(self.name)).as_deref()
    }
}

// === impl Properties ===

impl Properties {
    pub fn find(&self, name: &str) -> Option<&Schema> {
        let at = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn find_mut(&mut self, name: &str) -> Option<&mut Schema> {
        let at = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&mut self.0[at].1)
    }

    pub fn insert(&mut self, name: &str, schema: Schema) {
        match self.0.binary_search_by(|(key, _)| (**key).cmp(name)) {
            Ok(at) => self.0[at].1 = schema,
            Err(at) => self.0.insert(at, (name.into(), schema)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Schema)> {
        self.0.iter().map(|(name, schema)| (&**name, schema))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<(Box<str>, Schema)> for Properties {
    fn from_iter<T: IntoIterator<Item = (Box<str>, Schema)>>(fields: T) -> Self {
        let mut fields: Vec<_> = fields.into_iter().collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self(fields)
    }
}

/// `base.name`, or `name` at the root.
pub(crate) fn join(base: &str, name: &str) -> String {
    if base.is_empty() {
        name.to_owned()
    } else {
        format!("{base}.{name}")
    }
}

#[cfg(test)]
mod tests;
