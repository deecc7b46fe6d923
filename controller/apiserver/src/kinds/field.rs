//! Field errors as Kubernetes reports them in a 422: where, what kind of fault, and the text.
//!
//! A [`Path`] is cheap to extend and is only rendered when an error is pushed, so that valid
//! objects cost no allocation per field.

use crate::error::Cause;
use serde_json::Value;
use std::fmt;

/// Where in an object: a linked list of segments on the caller's stack.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

/// All faults found in one object, in the order of checking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(Vec<Cause>);

// === impl Path ===

impl<'a> Path<'a> {
    pub const fn root(name: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Child(name),
        }
    }

    pub const fn child(&'a self, name: &'a str) -> Self {
        Self {
            parent: Some(self),
            segment: Segment::Child(name),
        }
    }

    pub const fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            segment: Segment::Index(index),
        }
    }

    pub const fn key(&'a self, key: &'a str) -> Self {
        Self {
            parent: Some(self),
            segment: Segment::Key(key),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Child(name) if self.parent.is_none() => f.write_str(name),
            Segment::Child(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

// === impl FieldErrors ===

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    pub fn push(&mut self, cause: Cause) {
        self.0.push(cause);
    }

    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.0.push(Cause::required(path.to_string(), detail));
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.0.push(Cause::forbidden(path.to_string(), detail));
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.0
            .push(Cause::invalid(path.to_string(), &value.into(), detail));
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0
            .push(Cause::duplicate(path.to_string(), &value.into()));
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0
            .push(Cause::not_found(path.to_string(), &value.into()));
    }

    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.0.push(Cause::not_supported(
            path.to_string(),
            &value.into(),
            supported,
        ));
    }

    /// `max` in bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.0.push(Cause::too_long(path.to_string(), max));
    }

    pub fn too_many(&mut self, path: &Path<'_>, count: usize, max: usize) {
        self.0.push(Cause::too_many(path.to_string(), count, max));
    }
}
