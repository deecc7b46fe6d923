//! What the server serves, told to clients: discovery documents, version, health.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::core::Core;
use crate::error::ApiError;
use crate::http::{Accept, Body, Shape, Syntax, Target, json as respond, text};
use crate::kinds::Lookup as _;
use crate::openapi;
use crate::resource::{Registry, Resource, Subresource};

use std::sync::Arc;

/// The version that this server claims: the pinned minor of Kubernetes.
pub(crate) const GIT_VERSION: &str = "v1.37.2";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The groups of one version each, in the order in which Kubernetes ranks them.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// A group and its served versions, the preferred one first.
struct Group {
    name: String,
    versions: Vec<(String, Vec<Arc<Resource>>)>,
}

/// Answers whatever names no resource.
pub(crate) fn answer(
    core: &Core,
    target: &Target,
    head: &Parts,
) -> Result<Response<Body>, ApiError> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    match target {
        Target::CoreVersions => versions_or_groups(core, head, true),
        Target::Groups => versions_or_groups(core, head, false),
        Target::Group(name) => {
            let Some(group) = groups(core).into_iter().find(|group| group.name == *name) else {
                return Ok(page_not_found());
            };
            let mut document = group.legacy();
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            Ok(respond(200, syntax(head)?, &document))
        }
        Target::Version { group, version } => {
            let Some(found) = groups(core).into_iter().find(|found| found.name == *group) else {
                return Ok(page_not_found());
            };
            let mut versions = found.versions.into_iter();
            let Some((_, resources)) = versions.find(|(name, _)| name == version) else {
                return nothing_served(group);
            };
            Ok(respond(
                200,
                syntax(head)?,
                &resource_list(group, version, &resources),
            ))
        }
        Target::Other(path) => other(core, path, head),
        Target::Resource(_) => Err(ApiError::unknown_path()),
    }
}

fn other(core: &Core, path: &str, head: &Parts) -> Result<Response<Body>, ApiError> {
    match path {
        "/.well-known/openid-configuration" => {
            let document = core.authentication.openid_configuration();
            Ok(respond(200, Syntax::Json, &document))
        }
        "/openid/v1/jwks" => {
            let keys = core.authentication.key().key_set();
            let mut response = respond(200, Syntax::Json, &keys);
            let kind = HeaderValue::from_static("application/jwk-set+json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        "/version" => Ok(respond(200, syntax(head)?, &version())),
        "/" => Ok(respond(
            200,
            Syntax::Json,
            &json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}),
        )),
        _ if path.starts_with("/openapi/v3") => openapi(core, path),
        _ if is_health(path) => Ok(text(200, "ok")),
        _ => Ok(page_not_found()),
    }
}

fn openapi(core: &Core, path: &str) -> Result<Response<Body>, ApiError> {
    let served = core.registry.all();
    let rest = path.trim_start_matches("/openapi/v3").trim_matches('/');
    if rest.is_empty() {
        return Ok(respond(200, Syntax::Json, &openapi::index(&served)));
    }
    let (group, version) = openapi::place(rest).ok_or_else(ApiError::unknown_path)?;
    let definition = |name: &str| {
        core.one(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "",
            name,
        )
    };
    let document = openapi::document(group, version, &served, &definition);
    let document = document.ok_or_else(ApiError::unknown_path)?;
    let mut response = respond(200, Syntax::Json, &document);
    // The hash in the URL changes with the document.
    let forever = HeaderValue::from_static("public, immutable");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, forever);
    Ok(response)
}

/// What the server says of a place that no resource has: a `Status` within its own groups.
pub(crate) fn nothing_served(group: &str) -> Result<Response<Body>, ApiError> {
    if Registry::is_builtin_group(group) {
        return Err(ApiError::unknown_path());
    }
    Ok(page_not_found())
}

/// What the server says of paths outside the groups it serves: words, not a `Status`.
pub(crate) fn page_not_found() -> Response<Body> {
    text(404, "404 page not found\n")
}

/// `/healthz`, `/livez`, `/readyz` and their single checks.
fn is_health(path: &str) -> bool {
    let mut parts = path.trim_start_matches('/').split('/');
    let known = matches!(parts.next(), Some("healthz" | "livez" | "readyz"));
    known && matches!(parts.next(), None | Some("" | "ping" | "log" | "etcd"))
}

fn versions_or_groups(
    core: &Core,
    head: &Parts,
    of_core: bool,
) -> Result<Response<Body>, ApiError> {
    let accept = Accept::negotiate(&head.headers, &[Shape::Discovery, Shape::Full])?;
    let groups: Vec<_> = groups(core)
        .into_iter()
        .filter(|group| group.name.is_empty() == of_core)
        .collect();
    if accept.shape == Shape::Discovery {
        let items: Vec<_> = groups.iter().map(Group::aggregated).collect();
        let document = json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {}, "items": items,
        });
        let mut response = respond(200, accept.syntax, &document);
        let kind = HeaderValue::from_static(AGGREGATED);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    let document = if of_core {
        json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        })
    } else {
        let groups: Vec<_> = groups.iter().map(Group::legacy).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    };
    Ok(respond(200, accept.syntax, &document))
}

fn syntax(head: &Parts) -> Result<Syntax, ApiError> {
    Ok(Accept::negotiate(&head.headers, &[Shape::Full])?.syntax)
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// Everything served, by group: built-in ones in their rank, then custom ones by name.
fn groups(core: &Core) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for resource in core.registry.all() {
        let index = match groups.iter().position(|group| group.name == resource.group) {
            Some(index) => index,
            None => {
                groups.push(Group {
                    name: resource.group.clone(),
                    versions: Vec::new(),
                });
                groups.len() - 1
            }
        };
        let versions = &mut groups[index].versions;
        match versions
            .iter_mut()
            .find(|(version, _)| *version == resource.version)
        {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((resource.version.clone(), vec![resource])),
        }
    }
    for group in &mut groups {
        group
            .versions
            .sort_by_key(|(name, _)| std::cmp::Reverse(version_rank(name)));
    }
    let rank = |group: &Group| GROUP_ORDER.iter().position(|name| *name == group.name);
    groups.sort_by_key(|group| (rank(group).unwrap_or(usize::MAX), group.name.clone()));
    groups
}

/// Kubernetes' order of versions: GA before beta before alpha, then by number; others last.
pub(crate) fn version_rank(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let name = std::cmp::Reverse(version.to_owned());
    let unknown = (0, 0, 0, name.clone());
    let Some(rest) = version.strip_prefix('v') else {
        return unknown;
    };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(major) = rest[..digits].parse::<u64>() else {
        return unknown;
    };
    let minor = |text: &str| text.parse::<u64>().ok();
    match &rest[digits..] {
        "" => (3, major, 0, name),
        tail => {
            let beta = tail
                .strip_prefix("beta")
                .and_then(minor)
                .map(|minor| (2, minor));
            let alpha = tail
                .strip_prefix("alpha")
                .and_then(minor)
                .map(|minor| (1, minor));
            beta.or(alpha)
                .map_or(unknown, |(stage, minor)| (stage, major, minor, name))
        }
    }
}

// === impl Group ===

impl Group {
    fn legacy(&self) -> Value {
        let version = |version: &String| json!({"groupVersion": format!("{}/{version}", self.name), "version": version});
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(name, _)| version(name))
            .collect();
        json!({"name": self.name, "versions": versions, "preferredVersion": versions.first()})
    }

    fn aggregated(&self) -> Value {
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(version, resources)| {
                let resources: Vec<_> = resources.iter().map(|r| aggregated_resource(r)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let metadata = if self.name.is_empty() {
            json!({})
        } else {
            json!({"name": self.name})
        };
        json!({"metadata": metadata, "versions": versions})
    }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    // Built-in kinds leave out group and version where they are the resource's own.
    let own = match resource.custom {
        Some(_) => kind(&resource.group, &resource.version, &resource.kind),
        None => kind("", "", &resource.kind),
    };
    let mut document = json!({
        "resource": resource.resource, "responseKind": own,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        document["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        document["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let list: Vec<_> = resource
            .subresources
            .iter()
            .map(|sub| {
                let (group, version) = kind_of(sub, resource);
                json!({
                    "subresource": sub.name, "responseKind": kind(group, version, &sub.kind),
                    "verbs": sub.verbs,
                })
            })
            .collect();
        document["subresources"] = json!(list);
    }
    document
}

fn resource_list(group: &str, version: &str, resources: &[Arc<Resource>]) -> Value {
    let mut list = Vec::new();
    for resource in resources {
        let mut entry = json!({
            "name": resource.resource, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.kind,
            "verbs": verbs(resource),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        // A custom kind's hash is of its storage version, which is not known here.
        if resource.custom.is_none() && resource.verbs.contains("get") {
            entry["storageVersionHash"] = json!(storage_version_hash(resource));
        }
        list.push(entry);
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.resource, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if !sub.version.is_empty() {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            list.push(entry);
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let mut document = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        document["apiVersion"] = json!("v1");
    }
    document["groupVersion"] = json!(group_version);
    document["resources"] = json!(list);
    document
}

/// The verbs in the order of real documents, which differs for custom kinds.
fn verbs(resource: &Resource) -> &'static [&'static str] {
    match resource.custom {
        Some(_) => &[
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "create",
            "update",
            "watch",
        ],
        None => resource.verbs.names(),
    }
}

/// Tells clients whether the stored form may have changed: a hash of what it is stored as.
fn storage_version_hash(resource: &Resource) -> String {
    let stored = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
    STANDARD.encode(&sha2::Sha256::digest(stored.as_bytes())[..8])
}

fn kind_of<'a>(sub: &'a Subresource, resource: &'a Resource) -> (&'a str, &'a str) {
    if sub.version.is_empty() {
        return match resource.custom {
            Some(_) => (&resource.group, &resource.version),
            None => ("", ""),
        };
    }
    (&sub.group, &sub.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_by_stability_then_number() {
        let mut versions = [
            "v1alpha1",
            "foo1",
            "v2",
            "v11beta2",
            "v10",
            "v3beta1",
            "v12alpha1",
            "v1",
        ];
        versions.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v3beta1",
                "v12alpha1",
                "v1alpha1",
                "foo1"
            ]
        );
    }
}
