//! The scale subresource: the number of replicas of any workload, as one kind.

use http::Response;
use serde_json::{Map, Value, json};

use super::Request;
use super::create::remove;
use super::print::Outcome;
use super::update::Edited;
use crate::clock::rfc3339;
use crate::error::{ApiError, Cause};
use crate::http::Body;
use crate::kinds::Lookup as _;
use crate::patch::{self, FieldSet, Writer};
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
        self.print_one(200, &Outcome::Value(scale))
    }

    /// The object with the number of replicas that a Scale asks for; whoever changed it owns it.
    pub(super) fn with_scale(&self, old: &Value, scale: Value) -> Result<Edited, ApiError> {
        let (manager, now) = (self.manager(), rfc3339(self.core.now()));
        let version = self.resource.api_version();
        let writer = self.writer(&manager, &version, &now);
        self.check_scale(&scale)?;
        let (mut object, replicas) = self.scaled(old, &scale)?;
        let replicas = patch::Replicas {
            after: replicas.after.filter(|count| *count != 0),
            ..replicas
        };
        replicas.record_update(&mut object, writer);
        Ok(Edited {
            object,
            owned: true,
        })
    }

    /// The same by a configuration that is applied.
    pub(super) fn with_applied_scale(
        &self,
        old: &Value,
        config: &Value,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Edited, ApiError> {
        let mut wanted = self.scale_of(old)?;
        patch::merge(&mut wanted, config);
        if config["metadata"]["resourceVersion"].is_null() {
            remove(&mut wanted["metadata"], "resourceVersion");
        }
        let (mut object, replicas) = self.scaled(old, &wanted)?;
        let replicas = patch::Replicas {
            after: config["spec"]["replicas"].as_i64(),
            ..replicas
        };
        let recorded = replicas.record_apply(&mut object, config, writer, force);
        recorded.map_err(super::patch::not_applied)?;
        self.check_scale(&wanted)?;
        Ok(Edited {
            object,
            owned: true,
        })
    }

    fn scaled(&self, old: &Value, scale: &Value) -> Result<(Value, patch::Replicas), ApiError> {
        let paths = self.scale_paths()?;
        let wanted = scale["spec"]["replicas"].as_i64().unwrap_or_default();
        let before = old.pointer(&paths.replicas).and_then(Value::as_i64);
        let mut object = old.clone();
        set(&mut object, &paths.replicas, wanted.into());
        if let Some(revision) = scale["metadata"]["resourceVersion"].as_str() {
            object["metadata"]["resourceVersion"] = revision.into();
        }
        let field: Vec<&str> = paths.replicas.split('/').skip(1).collect();
        let replicas = patch::Replicas {
            field: FieldSet::of_fields(&[&field]),
            before: before.filter(|count| *count != 0),
            after: Some(wanted),
        };
        Ok((object, replicas))
    }

    fn check_scale(&self, scale: &Value) -> Result<(), ApiError> {
        let name = &self.place.name;
        self.check_name(scale)?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or_default();
        // What a custom kind allows is for its schema to say.
        if replicas < 0 && self.resource.custom.is_none() {
            let detail = "must be greater than or equal to 0";
            let cause = Cause::invalid("spec.replicas", &json!(replicas), detail);
            return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
        }
        Ok(())
    }

    pub(super) fn scale_of(&self, object: &Value) -> Result<Value, ApiError> {
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
