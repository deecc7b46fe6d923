//! The scale subresource: the number of replicas of any workload, as one kind.

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value, json};

use super::Request;
use super::decode::{parse_json, parse_yaml};
use super::print::Outcome;
use super::update::Edited;
use crate::error::{ApiError, Cause};
use crate::http::{Body, ContentType, json as respond};
use crate::kinds::Lookup as _;
use crate::patch::{self, JsonPatchError};
use crate::store::Object;

/// Where a kind keeps what a Scale shows, as JSON pointers.
struct Paths {
    replicas: String,
    status: String,
    /// For custom kinds a string field, else `spec.selector`.
    selector: Option<String>,
}

impl Request<'_> {
    pub(super) fn is_scale(&self) -> bool {
        let subresource = self.resource.subresource(&self.place.subresource);
        subresource.is_some_and(|subresource| subresource.kind == "Scale")
    }

    pub(super) fn print_scale(&self, object: &Object) -> Result<Response<Body>, ApiError> {
        let scale = self.scale_of(&object.value(&self.resource.head()))?;
        Ok(respond(200, self.accept.syntax, &scale))
    }

    pub(super) async fn update_scale(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let wanted = self.decode(body)?;
        self.edit_scale(&|_| Ok(wanted.clone()), "UpdateOptions")
            .await
    }

    pub(super) async fn patch_scale(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let kind = ContentType::of_patch(self.headers)?;
        let (change, repeated) = match kind {
            ContentType::JsonPatch => (Value::Null, Vec::new()),
            ContentType::ApplyPatch => {
                (parse_yaml(body).map_err(ApiError::bad_request)?, Vec::new())
            }
            _ => parse_json(body).map_err(ApiError::bad_request)?,
        };
        let edit = |scale: &Value| match kind {
            ContentType::JsonPatch => patch::json(scale, body).map_err(|error| match error {
                JsonPatchError::Malformed(why) => ApiError::bad_request(why),
                JsonPatchError::Failed(_) => ApiError::unprocessable(),
                JsonPatchError::TooMany(_) => ApiError::too_large(error.to_string()),
            }),
            // A Scale has no lists, so the other types do the same to it.
            _ => {
                let mut scale = scale.clone();
                patch::merge(&mut scale, &change);
                Ok(scale)
            }
        };
        self.warn(repeated);
        self.edit_scale(&edit, "PatchOptions").await
    }

    async fn edit_scale(
        &self,
        edit: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
        options: &str,
    ) -> Result<Response<Body>, ApiError> {
        let dry_run = self.query.dry_run(options)?;
        let paths = self.scale_paths()?;
        let edit = |old: Option<&Value>| -> Result<Edited, ApiError> {
            let old = old.ok_or_else(|| self.not_found())?;
            let mut scale = edit(&self.scale_of(old)?)?;
            let replicas = self.scale_replicas(&scale)?;
            let mut object = old.clone();
            set(&mut object, &paths.replicas, replicas.into());
            let revision = scale["metadata"]["resourceVersion"].take();
            object["metadata"]["resourceVersion"] = revision;
            Ok(Edited {
                object,
                owned: false,
            })
        };
        let (_, outcome) = self.edit_object(&edit, false, dry_run).await?;
        let object = match outcome {
            Outcome::Stored(stored) => self.value_of(&stored),
            Outcome::Value(value) => value,
        };
        Ok(respond(200, self.accept.syntax, &self.scale_of(&object)?))
    }

    fn scale_replicas(&self, scale: &Value) -> Result<i64, ApiError> {
        let name = &self.place.name;
        if scale["metadata"]["name"]
            .as_str()
            .is_some_and(|given| given != name)
        {
            return Err(ApiError::bad_request(format!(
                "name in request body ({}) does not match name in URL ({name})",
                scale["metadata"]["name"].as_str().unwrap_or_default()
            )));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or_default();
        if replicas < 0 {
            let detail = "must be greater than or equal to 0";
            let cause = Cause::invalid("spec.replicas", &json!(replicas), detail);
            return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
        }
        Ok(replicas)
    }

    fn scale_of(&self, object: &Value) -> Result<Value, ApiError> {
        let paths = self.scale_paths()?;
        let number = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_i64)
                .unwrap_or_default()
        };
        let own = &object["metadata"];
        let mut metadata = Map::new();
        for key in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
        ] {
            if let Some(value) = own.get(key) {
                metadata.insert(key.to_owned(), value.clone());
            }
        }
        let mut spec = Map::new();
        if number(&paths.replicas) != 0 {
            spec.insert("replicas".to_owned(), number(&paths.replicas).into());
        }
        let mut status = Map::new();
        status.insert("replicas".to_owned(), number(&paths.status).into());
        let selector = match &paths.selector {
            Some(pointer) => object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            None => selector_text(&object["spec"]["selector"]),
        };
        if !selector.is_empty() {
            status.insert("selector".to_owned(), selector.into());
        }
        Ok(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": metadata, "spec": spec, "status": status,
        }))
    }

    fn scale_paths(&self) -> Result<Paths, ApiError> {
        let Some(custom) = &self.resource.custom else {
            return Ok(Paths {
                replicas: "/spec/replicas".to_owned(),
                status: "/status/replicas".to_owned(),
                selector: None,
            });
        };
        let group = "apiextensions.k8s.io";
        let crd = self
            .core
            .one(group, "customresourcedefinitions", "", &custom.crd);
        let crd = crd.ok_or_else(ApiError::unknown_path)?;
        let versions = crd["spec"]["versions"].as_array();
        let version = versions
            .into_iter()
            .flatten()
            .find(|version| version["name"] == self.resource.version.as_str());
        let scale = version.map_or(&Value::Null, |version| &version["subresources"]["scale"]);
        let pointer = |key: &str| scale[key].as_str().map(|path| path.replace('.', "/"));
        Ok(Paths {
            replicas: pointer("specReplicasPath").unwrap_or_default(),
            status: pointer("statusReplicasPath").unwrap_or_default(),
            selector: Some(pointer("labelSelectorPath").unwrap_or_else(|| "/none".to_owned())),
        })
    }
}

/// Sets what a pointer names, making the objects on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut here = object;
    for key in pointer.split('/').skip(1) {
        if !here[key].is_object() && !here[key].is_null() && !here[key].is_number() {
            return;
        }
        here = &mut here[key];
    }
    *here = value;
}

/// A label selector as `kubectl` writes it: `a=b,c in (d,e),f`.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for requirement in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = requirement["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = requirement["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        parts.push(match requirement["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}
