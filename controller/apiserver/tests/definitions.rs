//! CustomResourceDefinitions from creation to the end of their last instance.

use fairlead_apiserver::ApiServer;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Error};
use serde_json::{Value, json};

async fn server() -> ApiServer {
    ApiServer::builder()
        .build()
        .await
        .expect("a server without a data folder starts")
}

fn definition() -> CustomResourceDefinition {
    let schema = json!({"openAPIV3Schema": {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "required": ["size"],
                "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "never shrinks"}],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "blue"},
                },
            },
            "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        },
    }});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}}, "schema": schema});
    serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    }))
    .expect("has the form of the kind")
}

fn widgets(client: &Client, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", version, "Widget");
    let resource = ApiResource::from_gvk_with_plural(&kind, "widgets");
    Api::namespaced_with(client.clone(), "default", &resource)
}

fn widget(version: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": "a"}, "spec": spec,
    }))
    .expect("has the form of an object")
}

fn refusal(error: Error) -> (u16, Vec<(String, String)>) {
    let Error::Api(status) = error else {
        panic!("not an answer of the server: {error}")
    };
    let causes = status
        .details
        .map(|details| details.causes)
        .unwrap_or_default();
    (
        status.code,
        causes
            .into_iter()
            .map(|cause| (cause.reason, cause.field))
            .collect(),
    )
}

async fn established(client: &Client) -> Api<CustomResourceDefinition> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .create(&PostParams::default(), &definition())
        .await
        .expect("the CRD is created");
    let crd = definitions
        .get("widgets.example.com")
        .await
        .expect("it is there");
    let conditions = crd
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    assert!(
        conditions
            .iter()
            .any(|c| c.type_ == "Established" && c.status == "True")
    );
    definitions
}

#[tokio::test]
async fn custom_objects_are_defaulted_validated_and_served_in_each_version() {
    let server = server().await;
    let client = server.client();
    established(&client).await;
    let api = widgets(&client, "v1");
    let object = api
        .create(&PostParams::default(), &widget("v1", json!({"size": 3})))
        .await
        .expect("a valid object");
    assert_eq!(object.data["spec"], json!({"size": 3, "color": "blue"}));
    let other = widgets(&client, "v1beta1")
        .get("a")
        .await
        .expect("served in both versions");
    assert_eq!(
        other.types.map(|types| types.api_version).as_deref(),
        Some("example.com/v1beta1")
    );

    let mut bad = widget("v1", json!({"size": 0}));
    bad.metadata.name = Some("b".to_owned());
    let refused = api
        .create(&PostParams::default(), &bad)
        .await
        .expect_err("below its minimum");
    let cause = ("FieldValueInvalid".to_owned(), "spec.size".to_owned());
    assert_eq!(refusal(refused), (422, vec![cause]));

    let shrink = Patch::Merge(json!({"spec": {"size": 1}}));
    let refused = api
        .patch("a", &PatchParams::default(), &shrink)
        .await
        .expect_err("the rule forbids it");
    let cause = ("FieldValueInvalid".to_owned(), "spec".to_owned());
    assert_eq!(refusal(refused), (422, vec![cause]));
}

#[tokio::test]
async fn custom_objects_are_applied_with_owners_and_their_status_apart() {
    let server = server().await;
    let client = server.client();
    established(&client).await;
    let api = widgets(&client, "v1");
    let one = PatchParams::apply("one");
    let object = api
        .patch("a", &one, &Patch::Apply(widget("v1", json!({"size": 3}))))
        .await
        .expect("applied");
    assert_eq!(object.metadata.generation, Some(1));
    let again = api
        .patch("a", &one, &Patch::Apply(widget("v1", json!({"size": 3}))))
        .await
        .expect("applied again");
    assert_eq!(
        object.metadata.resource_version,
        again.metadata.resource_version
    );

    let conflict = api
        .patch(
            "a",
            &PatchParams::apply("two"),
            &Patch::Apply(widget("v1", json!({"size": 4}))),
        )
        .await
        .expect_err("another's field");
    let cause = ("FieldManagerConflict".to_owned(), ".spec.size".to_owned());
    assert_eq!(refusal(conflict), (409, vec![cause]));

    let mut status = widget("v1", json!({"size": 9}));
    status.data = json!({"status": {"ready": true}});
    let object = api
        .patch_status("a", &PatchParams::apply("agent"), &Patch::Apply(status))
        .await
        .expect("the status is applied");
    assert_eq!(object.data["status"], json!({"ready": true}));
    assert_eq!(object.data["spec"]["size"], 3);
    assert_eq!(object.metadata.generation, Some(1));
    let owners = object.metadata.managed_fields.unwrap_or_default();
    let agent = owners
        .iter()
        .find(|entry| entry.manager.as_deref() == Some("agent"));
    let fields = agent
        .and_then(|entry| entry.fields_v1.as_ref())
        .map(|fields| fields.0.clone());
    assert_eq!(fields, Some(json!({"f:status": {"f:ready": {}}})));
}

#[tokio::test]
async fn a_deleted_crd_takes_its_instances_along_and_waits_for_their_finalizers() {
    let server = server().await;
    let client = server.client();
    let definitions = established(&client).await;
    let api = widgets(&client, "v1");
    let mut held = widget("v1", json!({"size": 1}));
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(&PostParams::default(), &held)
        .await
        .expect("created");
    let mut free = widget("v1", json!({"size": 1}));
    free.metadata.name = Some("b".to_owned());
    api.create(&PostParams::default(), &free)
        .await
        .expect("created");

    definitions
        .delete("widgets.example.com", &DeleteParams::default())
        .await
        .expect("accepted");
    let crd = definitions
        .get("widgets.example.com")
        .await
        .expect("it waits");
    assert!(crd.metadata.deletion_timestamp.is_some());
    assert!(api.get_opt("b").await.expect("answered").is_none());
    let object = api.get("a").await.expect("it waits for its finalizer");
    assert!(object.metadata.deletion_timestamp.is_some());
    let refused = api
        .create(&PostParams::default(), &free)
        .await
        .expect_err("the CRD is going");
    assert_eq!(refusal(refused).0, 405);

    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &release)
        .await
        .expect("released");
    assert!(
        definitions
            .get_opt("widgets.example.com")
            .await
            .expect("answered")
            .is_none()
    );
    assert_eq!(
        refusal(api.get("a").await.expect_err("no longer served")).0,
        404
    );
}

#[tokio::test]
async fn a_definition_that_is_not_structural_is_refused_with_its_faults() {
    let server = server().await;
    let client = server.client();
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let mut crd = serde_json::to_value(definition()).expect("is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({});
    let crd: CustomResourceDefinition =
        serde_json::from_value(crd).expect("has the form of the kind");
    let refused = definitions
        .create(&PostParams::default(), &crd)
        .await
        .expect_err("no type");
    let field = "spec.versions[0].schema.openAPIV3Schema.properties[spec].type";
    assert_eq!(
        refusal(refused),
        (
            422,
            vec![("FieldValueRequired".to_owned(), field.to_owned())]
        )
    );
}
