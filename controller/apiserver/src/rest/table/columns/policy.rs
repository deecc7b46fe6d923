//! Columns of rights, limits and extensions of the API.

use serde_json::{Value, json};

use super::{AGE, CREATED, Column, GENERIC, NAME, column, list, number, or, text, wide};

pub(super) fn admission(kind: &str) -> &'static [Column] {
    match kind {
        "MutatingAdmissionPolicy" => MUTATING_POLICY,
        "MutatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicyBinding" => POLICY_BINDING,
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => WEBHOOKS,
        "ValidatingAdmissionPolicy" => VALIDATING_POLICY,
        _ => GENERIC,
    }
}

pub(super) const BINDING: &[Column] = &[
    NAME,
    column("Role", "string", |o, _| {
        let role = &o["roleRef"];
        json!(format!("{}/{}", text(&role["kind"]), text(&role["name"])))
    }),
    AGE,
    wide(column("Users", "string", |o, _| json!(subjects(o, "User")))),
    wide(column("Groups", "string", |o, _| {
        json!(subjects(o, "Group"))
    })),
    wide(column("ServiceAccounts", "string", |o, _| {
        json!(subjects(o, "ServiceAccount"))
    })),
];

pub(super) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", "string", |o, _| {
        json!(count(&o["spec"]["minAvailable"], "N/A"))
    }),
    column("Max Unavailable", "string", |o, _| {
        json!(count(&o["spec"]["maxUnavailable"], "N/A"))
    }),
    column("Allowed Disruptions", "integer", |o, _| {
        number(&o["status"]["disruptionsAllowed"])
    }),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    column("Request", "string", |o, _| json!(quota(o, false))),
    column("Limit", "string", |o, _| json!(quota(o, true))),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    column("Value", "integer", |o, _| number(&o["value"])),
    column("Global-Default", "boolean", |o, _| {
        json!(o["globalDefault"] == true)
    }),
    AGE,
    column("PreemptionPolicy", "string", |o, _| {
        o["preemptionPolicy"].clone()
    }),
];

pub(super) const RUNTIME_CLASS: &[Column] = &[
    NAME,
    column("Handler", "string", |o, _| o["handler"].clone()),
    AGE,
];

pub(super) const DEFINITION: &[Column] = &[
    NAME,
    column("Scope", "string", |o, _| o["spec"]["scope"].clone()),
    column("Versions", "string", |o, _| json!(versions(o))),
    CREATED,
    wide(column("Group", "string", |o, _| o["spec"]["group"].clone())),
    wide(column("Kind", "string", |o, _| {
        o["spec"]["names"]["kind"].clone()
    })),
    wide(column("ShortNames", "string", |o, _| {
        json!(super::joined(&o["spec"]["names"]["shortNames"], ""))
    })),
    wide(column("Established", "boolean", |o, _| {
        let conditions = list(&o["status"]["conditions"]);
        json!(
            conditions
                .iter()
                .any(|c| c["type"] == "Established" && c["status"] == "True")
        )
    })),
];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    column("Service", "string", |o, _| {
        let service = &o["spec"]["service"];
        let named = [text(&service["namespace"]), text(&service["name"])].join("/");
        json!(if service.is_object() {
            named
        } else {
            "Local".to_owned()
        })
    }),
    column("Available", "string", |o, _| {
        let conditions = list(&o["status"]["conditions"]);
        let available = conditions.iter().find(|c| c["type"] == "Available");
        json!(available.map_or("Unknown", |condition| text(&condition["status"])))
    }),
    AGE,
];

pub(super) const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", |o, _| {
        or(&o["spec"]["signerName"], "<none>")
    }),
    column("Requestor", "string", |o, _| {
        json!(text(&o["spec"]["username"]))
    }),
    column("RequestedDuration", "string", |o, _| {
        let seconds = o["spec"]["expirationSeconds"].as_i64();
        json!(seconds.map_or_else(|| "<none>".to_owned(), super::super::human_duration))
    }),
    column("Condition", "string", |o, _| {
        let kinds = list(&o["status"]["conditions"])
            .iter()
            .map(|c| text(&c["type"]).to_owned());
        let mut kinds: Vec<_> = kinds.collect();
        if kinds.is_empty() {
            kinds.push("Pending".to_owned());
        }
        if !text(&o["status"]["certificate"]).is_empty() {
            kinds.push("Issued".to_owned());
        }
        json!(kinds.join(","))
    }),
];

const WEBHOOKS: &[Column] = &[
    NAME,
    column("Webhooks", "integer", |o, _| {
        json!(list(&o["webhooks"]).len())
    }),
    AGE,
];

const VALIDATING_POLICY: &[Column] = &[
    NAME,
    column("Validations", "integer", |o, _| {
        json!(list(&o["spec"]["validations"]).len())
    }),
    column("ParamKind", "string", |o, _| json!(param_kind(o))),
    AGE,
];

const MUTATING_POLICY: &[Column] = &[
    NAME,
    column("Mutations", "integer", |o, _| {
        json!(list(&o["spec"]["mutations"]).len())
    }),
    column("ParamKind", "string", |o, _| json!(param_kind(o))),
    AGE,
];

const POLICY_BINDING: &[Column] = &[
    NAME,
    column("PolicyName", "string", |o, _| {
        o["spec"]["policyName"].clone()
    }),
    column("ParamRef", "string", |o, _| {
        let reference = &o["spec"]["paramRef"];
        let (namespace, name) = (text(&reference["namespace"]), text(&reference["name"]));
        json!(match (reference.is_object(), namespace.is_empty()) {
            (false, _) => "<unset>".to_owned(),
            (true, true) => format!("*/{name}"),
            (true, false) => format!("{namespace}/{name}"),
        })
    }),
    AGE,
];

fn subjects(binding: &Value, kind: &str) -> String {
    let named = list(&binding["subjects"])
        .iter()
        .filter(|subject| subject["kind"] == kind);
    let names = named.map(|subject| match kind {
        "ServiceAccount" => [text(&subject["namespace"]), text(&subject["name"])].join("/"),
        _ => text(&subject["name"]).to_owned(),
    });
    names.collect::<Vec<_>>().join(", ")
}

fn count(value: &Value, none: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => none.to_owned(),
    }
}

/// `name: used/hard` of the requests, or of the limits.
fn quota(object: &Value, limits: bool) -> String {
    let hard = object["status"]["hard"].as_object();
    let shown = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = count(&object["status"]["used"][name], "0");
            format!("{name}: {used}/{}", count(hard, "0"))
        });
    shown.collect::<Vec<_>>().join(", ")
}

fn versions(definition: &Value) -> String {
    let shown = list(&definition["spec"]["versions"]).iter().map(|version| {
        let name = text(&version["name"]);
        match (version["storage"] == true, version["served"] == true) {
            (true, _) => format!("{name}(storage)"),
            (false, true) => name.to_owned(),
            (false, false) => format!("{name}(unserved)"),
        }
    });
    shown.collect::<Vec<_>>().join(",")
}

fn param_kind(policy: &Value) -> String {
    let kind = &policy["spec"]["paramKind"];
    if !kind.is_object() {
        return "<unset>".to_owned();
    }
    [text(&kind["apiVersion"]), text(&kind["kind"])].join("/")
}
