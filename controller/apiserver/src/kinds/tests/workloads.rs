//! Workloads, pods, jobs and disruption budgets.

use super::{Bench, refused};
use serde_json::{Value, json};

fn pod_spec() -> Value {
    json!({"containers": [{"name": "main", "image": "registry.example/app:1"}]})
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "blue"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
        },
    })
}

#[test]
fn a_deployment_is_defaulted_as_kubectl_shows_it() {
    let made = Bench::new()
        .create("deployments", deployment("web"))
        .unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(
        (
            &spec["revisionHistoryLimit"],
            &spec["progressDeadlineSeconds"]
        ),
        (&json!(10), &json!(600))
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(
        pod["containers"][0],
        json!({
            "name": "main", "image": "registry.example/app:1", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
        })
    );
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        assert_eq!(pod[key], value, "{key}");
    }
}

#[test]
fn workloads_must_select_their_own_pods_and_keep_selecting_them() {
    let bench = Bench::new();
    for resource in ["deployments", "statefulsets", "daemonsets", "replicasets"] {
        let mut stray = deployment("web");
        stray["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
        assert_eq!(
            refused(bench.create(resource, stray)),
            ["FieldValueInvalid spec.template.metadata.labels"],
            "{resource}"
        );
        let mut none = deployment("web");
        none["spec"]["selector"] = Value::Null;
        let stray = "FieldValueInvalid spec.template.metadata.labels";
        let wanted: &[&str] = match resource {
            "daemonsets" => &[stray],
            _ => &["FieldValueRequired spec.selector", stray],
        };
        assert_eq!(refused(bench.create(resource, none)), wanted);
        let old = bench.create(resource, deployment("web")).unwrap();
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"] = json!({"app": "web", "tier": "front"});
        new["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "tier": "front"});
        let wanted = "FieldValueInvalid spec.selector";
        assert_eq!(
            refused(bench.update(resource, &old, new)),
            [wanted],
            "{resource}"
        );
    }
}

#[test]
fn a_pod_template_is_checked_field_by_field() {
    let mut bad = deployment("web");
    bad["spec"]["replicas"] = (-1).into();
    bad["spec"]["template"]["spec"] = json!({
        "restartPolicy": "Never", "dnsPolicy": "Sometimes",
        "containers": [
            {"name": "A", "image": "", "ports": [{"containerPort": 0}, {"containerPort": 70000}]},
            {"name": "b", "image": "x", "volumeMounts": [{"name": "no", "mountPath": "/a"}]},
            {"name": "b", "image": "x", "env": [{"name": ""}]},
        ],
    });
    assert_eq!(
        refused(Bench::new().create("deployments", bad)),
        [
            "FieldValueInvalid spec.replicas",
            "FieldValueInvalid spec.template.spec.containers[0].name",
            "FieldValueRequired spec.template.spec.containers[0].image",
            "FieldValueRequired spec.template.spec.containers[0].ports[0].containerPort",
            "FieldValueInvalid spec.template.spec.containers[0].ports[1].containerPort",
            "FieldValueNotFound spec.template.spec.containers[1].volumeMounts[0].name",
            "FieldValueDuplicate spec.template.spec.containers[2].name",
            "FieldValueRequired spec.template.spec.containers[2].env[0].name",
            "FieldValueNotSupported spec.template.spec.dnsPolicy",
            "FieldValueNotSupported spec.template.spec.restartPolicy",
        ]
    );
}

#[test]
fn a_pod_gets_its_account_token_and_tolerations() {
    let bench = Bench::new().with("serviceaccounts", "blue", "default", json!({}));
    let pod = json!({"metadata": {"name": "a"}, "spec": pod_spec()});
    let made = bench.create("pods", pod.clone()).unwrap();
    assert_eq!(
        made["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        spec["volumes"][0]["name"],
        spec["containers"][0]["volumeMounts"][0]["name"]
    );
    assert_eq!(spec["enableServiceLinks"], true);
    let error = refused(Bench::new().create("pods", pod));
    assert_eq!(
        error,
        [
            "403 pods \"a\" is forbidden: error looking up service account blue/default: \
          serviceaccount \"default\" not found"
        ]
    );
}

#[test]
fn a_pod_keeps_its_spec_but_for_images_and_tolerations() {
    let bench = Bench::new().with("serviceaccounts", "blue", "default", json!({}));
    let old = bench
        .create(
            "pods",
            json!({"metadata": {"name": "a"}, "spec": pod_spec()}),
        )
        .unwrap();
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "registry.example/app:2".into();
    bench.update("pods", &old, new).unwrap();
    let mut new = old.clone();
    new["spec"]["nodeName"] = "elsewhere".into();
    assert_eq!(
        refused(bench.update("pods", &old, new)),
        ["FieldValueForbidden spec"]
    );
}

#[test]
fn a_job_selects_its_pods_by_uid() {
    let job = json!({
        "metadata": {"name": "once", "uid": "u-1"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}],
        }}},
    });
    let bench = Bench::new();
    let made = bench.create("jobs", job.clone()).unwrap();
    let uid = "batch.kubernetes.io/controller-uid";
    assert_eq!(made["spec"]["selector"]["matchLabels"][uid], "u-1");
    assert_eq!(
        made["spec"]["template"]["metadata"]["labels"]["job-name"],
        "once"
    );
    assert_eq!(
        (&made["spec"]["backoffLimit"], &made["spec"]["completions"]),
        (&json!(6), &json!(1))
    );
    let mut always = job;
    always["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(
        refused(bench.create("jobs", always)),
        ["FieldValueRequired spec.template.spec.restartPolicy"]
    );
}

#[test]
fn a_disruption_budget_sets_one_bound_with_sense() {
    let bench = Bench::new();
    let budget = |spec: Value| json!({"spec": spec});
    assert_eq!(
        refused(bench.create(
            "poddisruptionbudgets",
            budget(json!({"minAvailable": 1, "maxUnavailable": 1}))
        )),
        ["FieldValueInvalid spec"]
    );
    assert_eq!(
        refused(bench.create(
            "poddisruptionbudgets",
            budget(json!({"minAvailable": "101%"}))
        )),
        ["FieldValueInvalid spec.minAvailable"]
    );
    bench
        .create(
            "poddisruptionbudgets",
            budget(json!({"minAvailable": "50%"})),
        )
        .unwrap();
}
