//! Custom resource definitions: what a served version of one needs at run time.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::resource::{Resource, Subresource, Verbs, table_name};
use crate::schema::Schema;

/// What a resource of a CRD has beyond a built-in one.
#[derive(Debug, Clone)]
pub struct Custom {
    /// The CRD's name and uid.
    pub crd: String,
    pub schema: Option<Arc<Schema>>,
    pub has_status: bool,
    /// `additionalPrinterColumns` of the version, as they are written in the CRD.
    pub printer_columns: Vec<Value>,
    pub selectable_fields: Vec<String>,
}

/// The resources that a CRD asks for, one for each served version.
pub fn resources(crd: &Value) -> Vec<Resource> {
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = &spec["names"];
    let kind = text(&names["kind"]);
    let plural = text(&names["plural"]);
    let group = text(&spec["group"]);
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    let or = |value: &Value, default: String| {
        value
            .as_str()
            .filter(|set| !set.is_empty())
            .map_or(default, str::to_owned)
    };
    let versions = spec["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == true)
        .map(|version| {
            let has_status = version["subresources"]["status"].is_object();
            let fields = version["selectableFields"].as_array().into_iter().flatten();
            Resource {
                group: group.clone(),
                version: text(&version["name"]),
                resource: plural.clone(),
                kind: kind.clone(),
                list_kind: or(&names["listKind"], format!("{kind}List")),
                singular: or(&names["singular"], kind.to_lowercase()),
                short_names: strings(&names["shortNames"]),
                categories: strings(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                verbs: Verbs::All,
                subresources: subresources(version, &kind),
                table: table_name(&group, &plural),
                custom: Some(Arc::new(Custom {
                    crd: text(&crd["metadata"]["name"]),
                    schema: None,
                    has_status,
                    printer_columns: version["additionalPrinterColumns"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                    selectable_fields: fields.map(|field| text(&field["jsonPath"])).collect(),
                })),
            }
        })
        .collect()
}

fn subresources(version: &Value, kind: &str) -> Vec<Subresource> {
    let mut list = Vec::new();
    if version["subresources"]["scale"].is_object() {
        list.push(Subresource {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs: crate::resource::READ_WRITE,
        });
    }
    if version["subresources"]["status"].is_object() {
        list.push(Subresource {
            name: "status".to_owned(),
            group: String::new(),
            version: String::new(),
            kind: kind.to_owned(),
            verbs: crate::resource::READ_WRITE,
        });
    }
    list
}

/// The CRD with the status of one whose names are accepted and that is served, or `None` if it
/// has that already.
pub(crate) fn established(crd: &Value, now: &str) -> Option<Value> {
    let conditions = crd["status"]["conditions"].as_array();
    let is_set = |condition: &Value| condition["type"] == "Established";
    if conditions.is_some_and(|list| list.iter().any(is_set)) {
        return None;
    }
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": now,
            "reason": reason, "message": message,
        })
    };
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<_> = versions
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let mut crd = crd.clone();
    crd["status"] = json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": stored,
    });
    Some(crd)
}
