//! Columns of what runs: pods and the kinds that make them.

use serde_json::{Value, json};

use super::{
    AGE, Column, NAME, age_or, column, flag, list, number, or, pairs, selector, text, wide,
};

const CONTAINERS: Column = wide(column("Containers", "string", |o, _| {
    json!(containers(o, "name"))
}));
const IMAGES: Column = wide(column("Images", "string", |o, _| {
    json!(containers(o, "image"))
}));
const SELECTOR: Column = wide(column("Selector", "string", |o, _| {
    json!(selector(&o["spec"]["selector"]))
}));

pub(super) const POD: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        let statuses = list(&o["status"]["containerStatuses"]);
        let ready = statuses
            .iter()
            .filter(|status| status["ready"] == true)
            .count();
        json!(format!("{ready}/{}", list(&o["spec"]["containers"]).len()))
    }),
    column("Status", "string", |o, _| json!(pod_status(o))),
    column("Restarts", "string", |o, _| {
        let statuses = list(&o["status"]["containerStatuses"]);
        json!(
            statuses
                .iter()
                .filter_map(|s| s["restartCount"].as_i64())
                .sum::<i64>()
                .to_string()
        )
    }),
    AGE,
    wide(column("IP", "string", |o, _| {
        or(&o["status"]["podIP"], "<none>")
    })),
    wide(column("Node", "string", |o, _| {
        or(&o["spec"]["nodeName"], "<none>")
    })),
    wide(column("Nominated Node", "string", |o, _| {
        or(&o["status"]["nominatedNodeName"], "<none>")
    })),
    wide(column("Readiness Gates", "string", |_, _| json!("<none>"))),
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", "string", |o, _| {
        json!(of_template(&o["template"], "name"))
    }),
    column("Images", "string", |o, _| {
        json!(of_template(&o["template"], "image"))
    }),
    column("Pod Labels", "string", |o, _| {
        json!(pairs(&o["template"]["metadata"]["labels"]))
    }),
];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        json!(ready_of(o, "readyReplicas"))
    }),
    column("Up-to-date", "string", |o, _| {
        number(&o["status"]["updatedReplicas"])
    }),
    column("Available", "string", |o, _| {
        number(&o["status"]["availableReplicas"])
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const SCALE: &[Column] = &[
    Column { format: "", ..NAME },
    column("Desired", "integer", |o, _| number(&o["spec"]["replicas"])),
    column("Available", "integer", |o, _| {
        number(&o["status"]["replicas"])
    }),
    AGE,
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", |o, _| number(&o["spec"]["replicas"])),
    column("Current", "integer", |o, _| {
        number(&o["status"]["replicas"])
    }),
    column("Ready", "integer", |o, _| {
        number(&o["status"]["readyReplicas"])
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    column("Desired", "integer", |o, _| number(&o["spec"]["replicas"])),
    column("Current", "integer", |o, _| {
        number(&o["status"]["replicas"])
    }),
    column("Ready", "integer", |o, _| {
        number(&o["status"]["readyReplicas"])
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide(column("Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["selector"]))
    })),
];

pub(super) const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        json!(ready_of(o, "readyReplicas"))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", |o, _| {
        number(&o["status"]["desiredNumberScheduled"])
    }),
    column("Current", "integer", |o, _| {
        number(&o["status"]["currentNumberScheduled"])
    }),
    column("Ready", "integer", |o, _| {
        number(&o["status"]["numberReady"])
    }),
    column("Up-to-date", "integer", |o, _| {
        number(&o["status"]["updatedNumberScheduled"])
    }),
    column("Available", "integer", |o, _| {
        number(&o["status"]["numberAvailable"])
    }),
    column("Node Selector", "string", |o, _| {
        json!(pairs(&o["spec"]["template"]["spec"]["nodeSelector"]))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REVISION: &[Column] = &[
    NAME,
    column("Controller", "string", |o, _| {
        let owners = list(&o["metadata"]["ownerReferences"]);
        let owner = owners.iter().find(|owner| owner["controller"] == true);
        json!(owner.map_or_else(
            || "<none>".to_owned(),
            |owner| format!(
                "{}/{}",
                text(&owner["kind"]).to_lowercase(),
                text(&owner["name"])
            ),
        ))
    }),
    column("Revision", "string", |o, _| number(&o["revision"])),
    AGE,
];

pub(super) const JOB: &[Column] = &[
    NAME,
    column("Status", "string", |o, _| json!(job_status(o))),
    column("Completions", "string", |o, _| {
        let done = o["status"]["succeeded"].as_i64().unwrap_or_default();
        json!(match (
            o["spec"]["completions"].as_i64(),
            o["spec"]["parallelism"].as_i64()
        ) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, Some(many @ 2..)) => format!("{done}/1 of {many}"),
            (None, _) => format!("{done}/1"),
        })
    }),
    column("Duration", "string", |o, now| {
        let status = &o["status"];
        let end = status["completionTime"]
            .as_str()
            .and_then(|time| time.parse().ok());
        age_or(&status["startTime"], end.unwrap_or(now), "")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", "string", |o, _| o["spec"]["schedule"].clone()),
    column("Timezone", "string", |o, _| {
        or(&o["spec"]["timeZone"], "<none>")
    }),
    column("Suspend", "boolean", |o, _| flag(&o["spec"]["suspend"])),
    column("Active", "integer", |o, _| {
        json!(list(&o["status"]["active"]).len())
    }),
    column("Last Schedule", "string", |o, now| {
        age_or(&o["status"]["lastScheduleTime"], now, "<none>")
    }),
    AGE,
    wide(column("Containers", "string", |o, _| {
        json!(of_template(
            &o["spec"]["jobTemplate"]["spec"]["template"],
            "name"
        ))
    })),
    wide(column("Images", "string", |o, _| {
        json!(of_template(
            &o["spec"]["jobTemplate"]["spec"]["template"],
            "image"
        ))
    })),
    wide(column("Selector", "string", |o, _| {
        json!(selector(&o["spec"]["jobTemplate"]["spec"]["selector"]))
    })),
];

pub(super) const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", "string", |o, _| {
        let target = &o["spec"]["scaleTargetRef"];
        json!(format!(
            "{}/{}",
            text(&target["kind"]),
            text(&target["name"])
        ))
    }),
    column("Targets", "string", |o, _| {
        json!(if list(&o["spec"]["metrics"]).is_empty() {
            "<none>"
        } else {
            "<unknown>"
        })
    }),
    column("MinPods", "string", |o, _| {
        o["spec"]["minReplicas"]
            .as_i64()
            .map_or_else(|| json!("<unset>"), |n| json!(n.to_string()))
    }),
    column("MaxPods", "string", |o, _| {
        number(&o["spec"]["maxReplicas"])
    }),
    column("Replicas", "string", |o, _| {
        number(&o["status"]["currentReplicas"])
    }),
    AGE,
];

fn of_template(template: &Value, field: &str) -> String {
    let containers = list(&template["spec"]["containers"]);
    containers
        .iter()
        .map(|container| text(&container[field]))
        .collect::<Vec<_>>()
        .join(",")
}

fn containers(object: &Value, field: &str) -> String {
    of_template(&object["spec"]["template"], field)
}

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| {
        list(&job["status"]["conditions"])
            .iter()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn ready_of(object: &Value, ready: &str) -> String {
    let ready = object["status"][ready].as_i64().unwrap_or_default();
    format!(
        "{ready}/{}",
        object["spec"]["replicas"].as_i64().unwrap_or_default()
    )
}

fn pod_status(pod: &Value) -> String {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    let waiting = list(&pod["status"]["containerStatuses"])
        .iter()
        .rev()
        .find_map(|status| {
            ["waiting", "terminated"]
                .iter()
                .find_map(|state| status["state"][state]["reason"].as_str())
        });
    let phase = text(&pod["status"]["phase"]);
    let reason = pod["status"]["reason"]
        .as_str()
        .filter(|reason| !reason.is_empty());
    waiting.or(reason).unwrap_or(phase).to_owned()
}
