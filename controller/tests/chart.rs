//! The Helm chart: it says what the binaries say, renders, and what it renders is taken by an API
//! server.
//!
//! `FAIRLEAD_WRITE_CHART=1 cargo test -p fairlead-controller --test chart` writes its generated files
//! anew. Rendering needs helm: beside the programs of `KUBEBUILDER_ASSETS`, or on PATH.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use fairlead_apiserver::{ApiServer, Controllers};
use fairlead_controller::{hub::apply_manifest, identity, manifests};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/fairlead")
}

/// The namespace is helm's to make.
fn rights(manifests: &[Value]) -> String {
    let kept = manifests.iter().filter(|one| one["kind"] != "Namespace");
    let texts = kept.map(|one| serde_saphyr::to_string(one).unwrap());
    texts.collect::<Vec<_>>().join("---\n")
}

#[test]
fn the_rights_in_the_chart_are_the_ones_the_binaries_print() {
    let agent = manifests::agent(false);
    let with_pods = manifests::agent(true);
    let pods: Vec<Value> = with_pods
        .into_iter()
        .filter(|one| !agent.contains(one))
        .collect();
    let files = [
        ("rbac-hub.yaml", rights(&identity::of_hub())),
        ("rbac-agent.yaml", rights(&agent)),
        ("rbac-agent-pods.yaml", rights(&pods)),
    ];
    for (name, text) in files {
        let path = chart().join("files").join(name);
        if std::env::var_os("FAIRLEAD_WRITE_CHART").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let have = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            have == text,
            "{} differs from the binary; run FAIRLEAD_WRITE_CHART=1 cargo test -p fairlead-controller --test chart",
            path.display()
        );
    }
}

/// Every series that alerts and dashboards ask for is declared somewhere.
#[test]
fn alerts_and_dashboards_ask_for_series_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let declared: String = [
        "controller/src/hub/metrics.rs",
        "proxy/src/metrics/names.rs",
    ]
    .iter()
    .map(|path| std::fs::read_to_string(root.join(path)).unwrap())
    .collect();
    let mut files = vec![chart().join("files/alerts.yaml")];
    let dashboards = std::fs::read_dir(chart().join("files/dashboards")).unwrap();
    files.extend(dashboards.map(|entry| entry.unwrap().path()));
    assert!(files.len() > 2, "an alert file and dashboards");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let names: BTreeSet<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("fairlead_"))
            // Crates, not series.
            .filter(|word| !matches!(*word, "fairlead_controller" | "fairlead_proxy"))
            .collect();
        assert!(!names.is_empty(), "{}", file.display());
        for name in names {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let known = declared.contains(&format!("\"{name}\""))
                || declared.contains(&format!("\"{base}\""));
            assert!(
                known,
                "{} asks for {name}, which nobody serves",
                file.display()
            );
        }
    }
}

#[test]
fn promtool_takes_the_rules() {
    let Some(promtool) = program("promtool") else {
        eprintln!("skipped: no promtool on PATH");
        return;
    };
    let rules = chart().join("files/alerts.yaml");
    let output = Command::new(promtool)
        .args(["check", "rules"])
        .arg(rules)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn what_the_chart_renders_is_taken_by_an_api_server() {
    let Some(helm) = program("helm") else {
        eprintln!("skipped: no helm beside KUBEBUILDER_ASSETS or on PATH");
        return;
    };
    let everything = [
        "hub.enabled=true",
        "hub.apiServer=https://api.example:6443",
        "hub.apiServerCA=PEM",
        "hub.pinFirstSeen=true",
        "hub.names={hub.example,192.0.2.1}",
        "agent.enabled=true",
        "agent.invitation=line",
        "agent.propertiesPods=true",
        "proxy.enabled=true",
        "proxy.group=edge",
        "dashboards.enabled=true",
    ];
    let standalone = [
        "proxy.enabled=true",
        "proxy.kind=Deployment",
        "proxy.group=edge",
        "proxy.from=hub",
        "proxy.hub.address=hub.example:15010",
    ];
    for values in [&everything[..], &standalone[..]] {
        let server = ApiServer::builder()
            .controllers(Controllers::NONE)
            .build()
            .await
            .unwrap();
        let client = server.client();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in fairlead_api::crds() {
            crds.create(&PostParams::default(), &crd).await.unwrap();
        }
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "fairlead-system" },
        });
        apply_manifest(&client, &namespace).await.unwrap();
        let (text, errors) = render(&helm, values);
        assert!(errors.is_empty(), "{errors}");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert!(documents.len() >= 2, "{text}");
        for document in documents.iter().filter(|one| !one.is_null()) {
            apply_manifest(&client, document)
                .await
                .unwrap_or_else(|error| panic!("{error}: {document:#}"));
        }
    }
}

/// What differs is where it says which release it is of, and what values can ask for beyond it.
#[test]
fn the_agent_of_the_chart_is_the_one_that_join_applies() {
    let Some(helm) = program("helm") else {
        eprintln!("skipped: no helm beside KUBEBUILDER_ASSETS or on PATH");
        return;
    };
    for pods in [false, true] {
        let pods_value = format!("agent.propertiesPods={pods}");
        let values = [
            "agent.enabled=true",
            "agent.invitation=line",
            "image.repository=registry.example/fairlead",
            "image.tag=v1",
            &pods_value,
        ];
        let (text, errors) = render(&helm, &values);
        assert!(errors.is_empty(), "{errors}");
        let rendered: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let wanted = manifests::Workload {
            image: "registry.example/fairlead:v1",
            properties_pods: pods,
        };
        let mut applied = vec![manifests::invitation("line")];
        applied.extend(manifests::workload(&wanted));
        for object in applied {
            let same = |one: &&Value| {
                one["kind"] == object["kind"]
                    && one["metadata"]["name"] == object["metadata"]["name"]
            };
            let found = rendered.iter().find(same);
            let found = found.unwrap_or_else(|| panic!("the chart has no {}", object["kind"]));
            assert_eq!(unlabelled(found), unlabelled(&object));
        }
    }
}

/// An object without labels, selectors and what the chart alone lets people set.
fn unlabelled(object: &Value) -> Value {
    let mut object = object.clone();
    for path in ["/metadata", "/spec/template/metadata"] {
        if let Some(meta) = object.pointer_mut(path).and_then(Value::as_object_mut) {
            meta.remove("labels");
        }
    }
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("selector");
    }
    if let Some(container) = object.pointer_mut("/spec/template/spec/containers/0") {
        container.as_object_mut().unwrap().remove("imagePullPolicy");
    }
    object
}

#[test]
fn values_that_make_no_sense_are_refused_with_what_to_set() {
    let Some(helm) = program("helm") else {
        eprintln!("skipped: no helm beside KUBEBUILDER_ASSETS or on PATH");
        return;
    };
    let cases = [
        (vec![], "nothing is enabled"),
        (vec!["hub.enabled=true"], "hub.apiServer"),
        (vec!["proxy.enabled=true"], "proxy.group"),
        (vec!["hub.enabled=true", "hub.replicas=0"], "replicas"),
        (vec!["hub.enabeld=true"], "enabeld"),
        (
            vec!["proxy.enabled=true", "proxy.group=edge", "proxy.from=hub"],
            "proxy.hub.address",
        ),
    ];
    for (values, expected) in cases {
        let (_, errors) = render(&helm, &values);
        assert!(
            errors.contains(expected),
            "{values:?} should say {expected:?}: {errors}"
        );
    }
}

/// The manifests, or why there are none.
fn render(helm: &Path, values: &[&str]) -> (String, String) {
    let mut command = Command::new(helm);
    command.args(["template", "fairlead"]).arg(chart());
    command.args(["--namespace", "fairlead-system", "--kube-version", "1.37.2"]);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output().unwrap();
    let errors = match output.status.success() {
        true => String::new(),
        false => String::from_utf8(output.stderr).unwrap(),
    };
    (String::from_utf8(output.stdout).unwrap(), errors)
}

fn program(name: &str) -> Option<PathBuf> {
    let beside = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
