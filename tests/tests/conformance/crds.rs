//! Custom resources.

use anyhow::{Context, ensure};
use fairlead_tests::wait;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    Case, same,
    support::{causes, object, refused},
};

pub(crate) async fn a_definition_is_established_and_served(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let definitions = Api::<CustomResourceDefinition>::all(case.client());
    let seen = definitions.get(&kind.name).await?;
    let status = seen.status.context("a status")?;
    same!(status.stored_versions, Some(vec!["v1".to_owned()]));
    let (code, resources) = case
        .raw(http::Request::get(format!("/apis/{}/v1", kind.group)).body(Vec::new())?)
        .await?;
    same!(
        (code, resources["resources"][0]["kind"].as_str()),
        (200, Some("Ship"))
    );
    Ok(())
}

pub(crate) async fn instances_are_defaulted_pruned_and_validated(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let api = kind.api(&case, "v1");
    let spec = json!({ "hull": "steel", "surplus": true, "crew": [ { "name": "ann" } ] });
    let made = api
        .create(&PostParams::default(), &kind.ship("v1", "one", &spec))
        .await?;
    same!(
        made.data["spec"],
        json!({ "hull": "steel", "masts": 3, "crew": [ { "name": "ann", "rank": "mate" } ] })
    );
    let wrong = json!({ "hull": "paper", "masts": 99, "crew": [ { "rank": "x" } ] });
    let result = api
        .create(&PostParams::default(), &kind.ship("v1", "two", &wrong))
        .await;
    let status = refused(result, 422, "Invalid")?;
    let expected = [
        // Rules are not checked where the structure is wrong, and that is said.
        ("FieldValueInvalid", "<nil>"),
        ("FieldValueInvalid", "spec.masts"),
        ("FieldValueNotSupported", "spec.hull"),
        ("FieldValueRequired", "spec.crew[0].name"),
    ];
    same!(
        causes(&status),
        expected.map(|(reason, field)| (reason.to_owned(), field.to_owned()))
    );
    let twice = json!({ "hull": "steel", "crew": [ { "name": "ann" }, { "name": "ann" } ] });
    let result = api
        .create(&PostParams::default(), &kind.ship("v1", "two", &twice))
        .await;
    let status = refused(result, 422, "Invalid")?;
    same!(
        causes(&status),
        [("FieldValueDuplicate".to_owned(), "spec.crew[1]".to_owned())]
    );
    Ok(())
}

pub(crate) async fn what_is_no_instance_at_all_is_refused(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let (group, other) = (&kind.group, "other.example.com/v1");
    let uri = format!("/apis/{group}/v1/namespaces/{}/ships", case.namespace);
    for (body, code, reason) in [
        (
            json!({ "apiVersion": format!("{group}/v1"), "kind": "Boat" }),
            422,
            "Invalid",
        ),
        (
            json!({ "apiVersion": other, "kind": "Ship" }),
            400,
            "BadRequest",
        ),
        (
            json!({ "apiVersion": format!("{group}/v1") }),
            400,
            "BadRequest",
        ),
        (json!({ "kind": "Ship" }), 400, "BadRequest"),
        (
            json!({ "apiVersion": format!("{group}/v1"), "kind": "Ship", "metadata": "x" }),
            400,
            "BadRequest",
        ),
        (json!([]), 400, "BadRequest"),
    ] {
        let request = http::Request::post(&uri)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())?;
        let (found, status) = case.raw(request).await?;
        let told = (found, status["reason"].as_str());
        ensure!(told == (code, Some(reason)), "{body}: {found} {status}");
    }
    Ok(())
}

pub(crate) async fn rules_see_the_old_value(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let api = kind.api(&case, "v1");
    let spec = json!({ "hull": "steel", "masts": 3 });
    api.create(&PostParams::default(), &kind.ship("v1", "one", &spec))
        .await?;
    let fewer = json!({ "spec": { "masts": 2 } });
    let result = api
        .patch("one", &PatchParams::default(), &Patch::Merge(&fewer))
        .await;
    let status = refused(result, 422, "Invalid")?;
    same!(
        causes(&status),
        [("FieldValueInvalid".to_owned(), "spec.masts".to_owned())]
    );
    ensure!(
        status.message.contains("masts only grow"),
        "{}",
        status.message
    );
    let many = json!({ "spec": { "hull": "wood", "masts": 6 } });
    let result = api
        .patch("one", &PatchParams::default(), &Patch::Merge(&many))
        .await;
    let status = refused(result, 422, "Invalid")?;
    same!(
        causes(&status),
        [("FieldValueInvalid".to_owned(), "spec".to_owned())]
    );
    Ok(())
}

pub(crate) async fn what_was_there_before_a_rule_is_forgiven(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let api = kind.api(&case, "v1");
    let wood = json!({ "hull": "wood" });
    api.create(&PostParams::default(), &kind.ship("v1", "old", &wood))
        .await?;
    let mut definition = kind.definition(&json!({}));
    for version in definition["spec"]["versions"]
        .as_array_mut()
        .context("versions")?
    {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["hull"]["x-kubernetes-validations"] =
            json!([{ "rule": "self == 'steel'", "message": "no wood" }]);
    }
    let stricter = json!({ "spec": { "versions": definition["spec"]["versions"] } });
    Api::<CustomResourceDefinition>::all(case.client())
        .patch(
            &kind.name,
            &PatchParams::default(),
            &Patch::Merge(&stricter),
        )
        .await?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    wait::until("the rule to be in force", async || {
        let made = api.create(&dry, &kind.ship("v1", "new", &wood)).await;
        Ok(if made.is_err() {
            Ok(())
        } else {
            Err("accepted")
        })
    })
    .await?;
    let other = json!({ "spec": { "masts": 4 } });
    let seen = api
        .patch("old", &PatchParams::default(), &Patch::Merge(&other))
        .await?;
    same!(seen.data["spec"], json!({ "hull": "wood", "masts": 4 }));
    Ok(())
}

pub(crate) async fn an_update_in_each_version_is_an_entry_of_its_own(
    case: Case,
) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let by = PostParams {
        field_manager: Some("ann".into()),
        ..PostParams::default()
    };
    let ship = kind.ship("v1", "one", &json!({ "hull": "steel" }));
    kind.api(&case, "v1").create(&by, &ship).await?;
    let by = PatchParams {
        field_manager: Some("ann".into()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "spec": { "masts": 4 } }));
    let seen = kind.api(&case, "v1beta1").patch("one", &by, &patch).await?;
    let entries = seen.managed_fields().iter();
    let mut versions: Vec<_> = entries
        .filter_map(|entry| entry.api_version.clone())
        .collect();
    versions.sort();
    let expected = ["v1", "v1beta1"].map(|version| format!("{}/{version}", kind.group));
    same!(versions, expected);
    Ok(())
}

pub(crate) async fn both_versions_serve_the_same_object(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let spec = json!({ "hull": "steel" });
    let ship = kind.ship("v1", "one", &spec);
    kind.api(&case, "v1")
        .create(&PostParams::default(), &ship)
        .await?;
    let seen = kind.api(&case, "v1beta1").get("one").await?;
    same!(seen.data["spec"]["hull"], json!("steel"));
    let version = seen.types.context("types")?.api_version;
    same!(version, format!("{}/v1beta1", kind.group));
    Ok(())
}

pub(crate) async fn printer_columns_show_in_tables(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let spec = json!({ "hull": "steel" });
    let ship = kind.ship("v1", "one", &spec);
    kind.api(&case, "v1")
        .create(&PostParams::default(), &ship)
        .await?;
    let uri = format!(
        "/apis/{}/v1/namespaces/{}/ships",
        kind.group, case.namespace
    );
    let request = http::Request::get(uri)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let (_, table) = case.raw(request).await?;
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .context("columns")?
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    same!(columns, ["Name", "Hull", "Masts", "Written"]);
    same!(
        table["rows"][0]["cells"],
        json!(["one", "steel", 3, "Update"])
    );
    Ok(())
}

pub(crate) async fn the_status_of_an_instance_is_a_subresource(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let api = kind.api(&case, "v1");
    let mut ship = kind.ship("v1", "one", &json!({ "hull": "steel" }));
    ship.data["status"] = json!({ "afloat": true });
    let made = api.create(&PostParams::default(), &ship).await?;
    ensure!(
        made.data.get("status").is_none_or(Value::is_null),
        "{:?}",
        made.data
    );
    same!(made.metadata.generation, Some(1));
    let patch = json!({ "spec": { "masts": 9 }, "status": { "afloat": true } });
    let seen = api
        .patch_status("one", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    same!(seen.data["status"], json!({ "afloat": true }));
    same!(seen.data["spec"]["masts"], json!(3));
    same!(seen.metadata.generation, Some(1));
    Ok(())
}

pub(crate) async fn deleting_a_definition_deletes_its_instances(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let api = kind.api(&case, "v1");
    api.create(
        &PostParams::default(),
        &kind.ship("v1", "one", &json!({ "hull": "steel" })),
    )
    .await?;
    let definitions = Api::<CustomResourceDefinition>::all(case.client());
    definitions
        .delete(&kind.name, &DeleteParams::default())
        .await?;
    wait::until("the definition to go", async || {
        Ok(match definitions.get_opt(&kind.name).await? {
            None => Ok(()),
            Some(left) => Err(left.metadata.finalizers),
        })
    })
    .await?;
    let again = define_named(&case, &kind, json!({})).await?;
    same!(
        again
            .api(&case, "v1")
            .get_opt("one")
            .await?
            .map(|left| left.name_any()),
        None
    );
    Ok(())
}

pub(crate) async fn a_scale_finds_its_numbers_or_says_what_is_there(
    case: Case,
) -> anyhow::Result<()> {
    let kind = scaled(&case).await?;
    let api = kind.api(&case, "v1");
    let wrong = kind.ship("v1", "one", &json!({ "hull": "steel", "masts": "three" }));
    let status = refused(
        api.create(&PostParams::default(), &wrong).await,
        422,
        "Invalid",
    )?;
    let details = status.details.as_ref().context("details")?;
    let told = details
        .causes
        .iter()
        .find(|cause| cause.field == ".spec.masts");
    same!(
        told.context("the scale's cause")?.message,
        "Invalid value: 0: .spec.masts accessor error: three is of the type string, expected int64"
    );
    let right = kind.ship("v1", "one", &json!({ "hull": "steel", "masts": 3 }));
    api.create(&PostParams::default(), &right).await?;
    let uri = format!(
        "/apis/{}/v1/namespaces/{}/ships/one/scale",
        kind.group, case.namespace
    );
    // Who names no version takes what there is.
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": { "name": "one", "namespace": case.namespace }, "spec": { "replicas": 5 },
    });
    let request = http::Request::put(&uri)
        .header("content-type", "application/json")
        .body(scale.to_string().into_bytes())?;
    let (code, scale) = case.raw(request).await?;
    same!((code, scale["spec"]["replicas"].as_i64()), (200, Some(5)));
    let request = http::Request::patch(&uri)
        .header("content-type", "application/merge-patch+json")
        .body(br#"{"spec": {"replicas": -4}}"#.to_vec())?;
    let (code, status) = case.raw(request).await?;
    // It is the object that would be wrong.
    same!(
        (code, status["details"]["kind"].as_str()),
        (422, Some("Ship"))
    );
    same!(api.get("one").await?.data["spec"]["masts"], json!(5));
    Ok(())
}

pub(crate) async fn a_rule_that_cannot_be_evaluated_refuses(case: Case) -> anyhow::Result<()> {
    let spec = json!({ "type": "object", "properties": {
        "hull": { "type": "string", "maxLength": 9 }, "name": { "type": "string", "maxLength": 9 },
    }, "x-kubernetes-validations": [ { "rule": "self.name == 'ann'", "message": "only ann" } ] });
    let kind = define(&case, json!({ "properties": { "spec": spec } })).await?;
    let ship = kind.ship("v1", "one", &json!({ "hull": "wood" }));
    let result = kind
        .api(&case, "v1")
        .create(&PostParams::default(), &ship)
        .await;
    let status = refused(result, 422, "Invalid")?;
    let words = "spec: Invalid value: \"object\": no such key: name evaluating rule: only ann";
    ensure!(status.message.ends_with(words), "{}", status.message);
    Ok(())
}

pub(crate) async fn doubtful_finalizers_are_warned_of(case: Case) -> anyhow::Result<()> {
    let kind = define(&case, json!({})).await?;
    let mut ship = kind.ship("v1", "one", &json!({ "hull": "wood" }));
    ship.metadata.finalizers = Some(vec!["anchor".into(), "example.com/anchor".into()]);
    let uri = format!(
        "/apis/{}/v1/namespaces/{}/ships",
        kind.group, case.namespace
    );
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&ship)?)?;
    let (code, warnings) = case.warnings(request).await?;
    same!((code, warnings.len()), (201, 1));
    let words = "metadata.finalizers: \\\"anchor\\\": prefer a domain-qualified finalizer name";
    ensure!(warnings[0].contains(words), "{warnings:?}");
    let free = json!({ "metadata": { "finalizers": null } });
    kind.api(&case, "v1")
        .patch("one", &PatchParams::default(), &Patch::Merge(&free))
        .await?;
    Ok(())
}

pub(crate) async fn what_a_definition_serves_is_discovered(case: Case) -> anyhow::Result<()> {
    let kind = scaled(&case).await?;
    let (_, found) = case.get(&format!("/apis/{}/v1", kind.group)).await?;
    let resources = found["resources"].as_array().context("resources")?;
    let names: Vec<_> = resources
        .iter()
        .filter_map(|found| found["name"].as_str())
        .collect();
    same!(names, ["ships", "ships/status", "ships/scale"]);
    let (_, group) = case.get(&format!("/apis/{}", kind.group)).await?;
    let versions = group["versions"].as_array().context("versions")?;
    let versions: Vec<_> = versions
        .iter()
        .filter_map(|found| found["version"].as_str())
        .collect();
    same!(versions, ["v1", "v1beta1"]);
    for nowhere in ["v2", "v2/ships", "v9/ships", "v1/boats"] {
        let uri = format!("/apis/{}/{nowhere}", kind.group);
        let words = case.text(http::Request::get(uri).body(Vec::new())?).await?;
        same!(words, "404 page not found\n");
    }
    let uri = format!(
        "/apis/{}/v1/namespaces/{}/ships/one",
        kind.group, case.namespace
    );
    let request = http::Request::patch(uri)
        .header("content-type", "application/strategic-merge-patch+json")
        .body(b"{}".to_vec())?;
    let (code, status) = case.raw(request).await?;
    same!(
        (code, status["reason"].as_str()),
        (415, Some("UnsupportedMediaType"))
    );
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("application/apply-patch+yaml"),
        "{message}"
    );
    Ok(())
}

/// A kind whose masts can be scaled.
async fn scaled(case: &Case) -> anyhow::Result<Kind> {
    let kind = Kind::new(case);
    let mut definition = kind.definition(&json!({}));
    for version in definition["spec"]["versions"]
        .as_array_mut()
        .context("versions")?
    {
        version["subresources"]["scale"] = json!({
            "specReplicasPath": ".spec.masts", "statusReplicasPath": ".status.masts",
        });
    }
    let versions = definition["spec"]["versions"]
        .as_array_mut()
        .context("versions")?;
    let mut unserved = versions[1].clone();
    unserved["name"] = json!("v2");
    unserved["served"] = json!(false);
    versions.push(unserved);
    establish(case, &kind, definition).await
}

pub(crate) async fn a_definition_without_structure_is_refused(case: Case) -> anyhow::Result<()> {
    let kind = Kind::new(&case);
    let mut wrong = kind.definition(&json!({}));
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["loose"] = json!({ "description": "no type" });
    let definition: CustomResourceDefinition = object(wrong)?;
    let api = Api::<CustomResourceDefinition>::all(case.client());
    let status = refused(
        api.create(&PostParams::default(), &definition).await,
        422,
        "Invalid",
    )?;
    let field = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[loose].type";
    same!(
        causes(&status),
        [("FieldValueRequired".to_owned(), field.to_owned())]
    );
    Ok(())
}

/// A custom kind of one case.
struct Kind {
    name: String,
    group: String,
}

impl Kind {
    fn new(case: &Case) -> Self {
        let group = format!("{}.example.com", case.unique("g"));
        Self {
            name: format!("ships.{group}"),
            group,
        }
    }

    fn api(&self, case: &Case, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(&self.group, version, "Ship");
        let resource = ApiResource::from_gvk_with_plural(&kind, "ships");
        Api::namespaced_with(case.client(), &case.namespace, &resource)
    }

    fn ship(&self, version: &str, name: &str, spec: &Value) -> DynamicObject {
        let kind = GroupVersionKind::gvk(&self.group, version, "Ship");
        let resource = ApiResource::from_gvk_with_plural(&kind, "ships");
        DynamicObject::new(name, &resource).data(json!({ "spec": spec }))
    }

    fn definition(&self, extra: &Value) -> Value {
        let mut schema = json!({
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["hull"],
                    "properties": {
                        "hull": { "type": "string", "enum": ["wood", "steel"] },
                        "masts": {
                            "type": "integer", "minimum": 1, "maximum": 9, "default": 3,
                            "x-kubernetes-validations": [
                                { "rule": "self >= oldSelf", "message": "masts only grow" },
                            ],
                        },
                        "crew": {
                            "type": "array", "maxItems": 8,
                            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": { "type": "string", "maxLength": 16 },
                                    "rank": { "type": "string", "default": "mate" },
                                },
                            },
                        },
                    },
                    "x-kubernetes-validations": [
                        { "rule": "self.hull != 'wood' || self.masts < 6", "message": "too heavy" },
                    ],
                },
                "status": {
                    "type": "object",
                    "properties": { "afloat": { "type": "boolean" } },
                },
            },
        });
        if let (Some(schema), Some(extra)) = (schema.as_object_mut(), extra.as_object()) {
            schema.extend(extra.clone());
        }
        let version = |name: &str, storage: bool| {
            json!({
                "name": name, "served": true, "storage": storage,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": schema },
                "additionalPrinterColumns": [
                    { "name": "Hull", "type": "string", "jsonPath": ".spec.hull" },
                    { "name": "Masts", "type": "integer", "jsonPath": ".spec.masts" },
                    { "name": "Written", "type": "string", "jsonPath": ".metadata.managedFields[*].operation" },
                ],
            })
        };
        json!({
            "metadata": { "name": self.name },
            "spec": {
                "group": self.group, "scope": "Namespaced",
                "names": { "plural": "ships", "singular": "ship", "kind": "Ship", "listKind": "ShipList" },
                "versions": [version("v1", true), version("v1beta1", false)],
            },
        })
    }
}

async fn define(case: &Case, extra: Value) -> anyhow::Result<Kind> {
    define_named(case, &Kind::new(case), extra).await
}

async fn define_named(case: &Case, kind: &Kind, extra: Value) -> anyhow::Result<Kind> {
    establish(case, kind, kind.definition(&extra)).await
}

async fn establish(case: &Case, kind: &Kind, definition: Value) -> anyhow::Result<Kind> {
    let api = Api::<CustomResourceDefinition>::all(case.client());
    let definition = object(definition)?;
    api.create(&PostParams::default(), &definition).await?;
    wait::until("the definition to be established", async || {
        let seen = api.get(&kind.name).await?;
        let conditions = seen
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let established = conditions
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True");
        Ok(if established { Ok(()) } else { Err(conditions) })
    })
    .await?;
    let uri = format!(
        "/apis/{}/v1/namespaces/{}/ships",
        kind.group, case.namespace
    );
    wait::until("the kind to be served", async || {
        let (code, _) = case.raw(http::Request::get(&uri).body(Vec::new())?).await?;
        Ok(if code == 200 { Ok(()) } else { Err(code) })
    })
    .await?;
    Ok(Kind {
        name: kind.name.clone(),
        group: kind.group.clone(),
    })
}
