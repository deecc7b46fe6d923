//! What is asked of a pod: to be bound to a node, to be evicted.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::Request;
use crate::clock::rfc3339;
use crate::error::{ApiError, Cause, CauseReason};
use crate::http::{Body, Query, json as respond};
use crate::kinds::Lookup as _;
use crate::kinds::metadata::{selector_is_empty, selector_matches};
use crate::store::{Change, Key, Write};

impl Request<'_> {
    /// Assigns a pod to the node that the Binding in `body` names.
    pub(super) async fn bind(&self, body: &Value) -> Result<Response<Body>, ApiError> {
        let node = body["target"]["name"].as_str().unwrap_or_default();
        if node.is_empty() {
            let cause = Cause::required("target.name", "");
            return Err(ApiError::invalid(
                "",
                "Binding",
                &self.place.name,
                vec![cause],
            ));
        }
        let key = Key::new(&self.place.namespace, &self.place.name);
        let stored = self
            .core
            .store
            .read(&self.resource.table, &key)
            .ok_or_else(|| self.not_found())?;
        let mut pod = stored.value(&self.resource.head());
        let conflict = |why: String| ApiError::conflict("", "pods/binding", &self.place.name, &why);
        if pod["metadata"].get("deletionTimestamp").is_some() {
            let name = &self.place.name;
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(own) = pod["spec"]["nodeName"]
            .as_str()
            .filter(|own| !own.is_empty())
        {
            let name = &self.place.name;
            return Err(conflict(format!(
                "pod {name} is already assigned to node {own:?}"
            )));
        }
        pod["spec"]["nodeName"] = node.into();
        let scheduled = json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": rfc3339(self.core.now()),
        });
        match pod["status"]["conditions"].as_array_mut() {
            Some(conditions) => {
                conditions.retain(|condition| condition["type"] != "PodScheduled");
                conditions.push(scheduled);
            }
            None => pod["status"]["conditions"] = json!([scheduled]),
        }
        let draft = super::meta::draft(&pod, &self.resource, self.strategy());
        let write = Write {
            table: Arc::clone(&self.resource.table),
            key,
            expected: Some(stored.revision()),
            change: Change::Put(draft),
        };
        let committed = self.core.store.commit(write).await;
        committed.map_err(|refused| self.refused(refused, &self.place.name))?;
        Ok(respond(201, self.accept.syntax, &success()))
    }

    /// Deletes a pod unless a disruption budget says that too many are gone.
    pub(super) async fn evict(&self, body: &Value) -> Result<Response<Body>, ApiError> {
        let (namespace, name) = (&self.place.namespace, &self.place.name);
        let pod = self
            .core
            .one("", "pods", namespace, name)
            .ok_or_else(|| self.not_found())?;
        if !goes_freely(&pod) {
            self.disrupt(&pod).await?;
        }
        let mut place = self.place.clone();
        place.subresource = String::new();
        let request = Request {
            core: self.core,
            user: self.user,
            headers: self.headers,
            query: Query::default(),
            place,
            resource: Arc::clone(&self.resource),
            accept: self.accept,
            warnings: parking_lot::Mutex::default(),
        };
        let options = body
            .get("deleteOptions")
            .filter(|options| options.is_object());
        let mut options = options.cloned().unwrap_or_else(|| json!({}));
        if self.query.dry_run("CreateOptions")? {
            options["dryRun"] = json!(["All"]);
        }
        let bytes = Bytes::from(options.to_string());
        Box::pin(request.delete(bytes)).await?;
        Ok(respond(201, self.accept.syntax, &success()))
    }

    /// Takes one disruption from the budget that covers the pod.
    async fn disrupt(&self, pod: &Value) -> Result<(), ApiError> {
        let covers = |budget: &Value| {
            let selector = &budget["spec"]["selector"];
            let labels = &pod["metadata"]["labels"];
            !selector.is_null()
                && (selector_is_empty(selector) || selector_matches(selector, labels))
        };
        let mut budgets = self.core.list(POLICY, BUDGETS, &self.place.namespace);
        budgets.retain(covers);
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [budget] => budget,
            _ => {
                return Err(ApiError::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        if !is_ready(pod) && unhealthy_may_go(budget) {
            return Ok(());
        }
        let mut taken = take_one(budget)?;
        let now = rfc3339(self.core.now());
        taken["status"]["disruptedPods"][&self.place.name] = now.into();
        if self.query.dry_run("CreateOptions")? {
            return Ok(());
        }
        self.store_budget(&taken).await
    }

    async fn store_budget(&self, budget: &Value) -> Result<(), ApiError> {
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let table = crate::resource::table_name(POLICY, BUDGETS);
        let expected = budget["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let write = Write {
            table,
            key: Key::new(&self.place.namespace, name),
            expected,
            change: Change::Put(crate::store::Draft::new(budget, Vec::new())),
        };
        let committed = self.core.store.commit(write).await;
        committed.map_err(|_| too_many("the disruption budget changed meanwhile; try again", 0))?;
        Ok(())
    }
}

/// A pod that no budget counts: it has ended, never started, or is going already.
fn goes_freely(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending")
        || pod["metadata"].get("deletionTimestamp").is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a pod that isn't ready may go without a disruption being counted.
fn unhealthy_may_go(budget: &Value) -> bool {
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or_default();
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
}

fn take_one(budget: &Value) -> Result<Value, ApiError> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or_default();
    let generation = budget["metadata"]["generation"]
        .as_i64()
        .unwrap_or_default();
    if number("observedGeneration") < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many(&why, PROCESSING_SECONDS));
    }
    if number("disruptionsAllowed") <= 0 {
        let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
        let why = format!(
            "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
        );
        return Err(too_many(&why, 0));
    }
    let mut taken = budget.clone();
    taken["status"]["disruptionsAllowed"] = (number("disruptionsAllowed") - 1).into();
    if !taken["status"]["disruptedPods"].is_object() {
        taken["status"]["disruptedPods"] = json!({});
    }
    Ok(taken)
}

fn too_many(why: &str, retry_seconds: u32) -> ApiError {
    let cause = Cause::new(CauseReason::DisruptionBudget, "", why);
    ApiError::too_many(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry_seconds,
    )
    .with_causes(vec![cause])
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

const POLICY: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
/// When to ask again while the disruption controller has not seen a budget yet.
const PROCESSING_SECONDS: u32 = 10;
