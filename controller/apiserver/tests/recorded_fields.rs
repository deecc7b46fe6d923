//! More than two hundred requests with the answers that a real kube-apiserver 1.37.2 gave (`tools/record_fields.py`):
//! every kind of patch, server-side apply, field validation, and custom resources from their definition to their end.
//!
//! Compared are the code and the warnings; for a refusal the reason, each cause's type and field, and the message where it
//! was recorded; for success the object with its managedFields, without what differs from run to run.

use fairlead_apiserver::{ApiServer, Controllers};
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};

/// Recorded answers that this server gives otherwise, and why.
const KNOWN: &[(&str, &str)] = &[
    (
        "wrong ver",
        "a version that isn't served has no schema to warn of",
    ),
    (
        "apply beta conflict",
        "versions of one resource are walked with the schema that the request names",
    ),
    (
        "badcrd cel field",
        "rules aren't checked for their types when a CRD is created",
    ),
    (
        "badcrd cel bool",
        "rules aren't checked for their types when a CRD is created",
    ),
    ("badcrd webhook", "no conversion webhooks are called"),
];

struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

#[tokio::test]
async fn fields_are_owned_patched_and_refused_as_a_real_server_did() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .expect("a server without a data folder starts");
    let client = server.client();
    let mut differences = Vec::new();
    let mut count = 0;
    for line in include_str!("recorded_fields.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).expect("each line is JSON");
        let answer = send(&client, &recorded).await;
        let name = recorded["name"].as_str().expect("each request has a name");
        let known = KNOWN.iter().any(|(known, _)| *known == name);
        let difference = difference(&recorded, &answer);
        count += 1;
        match difference {
            Some(difference) if !known => differences.push(format!("{name}: {difference}")),
            None if known => differences.push(format!("{name}: agrees by now")),
            _ => {}
        }
    }
    assert!(count > 220, "the recording is there");
    let all = differences.join("\n");
    assert!(
        differences.is_empty(),
        "{} differ:\n{all}",
        differences.len()
    );
}

async fn send(client: &Client, recorded: &Value) -> Answer {
    let text = |key: &str| recorded[key].as_str().unwrap_or_default();
    let body = match &recorded["body"] {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let mut request = Request::builder()
        .method(text("method"))
        .uri(text("path"))
        .header("user-agent", "recorded/1");
    if !body.is_empty() {
        request = request.header("content-type", text("type"));
    }
    let request = request
        .body(kube::client::Body::from(body))
        .expect("a valid request");
    let response = client.send(request).await.expect("the server answers");
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings
        .map(|w| w.to_str().unwrap_or_default().to_owned())
        .collect();
    let code = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    Answer {
        code,
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
        warnings,
    }
}

fn difference(recorded: &Value, answer: &Answer) -> Option<String> {
    let differs = |what: &str, real: &Value, ours: &Value| {
        (real != ours).then(|| format!("{what}\n  real {real}\n  ours {ours}"))
    };
    let ours = Value::from(answer.code);
    if recorded["code"] != ours {
        return differs(
            "code",
            &recorded["code"],
            &json!([ours, answer.body["message"]]),
        );
    }
    let warnings = recorded
        .get("warnings")
        .cloned()
        .unwrap_or_else(|| json!([]));
    if let Some(difference) = differs("warnings", &warnings, &json!(answer.warnings)) {
        return Some(difference);
    }
    if answer.code < 400 {
        return differs(
            "object",
            &normal(&recorded["object"]),
            &normal(&answer.body),
        );
    }
    let causes = json!(causes(&answer.body));
    differs("reason", &recorded["reason"], &answer.body["reason"])
        .or_else(|| differs("causes", &recorded["causes"], &causes))
        .or_else(|| differs("message", recorded.get("message")?, &answer.body["message"]))
}

fn causes(body: &Value) -> Vec<String> {
    let list = body["details"]["causes"].as_array();
    let text = |cause: &Value, key: &str| cause[key].as_str().unwrap_or_default().to_owned();
    let mut causes: Vec<String> = list
        .into_iter()
        .flatten()
        .map(|cause| format!("{} {}", text(cause, "reason"), text(cause, "field")))
        .collect();
    causes.sort();
    causes
}

/// Entries come in the order of their times.
fn sorted(entries: &Value) -> Value {
    let mut entries: Vec<_> = entries
        .as_array()
        .into_iter()
        .flatten()
        .map(normal)
        .collect();
    entries.sort_by_key(|entry| {
        ["manager", "operation", "subresource", "apiVersion"].map(|key| entry[key].to_string())
    });
    Value::Array(entries)
}

/// The object without what differs from run to run.
fn normal(value: &Value) -> Value {
    const VOLATILE: &[&str] = &[
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "lastTransitionTime",
        "storageVersionHash",
    ];
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| !VOLATILE.contains(&key.as_str()))
            .map(|(key, value)| {
                let value = match key.as_str() {
                    "time" => json!("TIME"),
                    "clusterIP" | "clusterIPs" => json!("IP"),
                    "managedFields" => sorted(value),
                    _ => normal(value),
                };
                (key.clone(), value)
            })
            .collect(),
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}
