//! `kill -9` at any moment: what the server acknowledged is there after a restart.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use fairlead_apiserver::ApiServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Error};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The program, started on a data folder and ready.
async fn start(data: &Path) -> (Child, Client) {
    let kubeconfig = data.join("kubeconfig");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fairlead-apiserver"))
        .args(["--listen", "127.0.0.1:0", "--plain", "--kubeconfig"])
        .arg(&kubeconfig)
        .arg("--data")
        .arg(data.join("server"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .next_line()
        .await
        .unwrap()
        .expect("it says where it listens");
    assert!(ready.starts_with("listening on"), "{ready}");
    let kubeconfig = Kubeconfig::read_from(&kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    (child, Client::try_from(config).unwrap())
}

/// What a writer knows of an object: the resourceVersion of its last acknowledged state, `None`
/// once its deletion was acknowledged; and whether a further write was under way at the end.
#[derive(Debug, Default, Clone)]
struct Known {
    acknowledged: Option<String>,
    pending: bool,
}

/// Creates, updates and deletes until the server is gone.
async fn write(client: Client, writer: usize, known: Arc<Mutex<BTreeMap<String, Known>>>) {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    for round in 0.. {
        let name = format!("w{writer}-{}", round % 7);
        let before = known
            .lock()
            .unwrap()
            .get(&name)
            .cloned()
            .unwrap_or_default();
        known
            .lock()
            .unwrap()
            .entry(name.clone())
            .or_default()
            .pending = true;
        let object: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": before.acknowledged},
            "data": {"round": round.to_string(), "filler": "x".repeat(500)},
        }))
        .unwrap();
        let result = match &before.acknowledged {
            None => api.create(&PostParams::default(), &object).await,
            Some(_) if round % 5 == 0 => {
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.map(|_| ConfigMap::default())
            }
            Some(_) => api.replace(&name, &PostParams::default(), &object).await,
        };
        match result {
            Ok(object) => {
                let state = Known {
                    acknowledged: object.metadata.resource_version,
                    pending: false,
                };
                known.lock().unwrap().insert(name, state);
            }
            Err(Error::Api(status)) => panic!("the server refused a write: {status:?}"),
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_with_every_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let known = Arc::new(Mutex::new(BTreeMap::<String, Known>::new()));
    for life in 0..4_usize {
        let (mut child, client) = start(folder.path()).await;
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let list = api.list(&ListParams::default()).await.unwrap();
        let found: BTreeMap<String, String> = list
            .items
            .into_iter()
            .map(|map| {
                (
                    map.metadata.name.unwrap(),
                    map.metadata.resource_version.unwrap(),
                )
            })
            .collect();
        for (name, state) in known.lock().unwrap().iter_mut() {
            let present = found.get(name).cloned();
            if state.pending {
                // Not acknowledged: it may have happened or not. From here on it is known.
                *state = Known {
                    acknowledged: present,
                    pending: false,
                };
            } else {
                assert_eq!(present, state.acknowledged, "{name} after restart {life}");
            }
        }
        let writers: Vec<_> = (0..8)
            .map(|writer| tokio::spawn(write(client.clone(), writer, Arc::clone(&known))))
            .collect();
        // Pull the plug once enough was acknowledged for a group to be under way.
        let enough = 200 + 137 * life as u64;
        let revision = async || -> u64 {
            let list = api.list(&ListParams::default().limit(1)).await.unwrap();
            list.metadata.resource_version.unwrap().parse().unwrap()
        };
        let start = revision().await;
        while revision().await < start + enough {}
        child.kill().await.unwrap();
        for writer in writers {
            writer.await.expect("no write was refused");
        }
    }
}

#[tokio::test]
async fn a_restarted_server_keeps_its_identity_and_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let build = || {
        ApiServer::builder()
            .data_dir(folder.path())
            .durable(true)
            .build()
    };
    let first = build().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(first.client(), "default");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    let kept = maps.create(&PostParams::default(), &map).await.unwrap();
    let ca = first.ca_pem().to_owned();
    first.shutdown().await;
    let revision = first.revision();
    let second = build().await.unwrap();
    assert_eq!(second.ca_pem(), ca);
    assert!(second.revision() >= revision);
    let maps: Api<ConfigMap> = Api::namespaced(second.client(), "default");
    assert_eq!(maps.get("kept").await.unwrap().metadata, kept.metadata);
    let old = ListParams::default()
        .at("2")
        .matching(kube::api::VersionMatch::Exact);
    let Err(Error::Api(status)) = maps.list(&old).await else {
        panic!("history is gone")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    let refused = Api::<ConfigMap>::namespaced(first.client(), "default");
    let Err(Error::Api(status)) = refused.create(&PostParams::default(), &map).await else {
        panic!("a stopped server writes nothing")
    };
    assert_eq!(status.code, 500);
}
