//! Who holds which rule: RBAC objects indexed by subject.
//!
//! The index is rebuilt, one resource at a time, when the store says that the resource has changed
//! since: an authorization between changes costs a few hash lookups and the rules of the user's
//! own bindings. A decision therefore sees each write that was acknowledged before it.

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
    cluster_roles: Arc<Roles>,
    roles: Arc<HashMap<String, Roles>>,
    cluster_bindings: Arc<Bindings>,
    bindings: Arc<HashMap<String, Bindings>>,
}

type Roles = HashMap<String, Arc<[PolicyRule]>>;
type Bindings = HashMap<Subject, Vec<Grant>>;

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
        let mut next = Index::clone(&slot);
        next.update(current, lookup);
        *slot = Arc::new(next);
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
        for (bindings, scope) in [(Some(&*self.cluster_bindings), ""), (scoped, namespace)] {
            let Some(bindings) = bindings else { continue };
            let groups = user
                .groups
                .iter()
                .map(|group| Subject::Group(group.clone()));
            for subject in std::iter::once(Subject::User(user.name.clone())).chain(groups) {
                for grant in bindings.get(&subject).into_iter().flatten() {
                    if !visitor(grant, scope, &subject, self.role_rules(&grant.role, scope)) {
                        return;
                    }
                }
            }
        }
    }

    fn update(&mut self, current: [u64; 4], lookup: &dyn Lookup) {
        let stale = |at: usize| self.revisions[at] != current[at];
        if stale(0) {
            let mut roles = Roles::new();
            for role in lookup.list(GROUP, RESOURCES[0], "") {
                roles.insert(name(&role), parse(&role));
            }
            self.cluster_roles = Arc::new(roles);
        }
        if stale(1) {
            let mut roles: HashMap<String, Roles> = HashMap::new();
            for role in lookup.list(GROUP, RESOURCES[1], "") {
                roles
                    .entry(namespace(&role))
                    .or_default()
                    .insert(name(&role), parse(&role));
            }
            self.roles = Arc::new(roles);
        }
        if stale(2) {
            let mut bindings = Bindings::new();
            for binding in lookup.list(GROUP, RESOURCES[2], "") {
                insert(&mut bindings, &binding, "");
            }
            self.cluster_bindings = Arc::new(bindings);
        }
        if stale(3) {
            let mut bindings: HashMap<String, Bindings> = HashMap::new();
            for binding in lookup.list(GROUP, RESOURCES[3], "") {
                let namespace = namespace(&binding);
                insert(
                    bindings.entry(namespace.clone()).or_default(),
                    &binding,
                    &namespace,
                );
            }
            self.bindings = Arc::new(bindings);
        }
        self.revisions = current;
    }
}

type Visitor<'a> = dyn FnMut(&Grant, &str, &Subject, Option<&[PolicyRule]>) -> bool + 'a;

fn insert(bindings: &mut Bindings, binding: &Value, namespace: &str) {
    let Some(role) = RoleRef::parse(binding) else {
        return;
    };
    for subject in Subject::parse_all(binding, namespace) {
        bindings.entry(subject).or_default().push(Grant {
            binding: name(binding),
            role: role.clone(),
        });
    }
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

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn namespace(object: &Value) -> String {
    object["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = [
    "clusterroles",
    "roles",
    "clusterrolebindings",
    "rolebindings",
];
