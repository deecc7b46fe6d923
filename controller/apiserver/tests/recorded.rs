//! Nearly three hundred requests with the answers that a real kube-apiserver 1.37.2 gave
//! (`tools/record_answers.py`): defaults, refusals with their causes, reviews, rights.
//!
//! Compared are the code; for a refusal the reason and each cause's type and field; for success the
//! object without what differs from run to run.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use fairlead_apiserver::{ApiServer, Controllers};
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};

/// Recorded answers that this server gives otherwise, and why.
const KNOWN: &[(&str, &str)] = &[
    (
        "node status",
        "conditions keep only the times that their writer set",
    ),
    (
        "pod del2",
        "a pod that goes at once is shown as it was, without the marks of a deletion",
    ),
    ("ssr", "the administrator has another name"),
    ("ssrr", "rules come in another order"),
];

#[tokio::test]
async fn requests_are_answered_as_a_real_server_did() {
    let server = ApiServer::builder()
        .controllers(Controllers::NONE)
        .build()
        .await
        .unwrap();
    let client = server.client();
    let mut differences = Vec::new();
    let mut count = 0;
    for line in include_str!("recorded.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let (code, body) = replay(&client, &recorded).await;
        let name = recorded["name"].as_str().unwrap();
        let same = agrees(&recorded, code, &body);
        let known = KNOWN.iter().any(|(known, _)| *known == name);
        count += 1;
        if same == known {
            let got = if code >= 400 {
                refusal(&body)
            } else {
                normal(&body)
            };
            let wanted = if code >= 400 {
                &recorded
            } else {
                &recorded["object"]
            };
            differences.push(format!("{name}: {code} {got}\n  recorded {wanted}"));
        }
    }
    assert!(count > 280, "the recording is there");
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

async fn replay(client: &Client, recorded: &Value) -> (u16, Value) {
    let path = recorded["path"].as_str().unwrap();
    let user = recorded["user"].as_str();
    if recorded["method"] != "EDIT" {
        let method = recorded["method"].as_str().unwrap();
        return send(client, method, path, recorded.get("body"), user).await;
    }
    let (_, mut object) = send(client, "GET", path, None, None).await;
    for pair in recorded["set"].as_array().unwrap() {
        set(&mut object, pair[0].as_str().unwrap(), &pair[1]);
    }
    send(client, "PUT", path, Some(&object), None).await
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
    user: Option<&str>,
) -> (u16, Value) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("user-agent", "recorded/1");
    if let Some(user) = user {
        request = request.header("impersonate-user", user);
    }
    let bytes = body
        .map(|body| serde_json::to_vec(body).unwrap())
        .unwrap_or_default();
    let request = request.body(kube::client::Body::from(bytes)).unwrap();
    let response = client.send(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Sets (or, with null, removes) what a dotted path names.
fn set(object: &mut Value, path: &str, value: &Value) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut here = object;
    for key in parents.split('.').filter(|key| !key.is_empty()) {
        here = match key.parse::<usize>() {
            Ok(index) if here.is_array() => &mut here[index],
            _ => &mut here[key],
        };
    }
    if value.is_null() {
        here.as_object_mut().unwrap().remove(last);
    } else {
        here[last] = value.clone();
    }
}

fn agrees(recorded: &Value, code: u16, body: &Value) -> bool {
    if recorded["code"] != code {
        return false;
    }
    if code >= 400 {
        let refusal = refusal(body);
        let message = recorded
            .get("message")
            .is_none_or(|text| *text == body["message"]);
        return refusal["reason"] == recorded["reason"]
            && refusal["causes"] == recorded["causes"]
            && message;
    }
    recorded
        .get("object")
        .is_none_or(|object| *object == normal(body))
}

fn refusal(body: &Value) -> Value {
    let causes = body["details"]["causes"].as_array();
    let text = |cause: &Value, key: &str| cause[key].as_str().unwrap_or_default().to_owned();
    let mut causes: Vec<String> = causes
        .into_iter()
        .flatten()
        .map(|cause| format!("{} {}", text(cause, "reason"), text(cause, "field")))
        .collect();
    causes.sort();
    json!({"reason": body["reason"], "causes": causes, "message": body["message"]})
}

/// The object without what differs from run to run.
fn normal(value: &Value) -> Value {
    const VOLATILE: &[&str] = &[
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "lastTransitionTime",
        "token",
        "expirationTimestamp",
    ];
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| !VOLATILE.contains(&key.as_str()))
            .map(|(key, value)| {
                let port = matches!(key.as_str(), "nodePort" | "healthCheckNodePort");
                (
                    key.clone(),
                    if port { json!("PORT") } else { normal(value) },
                )
            })
            .collect(),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::String(text) if text.starts_with("kube-api-access-") => json!("kube-api-access-X"),
        Value::String(text) if is_service_ip(text) => json!("IP"),
        Value::String(text) if is_uid(text) => json!("UID"),
        other => other.clone(),
    }
}

fn is_service_ip(text: &str) -> bool {
    let ip = text.parse::<std::net::Ipv4Addr>();
    ip.is_ok_and(|ip| ip.octets()[..2] == [10, 96])
}

fn is_uid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
