//! Roles and bindings: form, the immutable `roleRef`, and that nobody grants what they don't hold.

use super::field::{FieldErrors, Path};
use super::names::NameRule;
use super::value::{default, items, list, object, text};
use super::{Ctx, Strategy, metadata};
use crate::auth::escalation::confirm_no_escalation;
use crate::auth::rbac::{Action, PolicyRule, RoleRef};
use crate::error::{ApiError, Cause};
use serde_json::Value;

pub(super) struct Role;
pub(super) struct Binding;

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_create(&self, role: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        show_rules(role);
        confirm_role(role, ctx)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        show_rules(new);
        if only_collects(new, old) {
            return Ok(());
        }
        confirm_role(new, ctx)
    }

    fn validate_create(&self, role: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        validate_role(role, ctx)
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        validate_role(new, ctx)
    }

    fn create_on_update(&self) -> bool {
        true
    }
}

impl Strategy for Binding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn defaults(&self, binding: &mut Value) {
        if let Some(reference) = object(binding, "roleRef") {
            default(reference, "apiGroup", GROUP);
        }
        for subject in items(binding, "subjects") {
            if matches!(text(subject, "kind"), Some("User" | "Group")) {
                default(subject, "apiGroup", GROUP);
            }
        }
    }

    fn prepare_create(&self, binding: &mut Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        confirm_binding(binding, ctx)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
        if only_collects(new, old) {
            return Ok(());
        }
        confirm_binding(new, ctx)
    }

    fn validate_create(&self, binding: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_binding(binding, ctx, &mut errors);
        errors.into_causes()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
        let mut errors = FieldErrors::default();
        validate_binding(new, ctx, &mut errors);
        if new["roleRef"] != old["roleRef"] {
            let reference = &new["roleRef"];
            let printed = serde_json::json!({
                "APIGroup": reference["apiGroup"], "Kind": reference["kind"], "Name": reference["name"],
            });
            errors.invalid(&Path::root("roleRef"), printed, metadata::IMMUTABLE);
        }
        errors.into_causes()
    }

    fn create_on_update(&self) -> bool {
        true
    }
}

/// An empty required list is null, as it comes back from a store of the real server.
fn show_rules(role: &mut Value) {
    if list(role, "rules").is_empty() {
        super::value::set(role, "rules", Value::Null);
    }
}

fn confirm_role(role: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    let name = role["metadata"]["name"].as_str().unwrap_or_default();
    let rules = PolicyRule::parse_all(role);
    let escalate = Action::Resource {
        verb: "escalate",
        group: GROUP,
        resource: &ctx.resource.resource,
        subresource: "",
        namespace: ctx.namespace,
        name,
    };
    if ctx.user.is_master() {
        return Ok(());
    }
    let index = ctx.state.rbac.refreshed(ctx.lookup);
    if index.allows(ctx.user, &escalate) {
        return Ok(());
    }
    let held = index.rules_for(ctx.user, ctx.namespace);
    confirm_no_escalation(&ctx.user.name, &ctx.user.groups, &held, &rules)
        .map_err(|why| ApiError::forbidden(GROUP, &ctx.resource.resource, name, &why))?;
    let selectors = list(&role["aggregationRule"], "clusterRoleSelectors");
    if selectors.is_empty() {
        return Ok(());
    }
    // Who may name roles to aggregate may gain anything: only the holder of everything may.
    confirm_no_escalation(&ctx.user.name, &ctx.user.groups, &held, &everything()).map_err(|_| {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        ApiError::forbidden(GROUP, &ctx.resource.resource, name, why)
    })
}

fn everything() -> [PolicyRule; 2] {
    let any = || vec!["*".to_owned()];
    [
        PolicyRule {
            verbs: any(),
            api_groups: any(),
            resources: any(),
            ..PolicyRule::default()
        },
        PolicyRule {
            verbs: any(),
            non_resource_urls: any(),
            ..PolicyRule::default()
        },
    ]
}

fn confirm_binding(binding: &Value, ctx: &Ctx<'_>) -> Result<(), ApiError> {
    if ctx.user.is_master() {
        return Ok(());
    }
    // An unreadable reference fails validation right after.
    let Some(reference) = RoleRef::parse(binding) else {
        return Ok(());
    };
    let index = ctx.state.rbac.refreshed(ctx.lookup);
    let bind = Action::Resource {
        verb: "bind",
        group: GROUP,
        resource: reference.resource(),
        subresource: "",
        namespace: ctx.namespace,
        name: reference.name(),
    };
    if index.allows(ctx.user, &bind) {
        return Ok(());
    }
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    let Some(rules) = index.role_rules(&reference, ctx.namespace) else {
        // Kubernetes names the binding's resource here.
        let resource = &ctx.resource.resource;
        return Err(ApiError::not_found(GROUP, resource, reference.name()));
    };
    let held = index.rules_for(ctx.user, ctx.namespace);
    confirm_no_escalation(&ctx.user.name, &ctx.user.groups, &held, rules)
        .map_err(|why| ApiError::forbidden(GROUP, &ctx.resource.resource, name, &why))
}

/// An update that touches only what the garbage collector changes: finalizers and owners.
fn only_collects(new: &Value, old: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object.get_mut("metadata") {
            for key in [
                "finalizers",
                "ownerReferences",
                "managedFields",
                "resourceVersion",
                "generation",
            ] {
                super::value::remove(meta, key);
            }
        }
        object
    };
    metadata::semantically_equal(&strip(new), &strip(old))
}

fn validate_role(role: &Value, ctx: &Ctx<'_>) -> Vec<Cause> {
    let mut errors = FieldErrors::default();
    let namespaced = ctx.resource.namespaced;
    let path = Path::root("rules");
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let path = path.index(index);
        let urls = list(rule, "nonResourceURLs");
        if list(rule, "verbs").is_empty() {
            errors.required(&path.child("verbs"), "");
        }
        if !urls.is_empty() {
            let at = path.child("nonResourceURLs");
            if namespaced {
                let text = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&at, urls.to_vec(), text);
            }
            if ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|key| !list(rule, key).is_empty())
            {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at, urls.to_vec(), text);
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(
                &path.child("apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if list(rule, "resources").is_empty() {
            errors.required(
                &path.child("resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
    if let Some(aggregation) = role.get("aggregationRule").filter(|rule| !rule.is_null()) {
        let root = Path::root("aggregationRule");
        let path = root.child("clusterRoleSelectors");
        let selectors = list(aggregation, "clusterRoleSelectors");
        if selectors.is_empty() {
            errors.required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for (index, selector) in selectors.iter().enumerate() {
            let before = errors.len();
            metadata::validate_selector(selector, &path.index(index), &mut errors);
            if errors.len() > before {
                errors.invalid(&path.index(index), Value::Null, "invalid label selector.");
            }
        }
    }
    errors.into_causes()
}

fn validate_binding(binding: &Value, ctx: &Ctx<'_>, errors: &mut FieldErrors) {
    let namespaced = ctx.resource.namespaced;
    let reference = &binding["roleRef"];
    let path = Path::root("roleRef");
    let group = text(reference, "apiGroup").unwrap_or_default();
    if group != GROUP {
        errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    let kind = text(reference, "kind").unwrap_or_default();
    if !kinds.contains(&kind) {
        errors.not_supported(&path.child("kind"), kind, kinds);
    }
    match text(reference, "name") {
        None => errors.required(&path.child("name"), ""),
        Some(name) => {
            for fault in NameRule::PathSegment.faults(name, false) {
                errors.invalid(&path.child("name"), name, &fault);
            }
        }
    }
    let path = Path::root("subjects");
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        validate_subject(subject, namespaced, &path.index(index), errors);
    }
}

fn validate_subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(subject, "name");
    if name.is_none() {
        errors.required(&path.child("name"), "");
    }
    let group = text(subject, "apiGroup").unwrap_or_default();
    match text(subject, "kind").unwrap_or_default() {
        "ServiceAccount" => {
            for fault in name.map(super::names::subdomain).unwrap_or_default() {
                errors.invalid(&path.child("name"), name.unwrap_or_default(), &fault);
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_none() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => {
            errors.not_supported(
                &path.child("kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            );
        }
    }
}

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
