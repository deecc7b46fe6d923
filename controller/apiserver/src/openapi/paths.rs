//! `paths`: which verbs a resource answers, and their parameters.

use serde_json::{Map, Value, json};

use super::schemas::{list_name, name, reference};
use crate::resource::Resource;

/// Adds the paths of a resource and its subresources.
pub(super) fn add(resource: &Resource, paths: &mut Map<String, Value>) {
    let base = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let collection = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.resource),
        false => format!("{base}/{}", resource.resource),
    };
    let kind = (
        resource.group.as_str(),
        resource.version.as_str(),
        resource.kind.as_str(),
    );
    let schema = name(resource);
    let list = list_name(resource);
    let custom = resource.custom.is_some();
    let mut operations = parameters(resource.namespaced, false);
    for verb in ["list", "create", "deletecollection"] {
        if resource.verbs.contains(verb) {
            let answer = if verb == "list" { &list } else { &schema };
            operations.insert(
                method(verb).to_owned(),
                operation(verb, kind, answer, custom),
            );
        }
    }
    paths.insert(collection.clone(), Value::Object(operations));
    let item = format!("{collection}/{{name}}");
    let mut operations = parameters(resource.namespaced, true);
    for verb in ["get", "update", "patch", "delete"] {
        if resource.verbs.contains(verb) {
            operations.insert(
                method(verb).to_owned(),
                operation(verb, kind, &schema, custom),
            );
        }
    }
    if operations.len() > 1 {
        paths.insert(item.clone(), Value::Object(operations));
    }
    for subresource in &resource.subresources {
        let own = |own: &'_ str, parent: &'_ str| -> String {
            if own.is_empty() {
                parent.to_owned()
            } else {
                own.to_owned()
            }
        };
        let group = match subresource.version.as_str() {
            "" => resource.group.clone(),
            _ => subresource.group.clone(),
        };
        let version = own(&subresource.version, &resource.version);
        let kind = (group.as_str(), version.as_str(), subresource.kind.as_str());
        let schema = crate::schema::builtin_name(kind.0, kind.1, kind.2)
            .map_or_else(|| name(resource), str::to_owned);
        let mut operations = parameters(resource.namespaced, true);
        for verb in subresource.verbs {
            operations.insert(
                method(verb).to_owned(),
                operation(verb, kind, &schema, custom),
            );
        }
        paths.insert(
            format!("{item}/{}", subresource.name),
            Value::Object(operations),
        );
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn operation(verb: &str, kind: (&str, &str, &str), schema: &str, custom: bool) -> Value {
    let action = match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    };
    let answer = json!({"description": "OK", "content": {"application/json": {"schema": reference(schema)}}});
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" | "deletecollection" => &[
            "dryRun",
            "gracePeriodSeconds",
            "orphanDependents",
            "propagationPolicy",
        ],
        "list" => &[
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "watch",
        ],
        _ => &[],
    };
    let parameters: Vec<_> = names.iter().map(|name| parameter(name, "query")).collect();
    let mut operation = json!({
        "operationId": format!("{action}{}{}{}", pascal(kind.0), pascal(kind.1), kind.2),
        "parameters": parameters,
        "responses": {"200": answer},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.0, "version": kind.1, "kind": kind.2},
    });
    let bodies: &[&str] = match verb {
        "create" | "update" => &["application/json", "application/yaml"],
        // kubectl chooses its patches by this list: custom resources have no strategic merge.
        "patch" if custom => &PATCHES[..3],
        "patch" => &PATCHES,
        _ => &[],
    };
    if !bodies.is_empty() {
        let schema = match verb {
            "patch" => reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
            _ => reference(schema),
        };
        let content: Map<String, Value> = bodies
            .iter()
            .map(|kind| ((*kind).to_owned(), json!({"schema": schema})))
            .collect();
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation
}

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The parameters in the path itself.
fn parameters(namespaced: bool, named: bool) -> Map<String, Value> {
    let mut list = Vec::new();
    if named {
        list.push(parameter("name", "path"));
    }
    if namespaced {
        list.push(parameter("namespace", "path"));
    }
    let mut map = Map::new();
    map.insert("parameters".to_owned(), Value::Array(list));
    map
}

fn parameter(name: &str, place: &str) -> Value {
    let kind = match name {
        "force" | "watch" | "orphanDependents" => "boolean",
        "limit" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    let mut parameter =
        json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = json!(true);
    }
    parameter
}

/// `rbac.authorization.k8s.io` as `RbacAuthorizationK8sIo`; the core group is `Core`.
fn pascal(text: &str) -> String {
    if text.is_empty() {
        return "Core".to_owned();
    }
    let words = text.split(['.', '-']).filter_map(|word| {
        let first = word.chars().next()?;
        Some(format!(
            "{}{}",
            first.to_ascii_uppercase(),
            &word[first.len_utf8()..]
        ))
    });
    words.collect()
}
