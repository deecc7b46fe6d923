//! Lists: which objects, which pages, which state, in which shape.

use anyhow::{Context, ensure};
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams};
use serde_json::Value;

use crate::{Case, same, support::config_map};

/// A selector, and the names it selects; none where it is refused.
type Selects = (&'static str, Option<&'static [&'static str]>);

pub(crate) async fn field_selectors_are_read_to_the_letter(case: Case) -> anyhow::Result<()> {
    write(&case, &["a", "b", "c"]).await?;
    let cases: &[Selects] = &[
        ("metadata.name==a", Some(&["a"])),
        ("metadata.name!=a", Some(&["b", "c"])),
        ("metadata.name=a,metadata.name=b", Some(&[])),
        ("metadata.name=a,,", Some(&["a"])),
        // Nothing equal to nothing is no condition.
        ("=", Some(&["a", "b", "c"])),
        ("==", Some(&["a", "b", "c"])),
        ("!=", Some(&["a", "b", "c"])),
        (",", Some(&["a", "b", "c"])),
        (r"metadata.name=\=", Some(&[])),
        ("=a", None),
        ("metadata.name", None),
        ("metadata.name=a=b", None),
        ("metadata.name===a", None),
        ("metadata.name!==a", None),
        ("metadata.name=a!=b", None),
        (" metadata.name=a", None),
        ("metadata.name =a", None),
        (r"metadata.name=\a", None),
        (r"metadata.name=a\", None),
        ("data.key=1", None),
    ];
    selects(&case, "fieldSelector", cases).await
}

pub(crate) async fn label_selectors_are_read_to_the_letter(case: Case) -> anyhow::Result<()> {
    write(&case, &["a", "b", "c"]).await?;
    let cases: &[Selects] = &[
        ("own", Some(&["a", "b", "c"])),
        ("own==a", Some(&["a"])),
        ("own in (a, b )", Some(&["a", "b"])),
        ("own notin (a,b),own", Some(&["c"])),
        ("own in ()", Some(&[])),
        ("rank>1,rank<3", Some(&["b"])),
        ("own,", None),
        (",own", None),
        ("own,,rank", None),
        (",", None),
        ("own=a,", None),
        ("rank>-1", None),
        ("rank>a", None),
        ("own==a=b", None),
        ("own in a", None),
        ("!own=a", None),
    ];
    selects(&case, "labelSelector", cases).await
}

pub(crate) async fn pages_and_versions_have_rules(case: Case) -> anyhow::Result<()> {
    write(&case, &["a", "b", "c"]).await?;
    let first = list(&case, "limit=2&labelSelector=own").await?;
    same!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().context("a token")?;
    let version = first["metadata"]["resourceVersion"]
        .as_str()
        .context("a version")?;
    // A version of zero means whatever is at hand, which has no pages.
    same!(
        names(&list(&case, "limit=1&resourceVersion=0&labelSelector=own").await?).len(),
        3
    );
    let exact = format!("resourceVersion={version}&resourceVersionMatch=Exact&labelSelector=own");
    case.api::<ConfigMap>()
        .delete("a", &DeleteParams::default())
        .await?;
    same!(names(&list(&case, &exact).await?), ["a", "b", "c"]);
    let rest = list(&case, &format!("continue={token}&labelSelector=own")).await?;
    same!(names(&rest), ["c"]);
    let passed = format!("continue={token}&fieldSelector=metadata.name%3Db");
    same!(names(&list(&case, &passed).await?).len(), 0);
    for (query, code, reason) in [
        ("limit=".to_owned(), 400, "BadRequest"),
        ("limit=99999999999999999999".to_owned(), 400, "BadRequest"),
        ("timeoutSeconds=long".to_owned(), 400, "BadRequest"),
        (
            format!("continue={token}&resourceVersion=5"),
            400,
            "BadRequest",
        ),
        (
            format!("continue={token}&resourceVersion=5&resourceVersionMatch=Exact"),
            422,
            "Invalid",
        ),
        (
            format!("watch=1&timeoutSeconds=1&continue={token}"),
            422,
            "Invalid",
        ),
        (
            "watch=1&timeoutSeconds=1&sendInitialEvents=true".to_owned(),
            422,
            "Invalid",
        ),
        ("sendInitialEvents=true".to_owned(), 422, "Invalid"),
    ] {
        let (found, status) = case.get(&format!("{}?{query}", maps(&case))).await?;
        let told = (found, status["reason"].as_str());
        ensure!(told == (code, Some(reason)), "{query}: {found} {status}");
    }
    Ok(())
}

pub(crate) async fn a_collection_is_deleted_by_the_page(case: Case) -> anyhow::Result<()> {
    write(&case, &["a", "b", "c"]).await?;
    let uri = format!("{}?limit=2&labelSelector=own", maps(&case));
    let (code, gone) = case.raw(Request::delete(uri).body(Vec::new())?).await?;
    same!(
        (code, names(&gone)),
        (200, vec!["a".to_owned(), "b".to_owned()])
    );
    ensure!(gone["metadata"]["continue"].is_string(), "{gone}");
    same!(names(&list(&case, "labelSelector=own").await?), ["c"]);
    Ok(())
}

pub(crate) async fn an_empty_namespace_in_a_path_is_all_of_them(case: Case) -> anyhow::Result<()> {
    write(&case, &["a"]).await?;
    let everywhere = format!(
        "/api/v1/namespaces//configmaps?fieldSelector=metadata.namespace%3D{}&labelSelector=own",
        case.namespace
    );
    let (code, found) = case.get(&everywhere).await?;
    same!((code, names(&found)), (200, vec!["a".to_owned()]));
    for nowhere in ["/api/v1//configmaps", "//api/v1/configmaps"] {
        let (code, _) = case.get(nowhere).await?;
        ensure!(code == 404, "{nowhere}: {code}");
    }
    Ok(())
}

pub(crate) async fn metadata_of_one_and_of_many_are_different_shapes(
    case: Case,
) -> anyhow::Result<()> {
    write(&case, &["a"]).await?;
    let one = format!("{}/a", maps(&case));
    for (uri, shape, code) in [
        (one.clone(), "PartialObjectMetadata", 200),
        (one, "PartialObjectMetadataList", 406),
        (maps(&case), "PartialObjectMetadataList", 200),
        (maps(&case), "PartialObjectMetadata", 406),
    ] {
        let accept = format!("application/json;as={shape};v=v1;g=meta.k8s.io");
        let request = Request::get(&uri)
            .header("accept", accept)
            .body(Vec::new())?;
        let (found, answer) = case.raw(request).await?;
        ensure!(found == code, "{uri} as {shape}: {found} {answer}");
        let kind = if code == 200 { shape } else { "Status" };
        same!(answer["kind"], kind);
    }
    Ok(())
}

async fn selects(case: &Case, parameter: &str, cases: &[Selects]) -> anyhow::Result<()> {
    for (selector, expected) in cases {
        let mut query = url(selector);
        query.insert_str(0, &format!("{}?{parameter}=", maps(case)));
        let (code, answer) = case.get(&query).await?;
        let Some(expected) = expected else {
            let told = (code, answer["reason"].as_str());
            ensure!(
                told == (400, Some("BadRequest")),
                "{selector:?}: {code} {answer}"
            );
            continue;
        };
        let own = names(&answer).into_iter().filter(|name| name.len() == 1);
        let own: Vec<_> = own.collect();
        ensure!(
            code == 200 && own == *expected,
            "{selector:?}: {code} {own:?}"
        );
    }
    Ok(())
}

/// Percent-encodes whatever a query could read otherwise.
fn url(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    text.bytes()
        .map(|byte| match plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// ConfigMaps of these names, each with its name and its rank as labels.
async fn write(case: &Case, names: &[&str]) -> anyhow::Result<()> {
    for (rank, name) in names.iter().enumerate() {
        let mut made = config_map(name, "1");
        let labels = [
            ("own", (*name).to_owned()),
            ("rank", (rank + 1).to_string()),
        ];
        made.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
        case.api().create(&PostParams::default(), &made).await?;
    }
    Ok(())
}

async fn list(case: &Case, query: &str) -> anyhow::Result<Value> {
    let (code, list) = case.get(&format!("{}?{query}", maps(case))).await?;
    ensure!(code == 200, "{query}: {code} {list}");
    Ok(list)
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

fn maps(case: &Case) -> String {
    format!("/api/v1/namespaces/{}/configmaps", case.namespace)
}
