//! RBAC as an authorizer over a store.

use super::index::{Rbac, Verdict};
use super::rbac::Action;
use super::{Attributes, Authorizer, Decision};
use crate::kinds::Lookup;
use std::sync::Arc;

/// Authorizes by the RBAC objects of one server, `system:masters` always.
pub struct RbacAuthorizer {
    index: Arc<Rbac>,
    lookup: Box<dyn Lookup>,
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// What is asked for, without who asks.
    pub fn action(&self) -> Action<'a> {
        if self.path.is_empty() {
            Action::Resource {
                verb: self.verb,
                group: self.group,
                resource: self.resource,
                subresource: self.subresource,
                namespace: self.namespace,
                name: self.name,
            }
        } else {
            Action::Path {
                verb: self.verb,
                path: self.path,
            }
        }
    }
}

// === impl RbacAuthorizer ===

impl RbacAuthorizer {
    /// `index` is the one that strategies use too, `lookup` reads the RBAC resources.
    pub fn new(index: Arc<Rbac>, lookup: Box<dyn Lookup>) -> Self {
        Self { index, lookup }
    }
}

impl Authorizer for RbacAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_master() {
            return Decision::Allow;
        }
        match self
            .index
            .refreshed(&*self.lookup)
            .decide(attributes.user, &attributes.action())
        {
            Verdict::Allowed(_) => Decision::Allow,
            Verdict::Refused(reason) => Decision::NoOpinion(reason),
        }
    }
}
