//! Who asks and whether they may: users, request attributes, authorizers.

use std::collections::BTreeMap;

pub mod authenticate;
pub mod authorize;
pub mod escalation;
pub mod impersonate;
pub mod index;
pub mod jwt;
pub mod rbac;
pub(crate) mod review;

/// An authenticated identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for, in the words of RBAC. `path` is set (and `resource` empty) for requests that
/// name no resource, such as `/healthz`.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

/// An authorizer's answer. Only [`Decision::Allow`] lets a request through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// Refused, whatever others say.
    Deny(String),
    /// Nothing here allows it; the text says why, and may be empty.
    NoOpinion(String),
}

pub trait Authorizer: Send + Sync + 'static {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// Allows members of `system:masters` everything, and has no opinion on others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Masters;

/// Allows everybody everything: authorization switched off.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysAllow;

/// Members of this group pass every authorization check.
pub const MASTERS: &str = "system:masters";

// === impl User ===

impl User {
    pub fn new<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        Self {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The administrator that a fresh server hands out.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", [MASTERS, "system:authenticated"])
    }

    /// A request without credentials.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", ["system:unauthenticated"])
    }

    /// The server's own controllers.
    pub fn loopback() -> Self {
        Self::new("system:apiserver", [MASTERS, "system:authenticated"])
    }

    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

// === impl Authorizer ===

impl Authorizer for Masters {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_master() {
            return Decision::Allow;
        }
        Decision::NoOpinion(String::new())
    }
}

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow
    }
}

#[cfg(test)]
mod tests;
