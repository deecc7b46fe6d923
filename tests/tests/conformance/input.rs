//! Bad input: the same codes, reasons and words.

use anyhow::{Context, ensure};
use http::{Request, header::CONTENT_TYPE};
use serde_json::json;

use crate::{Case, same};

pub(crate) async fn a_body_beyond_the_limit_is_too_large(case: Case) -> anyhow::Result<()> {
    let map = json!({ "metadata": { "name": "one" }, "data": { "key": "x".repeat(3 << 20) } });
    let (code, status) = case.raw(post(&case, "", JSON, map.to_string())?).await?;
    same!(code, 413);
    same!(status["reason"], "RequestEntityTooLarge");
    same!(
        status["message"],
        "Request entity too large: limit is 3145728"
    );
    // To the byte, blanks included.
    let mut body = json!({ "metadata": { "name": "one" } }).to_string();
    body.push_str(&" ".repeat((3 << 20) - body.len()));
    same!(case.raw(post(&case, "", JSON, body.clone())?).await?.0, 201);
    body.push(' ');
    same!(case.raw(post(&case, "", JSON, body)?).await?.0, 413);
    Ok(())
}

/// Whatever JSON it is, a client gets an answer, and one that blames the client or does as it says.
pub(crate) async fn a_body_of_any_form_is_answered(case: Case) -> anyhow::Result<()> {
    case.raw(post(&case, "", JSON, r#"{"metadata": {"name": "one"}}"#)?)
        .await?;
    let one = format!("{}/one", maps(&case));
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
    let token = format!(
        "/api/v1/namespaces/{}/serviceaccounts/default/token",
        case.namespace
    );
    for (method, uri, content_type) in [
        ("POST", maps(&case), JSON),
        ("POST", maps(&case), YAML),
        ("PUT", one.clone(), JSON),
        ("DELETE", format!("{}/none", maps(&case)), JSON),
        (
            "DELETE",
            format!("{}?labelSelector=none", maps(&case)),
            JSON,
        ),
        ("PATCH", one.clone(), "application/merge-patch+json"),
        (
            "PATCH",
            one.clone(),
            "application/strategic-merge-patch+json",
        ),
        ("PATCH", one.clone(), "application/json-patch+json"),
        (
            "PATCH",
            format!("{one}?fieldManager=a"),
            "application/apply-patch+yaml",
        ),
        ("POST", review, JSON),
        ("POST", token, JSON),
    ] {
        for body in ANY_JSON {
            let request = Request::builder()
                .method(method)
                .uri(&uri)
                .header(CONTENT_TYPE, content_type)
                .body(body.as_bytes().to_vec())?;
            let answer = case.raw(request).await;
            let (code, answer) =
                answer.with_context(|| format!("{method} {uri} {content_type} {body}"))?;
            // Go's decoders refuse some of them with a 500, too.
            ensure!(
                (200..=500).contains(&code),
                "{method} {uri} {content_type} {body}: {code} {answer}"
            );
        }
    }
    Ok(())
}

pub(crate) async fn broken_bodies_are_bad_requests(case: Case) -> anyhow::Result<()> {
    for (content_type, body) in [
        (JSON, "{"),
        (JSON, ""),
        (JSON, "[]"),
        (JSON, r#"{"kind": "ConfigMap", "metadata": 1}"#),
        (
            JSON,
            r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one"}}"#,
        ),
        (
            JSON,
            r#"{"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "one"}}"#,
        ),
        (JSON, r#"{"metadata": {"name": "one"}, "data": {"key": 1}}"#),
        (YAML, "metadata: [name: one"),
        (YAML, "metadata:\n\tname: one"),
        (YAML, "data: {key: 1}\nmetadata: {name: one}"),
    ] {
        let (code, status) = case.raw(post(&case, "", content_type, body)?).await?;
        let found = (code, status["reason"].as_str());
        ensure!(
            found == (400, Some("BadRequest")),
            "{body}: {code} {status}"
        );
    }
    let maps = case.api::<k8s_openapi::api::core::v1::ConfigMap>();
    ensure!(maps.get_opt("one").await?.is_none());
    Ok(())
}

pub(crate) async fn good_yaml_is_as_good_as_json(case: Case) -> anyhow::Result<()> {
    let body = "metadata: {name: one}\ndata: {key: value}\n";
    let (code, made) = case.raw(post(&case, "", YAML, body)?).await?;
    same!((code, made["data"]["key"].as_str()), (201, Some("value")));
    Ok(())
}

pub(crate) async fn unknown_and_repeated_fields_are_warned_of_refused_or_ignored(
    case: Case,
) -> anyhow::Result<()> {
    let body = |name: &str| {
        format!(
            r#"{{"metadata": {{"name": "{name}"}}, "data": {{"a": "1", "a": "2"}}, "surplus": 1}}"#
        )
    };
    let words = [r#"unknown field "surplus""#, r#"duplicate field "data.a""#];
    for (name, query) in [("one", ""), ("two", "fieldValidation=Warn")] {
        let request = post(&case, query, JSON, body(name))?;
        let (code, warnings) = case.warnings(request).await?;
        same!(code, 201);
        for word in words {
            let quoted = word.replace('"', "\\\"");
            let told = warnings.iter().any(|warning| warning.contains(&quoted));
            ensure!(told, "{word} is not in {warnings:?}");
        }
    }
    let request = post(&case, "fieldValidation=Ignore", JSON, body("three"))?;
    same!(case.warnings(request).await?, (201, Vec::<String>::new()));
    let strict = post(&case, "fieldValidation=Strict", JSON, body("four"))?;
    let (code, status) = case.raw(strict).await?;
    same!((code, status["reason"].as_str()), (400, Some("BadRequest")));
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains("strict decoding error: "), "{message}");
    ensure!(words.iter().all(|word| message.contains(word)), "{message}");
    let unknown = post(&case, "fieldValidation=Perhaps", JSON, body("five"))?;
    let (code, status) = case.raw(unknown).await?;
    same!((code, status["reason"].as_str()), (422, Some("Invalid")));
    Ok(())
}

pub(crate) async fn bad_names_tell_their_field(case: Case) -> anyhow::Result<()> {
    for (metadata, code, reason, field) in [
        (
            json!({ "name": "Upper" }),
            422,
            "FieldValueInvalid",
            "metadata.name",
        ),
        (
            json!({ "name": "a".repeat(254) }),
            422,
            "FieldValueInvalid",
            "metadata.name",
        ),
        (json!({}), 422, "FieldValueRequired", "metadata.name"),
        (
            json!({ "name": "one", "labels": { "-": "x" } }),
            422,
            "FieldValueInvalid",
            "metadata.labels",
        ),
        (
            json!({ "name": "one", "annotations": { "a b": "x" } }),
            422,
            "FieldValueInvalid",
            "metadata.annotations",
        ),
    ] {
        let body = json!({ "metadata": metadata }).to_string();
        let (found, status) = case.raw(post(&case, "", JSON, body)?).await?;
        let cause = &status["details"]["causes"][0];
        ensure!(
            (found, &cause["reason"], &cause["field"]) == (code, &json!(reason), &json!(field)),
            "{metadata}: {found} {status}"
        );
    }
    Ok(())
}

pub(crate) async fn bad_questions_are_refused(case: Case) -> anyhow::Result<()> {
    for (query, code, reason) in [
        ("labelSelector=a%3Db%3Dc", 400, "BadRequest"),
        ("labelSelector=a%20in%20b", 400, "BadRequest"),
        ("labelSelector=-%3Dx", 400, "BadRequest"),
        ("fieldSelector=data.key%3D1", 400, "BadRequest"),
        ("limit=many", 400, "BadRequest"),
        ("continue=nothing", 400, "BadRequest"),
        ("resourceVersion=new", 400, "BadRequest"),
        (
            "resourceVersion=1&resourceVersionMatch=Roughly",
            422,
            "Invalid",
        ),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, "Invalid"),
    ] {
        let uri = format!("{}?{query}", maps(&case));
        let (found, status) = case.raw(Request::get(uri).body(Vec::new())?).await?;
        let told = (found, status["reason"].as_str());
        ensure!(told == (code, Some(reason)), "{query}: {found} {status}");
    }
    Ok(())
}

pub(crate) async fn bad_patches_are_refused(case: Case) -> anyhow::Result<()> {
    let made = json!({ "metadata": { "name": "one" }, "data": { "key": "1" } });
    case.raw(post(&case, "", JSON, made.to_string())?).await?;
    for (content_type, body, code, reason) in [
        ("application/json", "{}", 415, "UnsupportedMediaType"),
        ("application/merge-patch+json", "{", 400, "BadRequest"),
        (
            "application/strategic-merge-patch+json",
            "{",
            400,
            "BadRequest",
        ),
        ("application/json-patch+json", "{}", 400, "BadRequest"),
        (
            "application/json-patch+json",
            r#"[{"op": "test", "path": "/data/key", "value": "2"}]"#,
            422,
            "Invalid",
        ),
        (
            "application/json-patch+json",
            r#"[{"op": "remove", "path": "/data/none"}]"#,
            422,
            "Invalid",
        ),
        // An apply has to say who applies.
        (
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap",
            422,
            "Invalid",
        ),
    ] {
        let request = Request::patch(format!("{}/one", maps(&case)))
            .header(CONTENT_TYPE, content_type)
            .body(body.as_bytes().to_vec())?;
        let (found, status) = case.raw(request).await?;
        let told = (found, status["reason"].as_str());
        ensure!(
            told == (code, Some(reason)),
            "{content_type} {body}: {found} {status}"
        );
    }
    Ok(())
}

fn post(
    case: &Case,
    query: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> anyhow::Result<Request<Vec<u8>>> {
    let request = Request::post(format!("{}?{query}", maps(case)));
    Ok(request
        .header(CONTENT_TYPE, content_type)
        .body(body.into())?)
}

fn maps(case: &Case) -> String {
    format!("/api/v1/namespaces/{}/configmaps", case.namespace)
}

impl Case {
    /// Sends a request as it is; the status code and what the answer warns of.
    pub(crate) async fn warnings(
        &self,
        request: Request<Vec<u8>>,
    ) -> anyhow::Result<(u16, Vec<String>)> {
        let (code, headers) = self.head(request).await?;
        let warnings = headers.get_all("warning").iter();
        let texts = warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok((code, texts.collect()))
    }
}

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const ANY_JSON: &[&str] = &[
    "[]",
    "[1]",
    "[null]",
    "[[]]",
    "1",
    "1.5",
    "true",
    "\"text\"",
    "null",
    "{}",
    r#"{"metadata": []}"#,
    r#"{"metadata": 1}"#,
    r#"{"metadata": null}"#,
    r#"{"metadata": {"name": []}}"#,
    r#"{"kind": 1}"#,
    r#"{"apiVersion": {}}"#,
    r#"{"spec": 1}"#,
    r#"{"spec": []}"#,
    r#"{"data": [1]}"#,
    r#"{"preconditions": 1}"#,
    r#"[{"op": 1}]"#,
    r#"[{"op": "add", "path": 1}]"#,
];
