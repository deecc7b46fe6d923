//! Names: frontends, services and members.
//!
//! Names are cheap to clone (`Arc<str>`) and ordered, so that the tables iterate in one order in
//! every process. They are checked once, where they are made.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A name that breaks its rule; the text says which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {rule}")]
pub struct InvalidName {
    /// What was being named: "service", "member" or "frontend".
    pub what: &'static str,
    /// The name as given.
    pub value: String,
    /// The rule that it breaks, phrased to follow the name.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// One port of an exported service: `namespace/name:port`, for example `shop/checkout:https`.
    ServiceName
}
name! {
    /// A joined cluster: a DNS label of at most [`MEMBER_NAME_MAX`] characters.
    MemberName
}
name! {
    /// One frontend. From a file: `service#index`; from a control plane: the Listener's name.
    FrontendName
}

// === impl ServiceName ===

impl ServiceName {
    /// Parses `namespace/name:port`.
    ///
    /// Namespace and name are DNS labels (RFC 1123); the port is a DNS label or a number. At most
    /// [`SERVICE_NAME_MAX`] characters in all.
    pub fn parse(value: &str) -> Result<Self, InvalidName> {
        let broken = |rule| InvalidName {
            what: "service",
            value: value.to_owned(),
            rule,
        };
        if value.len() > SERVICE_NAME_MAX {
            return Err(broken("is longer than 200 characters"));
        }
        let (namespace, rest) = value
            .split_once('/')
            .ok_or_else(|| broken("has no namespace; write namespace/name:port"))?;
        let (name, port) = rest
            .split_once(':')
            .ok_or_else(|| broken("has no port; write namespace/name:port"))?;
        for part in [namespace, name, port] {
            if !is_dns_label(part, 63) {
                return Err(broken(
                    "has a part that is no DNS label (lower-case letters, digits and '-', at most 63)",
                ));
            }
        }
        Ok(Self(value.into()))
    }

    /// `(namespace, name, port)`.
    pub fn parts(&self) -> (&str, &str, &str) {
        let (namespace, rest) = self.0.split_once('/').expect("checked by parse");
        let (name, port) = rest.split_once(':').expect("checked by parse");
        (namespace, name, port)
    }
}

// === impl MemberName ===

impl MemberName {
    /// Parses a member's name: a DNS label of at most [`MEMBER_NAME_MAX`] characters.
    pub fn parse(value: &str) -> Result<Self, InvalidName> {
        if is_dns_label(value, MEMBER_NAME_MAX) {
            Ok(Self(value.into()))
        } else {
            Err(InvalidName {
                what: "member",
                value: value.to_owned(),
                rule: "is no DNS label of at most 47 characters (lower-case letters, digits, '-')",
            })
        }
    }
}

// === impl FrontendName ===

impl FrontendName {
    /// Parses a frontend's name: 1 to [`FRONTEND_NAME_MAX`] printable ASCII characters, no spaces.
    pub fn parse(value: &str) -> Result<Self, InvalidName> {
        let valid = (1..=FRONTEND_NAME_MAX).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        if valid {
            Ok(Self(value.into()))
        } else {
            Err(InvalidName {
                what: "frontend",
                value: value.to_owned(),
                rule: "is not 1 to 253 printable characters without spaces",
            })
        }
    }
}

/// Whether `value` is a DNS label (RFC 1123) of at most `max` characters.
pub fn is_dns_label(value: &str, max: usize) -> bool {
    let bytes = value.as_bytes();
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=max).contains(&bytes.len())
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
}

/// Three DNS labels and their separators.
pub const SERVICE_NAME_MAX: usize = 200;
/// 63 less the prefix `fairlead-member-`, so that a member's namespace is a DNS label too.
pub const MEMBER_NAME_MAX: usize = 47;
/// As long as a Kubernetes object name may be.
pub const FRONTEND_NAME_MAX: usize = 253;
