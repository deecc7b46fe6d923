//! Keys and stored objects.

use std::borrow::{Borrow, Cow};
use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

/// `NAMESPACE/NAME`, or `NAME` for what belongs to no namespace. Ordered as its bytes, which is the
/// order in which Kubernetes lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// One object in serialised form.
///
/// The bytes leave out `apiVersion` and `kind` (so all served versions share them, and list items
/// of built-in kinds have none) and `metadata.resourceVersion` (so they are ready before the write
/// gets its revision, and a deletion can reuse them). `metadata` comes first, `resourceVersion`
/// first in it: to print an object is to concatenate a head, the revision and the bytes.
#[derive(Debug)]
pub struct Object {
    pub(super) revision: u64,
    pub(super) key: Key,
    draft: Draft,
}

/// An object that has no revision yet.
#[derive(Debug, Clone)]
pub struct Draft {
    labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the kind's selectable fields.
    fields: Box<[(Cow<'static, str>, Box<str>)]>,
    /// From inside the braces of `metadata` to the end of the object.
    tail: Box<[u8]>,
}

// === impl Key ===

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        if namespace.is_empty() {
            return Self(Arc::from(name));
        }
        Self(Arc::from([namespace, "/", name].concat()))
    }

    /// Takes back what [`Key::as_str`] gave.
    pub fn from_text(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Empty for what belongs to no namespace.
    pub fn namespace(&self) -> &str {
        self.0
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl Draft ===

impl Draft {
    /// Serialises an object. `fields` are the values of the kind's selectable fields.
    pub fn new(object: &Value, fields: Vec<(Cow<'static, str>, Box<str>)>) -> Self {
        let metadata = object.get("metadata").and_then(Value::as_object);
        let labels = metadata
            .and_then(|metadata| metadata.get("labels"))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
            .collect();
        Self {
            labels,
            fields: fields.into(),
            tail: tail(object, metadata).into(),
        }
    }

    fn size(&self) -> usize {
        self.tail.len()
    }

    /// Appends the form in which a store keeps it: pairs of labels and of fields, then the tail.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let labels = self.labels.iter().map(|(key, value)| (&**key, &**value));
        let fields = self.fields.iter().map(|(key, value)| (&**key, &**value));
        encode_pairs(labels, out);
        encode_pairs(fields, out);
        out.extend_from_slice(&self.tail);
    }

    /// Reads back what [`Draft::encode`] wrote.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let labels = decode_pairs(&mut bytes)?;
        let fields = decode_pairs(&mut bytes)?;
        let fields = fields
            .into_iter()
            .map(|(key, value)| (Cow::Owned(key.into()), value));
        Some(Self {
            labels: labels.into(),
            fields: fields.collect(),
            tail: bytes.into(),
        })
    }
}

// === impl Object ===

impl Object {
    pub(super) fn new(key: Key, revision: u64, draft: Draft) -> Self {
        Self {
            revision,
            key,
            draft,
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.draft.labels.iter().find(|(label, _)| &**label == key);
        found.map(|(_, value)| &**value)
    }

    /// The value of a selectable field, empty if it is unset.
    pub fn field(&self, path: &str) -> &str {
        match path {
            "metadata.name" => self.key.name(),
            "metadata.namespace" => self.key.namespace(),
            _ => {
                let found = self.draft.fields.iter().find(|(field, _)| field == path);
                found.map_or("", |(_, value)| &**value)
            }
        }
    }

    /// Whether the serialised object has this text anywhere: a cheap first look for readers that
    /// want few of many objects.
    pub fn contains(&self, text: &str) -> bool {
        memchr::memmem::find(&self.draft.tail, text.as_bytes()).is_some()
    }

    /// Bytes held for the object itself.
    pub fn size(&self) -> usize {
        self.draft.size()
    }

    /// Appends the object as JSON. `head` opens it: `{"kind":"…","apiVersion":"…",`, or `{`.
    pub fn print(&self, head: &[u8], out: &mut Vec<u8>) {
        self.print_at(head, self.revision, out);
    }

    /// The same, claiming another revision: a watcher learns of an object that left its selector
    /// with the revision of the change that took it out.
    pub fn print_at(&self, head: &[u8], revision: u64, out: &mut Vec<u8>) {
        out.reserve(head.len() + self.draft.tail.len() + 48);
        out.extend_from_slice(head);
        out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
        write!(out, "{revision}").expect("writing to memory succeeds");
        out.extend_from_slice(b"\"");
        if self.draft.tail.first() != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(&self.draft.tail);
    }

    /// The object as a value, with the head's `kind` and `apiVersion`.
    pub fn value(&self, head: &[u8]) -> Value {
        let mut text = Vec::new();
        self.print(head, &mut text);
        serde_json::from_slice(&text).expect("stored objects are valid JSON")
    }

    /// A draft with the same content.
    pub fn draft(&self) -> Draft {
        self.draft.clone()
    }
}

fn tail(object: &Value, metadata: Option<&Map<String, Value>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut first = true;
    for (key, value) in metadata.into_iter().flatten() {
        if key != "resourceVersion" {
            entry(&mut out, &mut first, key, value);
        }
    }
    out.push(b'}');
    first = false;
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            entry(&mut out, &mut first, key, value);
        }
    }
    out.push(b'}');
    out
}

fn entry(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).expect("a string is serialisable");
    out.push(b':');
    serde_json::to_writer(out, value).expect("a value is serialisable");
}

fn encode_pairs<'a>(pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    let count = u32::try_from(pairs.len()).expect("an object of at most 3 MiB has fewer labels");
    out.extend_from_slice(&count.to_le_bytes());
    for (key, value) in pairs {
        for text in [key, value] {
            let len = u32::try_from(text.len()).expect("an object has at most 3 MiB");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

type Pairs = Vec<(Box<str>, Box<str>)>;

fn decode_pairs(bytes: &mut &[u8]) -> Option<Pairs> {
    let count = decode_number(bytes)?;
    (0..count)
        .map(|_| Some((decode_text(bytes)?, decode_text(bytes)?)))
        .collect()
}

fn decode_text(bytes: &mut &[u8]) -> Option<Box<str>> {
    let len = usize::try_from(decode_number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(std::str::from_utf8(text).ok()?.into())
}

fn decode_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}
