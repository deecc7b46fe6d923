//! What is wrong with a piece of configuration, where it stands and what to do about it.

use std::fmt;

/// One fault. A source reports all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// What is wrong and what to do next, one sentence without a full stop.
    pub message: String,
}

/// Where a problem stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file: line and column (both from 1) and the path of keys, for example
    /// `services[0].policy.balancer`.
    File {
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
        /// The keys that lead there.
        path: String,
    },
    /// In a named resource of a control plane: its kind (`cluster`, `endpoints`, `listener`,
    /// `service`), its name, and the field inside it.
    Resource {
        /// The table.
        kind: &'static str,
        /// The row.
        name: String,
        /// The field inside the row; empty when the row as a whole is meant.
        field: String,
    },
}

impl Problem {
    /// A problem of a named resource.
    pub fn resource(
        kind: &'static str,
        name: impl Into<String>,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let place = Place::Resource {
            kind,
            name: name.into(),
            field: field.into(),
        };
        Self {
            place,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column, path } if path.is_empty() => write!(out, "{line}:{column}"),
            Self::File { line, column, path } => write!(out, "{line}:{column}: {path}"),
            Self::Resource { kind, name, field } if field.is_empty() => {
                write!(out, "{kind} {name}")
            }
            Self::Resource { kind, name, field } => write!(out, "{kind} {name}: {field}"),
        }
    }
}
