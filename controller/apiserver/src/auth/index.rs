//! Who holds which rule: RBAC objects indexed by subject.
//!
//! The index takes over what has changed when the store says that something has: an authorization
//! between changes costs a few hash lookups and the rules of the user's own bindings, a change
//! costs one object. A decision therefore sees each write that was acknowledged before it.

use super::User;
use super::rbac::{Action, PolicyRule, RoleRef, SERVICE_ACCOUNT_PREFIX, Subject};
use crate::controllers::bootstrap;
use crate::kinds::Lookup;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The index of one server, kept current by [`Rbac::refreshed`].
#[derive(Debug, Default)]
pub struct Rbac(RwLock<Arc<Index>>);

/// One consistent view of all roles and bindings.
#[derive(Debug, Default, Clone)]
pub struct Index {
    revisions: [u64; 4],
    cluster_roles: Roles,
    roles: HashMap<String, Roles>,
    cluster_bindings: Bindings,
    bindings: HashMap<String, Bindings>,
}

type Roles = HashMap<String, Arc<[PolicyRule]>>;

/// The bindings of one scope.
#[derive(Debug, Default, Clone)]
struct Bindings {
    grants: HashMap<Subject, Vec<Grant>>,
    /// Whom each binding names, to take it out again.
    subjects: HashMap<String, Vec<Subject>>,
}

#[derive(Debug, Clone)]
struct Grant {
    binding: String,
    role: RoleRef,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// With the text that SubjectAccessReviews show.
    Allowed(String),
    /// With what went wrong while looking, often nothing.
    Refused(String),
}

// === impl Rbac ===

impl Rbac {
    /// The index as of the present state of `lookup`.
    pub fn refreshed(&self, lookup: &dyn Lookup) -> Arc<Index> {
        let current = RESOURCES.map(|resource| lookup.revision(GROUP, resource));
        {
            let index = self.0.read();
            if index.revisions == current {
                return Arc::clone(&index);
            }
        }
        let mut slot = self.0.write();
        // Read again under the lock: another request may have done the work meanwhile.
        let current = RESOURCES.map(|resource| lookup.revision(GROUP, resource));
        // In place, unless a reader still holds the earlier view.
        Arc::make_mut(&mut slot).update(current, lookup);
        Arc::clone(&slot)
    }
}

// === impl Index ===

impl Index {
    pub fn allows(&self, user: &User, action: &Action<'_>) -> bool {
        user.is_master() || matches!(self.decide(user, action), Verdict::Allowed(_))
    }

    /// Asks cluster-wide bindings first, then those of the action's namespace.
    pub fn decide(&self, user: &User, action: &Action<'_>) -> Verdict {
        let namespace = match action {
            Action::Resource { namespace, .. } => namespace,
            Action::Path { .. } => "",
        };
        let mut missing = Vec::new();
        let mut allowed = None;
        self.visit(user, namespace, &mut |grant, scope, subject, rules| {
            let Some(rules) = rules else {
                let name = grant.role.name();
                missing.push(match grant.role {
                    RoleRef::ClusterRole(_) => format!("clusterrole.{GROUP} {name:?} not found"),
                    RoleRef::Role(_) => format!("role.{GROUP} {name:?} not found"),
                });
                return true;
            };
            if rules.iter().any(|rule| rule.allows(action)) {
                allowed = Some(describe(grant, scope, subject));
            }
            allowed.is_none()
        });
        match (allowed, missing.as_slice()) {
            (Some(reason), _) => Verdict::Allowed(reason),
            (None, []) => Verdict::Refused(String::new()),
            (None, [one]) => Verdict::Refused(format!("RBAC: {one}")),
            (None, many) => Verdict::Refused(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// All rules `user` holds in `namespace` (empty: cluster-wide only).
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let mut held = Vec::new();
        self.visit(user, namespace, &mut |_, _, _, rules| {
            held.extend(rules.into_iter().flatten().cloned());
            true
        });
        held
    }

    /// The rules of a role, `None` when it doesn't exist.
    pub fn role_rules(&self, role: &RoleRef, namespace: &str) -> Option<&[PolicyRule]> {
        match role {
            RoleRef::ClusterRole(name) => self.cluster_roles.get(name),
            RoleRef::Role(name) => self.roles.get(namespace)?.get(name),
        }
        .map(AsRef::as_ref)
    }

    /// Calls `visitor` with each grant to `user` until it answers `false`.
    fn visit(&self, user: &User, namespace: &str, visitor: &mut Visitor<'_>) {
        let scoped = if namespace.is_empty() {
            None
        } else {
            self.bindings.get(namespace)
        };
        for (bindings, scope) in [(Some(&self.cluster_bindings), ""), (scoped, namespace)] {
            let Some(bindings) = bindings else { continue };
            let groups = user
                .groups
                .iter()
                .map(|group| Subject::Group(group.clone()));
            for subject in std::iter::once(Subject::User(user.name.clone())).chain(groups) {
                for grant in bindings.grants.get(&subject).into_iter().flatten() {
                    if !visitor(grant, scope, &subject, self.role_rules(&grant.role, scope)) {
                        return;
                    }
                }
            }
        }
    }

    fn update(&mut self, current: [u64; 4], lookup: &dyn Lookup) {
        for (at, resource) in RESOURCES.into_iter().enumerate() {
            let since = self.revisions[at];
            if since == current[at] {
                continue;
            }
            let changes = if since == 0 {
                None
            } else {
                lookup.changes(GROUP, resource, since)
            };
            if let Some(changes) = changes {
                for (namespace, name, object) in &changes {
                    self.apply(at, namespace, name, object.as_ref());
                }
            } else {
                self.clear(at);
                for object in lookup.list(GROUP, resource, "") {
                    let meta = &object["metadata"];
                    let text = |key: &str| meta[key].as_str().unwrap_or_default();
                    self.apply(at, text("namespace"), text("name"), Some(&object));
                }
            }
        }
        self.revisions = current;
    }

    /// Takes over one object of `RESOURCES[at]`, or its absence.
    fn apply(&mut self, at: usize, namespace: &str, name: &str, object: Option<&Value>) {
        match at {
            0 => put_role(&mut self.cluster_roles, name, object),
            1 => put_role(
                self.roles.entry(namespace.to_owned()).or_default(),
                name,
                object,
            ),
            2 => self.cluster_bindings.put("", name, object),
            _ => self
                .bindings
                .entry(namespace.to_owned())
                .or_default()
                .put(namespace, name, object),
        }
        if object.is_none() {
            // A namespace that is gone leaves no empty maps behind.
            self.roles
                .retain(|own, roles| own != namespace || !roles.is_empty());
            self.bindings
                .retain(|own, bindings| own != namespace || !bindings.subjects.is_empty());
        }
    }

    fn clear(&mut self, at: usize) {
        match at {
            0 => self.cluster_roles.clear(),
            1 => self.roles.clear(),
            2 => self.cluster_bindings = Bindings::default(),
            _ => self.bindings.clear(),
        }
    }
}

// === impl Bindings ===

impl Bindings {
    fn put(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        for subject in self.subjects.remove(name).unwrap_or_default() {
            if let Some(grants) = self.grants.get_mut(&subject) {
                grants.retain(|grant| grant.binding != name);
                if grants.is_empty() {
                    self.grants.remove(&subject);
                }
            }
        }
        let Some(binding) = binding else { return };
        let Some(role) = RoleRef::parse(binding) else {
            return;
        };
        let subjects = Subject::parse_all(binding, namespace);
        for subject in &subjects {
            let grant = Grant {
                binding: name.to_owned(),
                role: role.clone(),
            };
            self.grants.entry(subject.clone()).or_default().push(grant);
        }
        self.subjects.insert(name.to_owned(), subjects);
    }
}

type Visitor<'a> = dyn FnMut(&Grant, &str, &Subject, Option<&[PolicyRule]>) -> bool + 'a;

fn put_role(roles: &mut Roles, name: &str, role: Option<&Value>) {
    match role {
        Some(role) => roles.insert(name.to_owned(), parse(role)),
        None => roles.remove(name),
    };
}

/// Rules as parsed before for all servers of the process, when they are the bootstrap ones.
fn parse(role: &Value) -> Arc<[PolicyRule]> {
    bootstrap::shared_rules(role).unwrap_or_else(|| PolicyRule::parse_all(role).into())
}

fn describe(grant: &Grant, namespace: &str, subject: &Subject) -> String {
    let (kind, name) = if namespace.is_empty() {
        ("ClusterRoleBinding", grant.binding.clone())
    } else {
        ("RoleBinding", format!("{}/{namespace}", grant.binding))
    };
    let role = match &grant.role {
        RoleRef::ClusterRole(name) => format!("ClusterRole {name:?}"),
        RoleRef::Role(name) => format!("Role {name:?}"),
    };
    let subject = match subject {
        Subject::Group(group) => format!("Group {group:?}"),
        Subject::User(user) => {
            match user
                .strip_prefix(SERVICE_ACCOUNT_PREFIX)
                .and_then(|rest| rest.split_once(':'))
            {
                Some((namespace, account)) => format!("ServiceAccount \"{account}/{namespace}\""),
                None => format!("User {user:?}"),
            }
        }
    };
    format!("RBAC: allowed by {kind} {name:?} of {role} to {subject}")
}

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = [
    "clusterroles",
    "roles",
    "clusterrolebindings",
    "rolebindings",
];
