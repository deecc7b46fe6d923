//! An API server with what a hub needs, and what members and users would write to it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use fairlead_api::{
    export::{ExportRecord, ExportRecordSpec},
    labels,
    mcs::ServicePort,
    member::MemberCluster,
    proxy::{PortRange, ProxyGroup, ProxyGroupSpec},
    service::{FrontendSpec, MultiClusterService, MultiClusterServiceSpec, ServiceImportReference},
};
use fairlead_apiserver::{ApiServer, Handle, Security};
use fairlead_controller::{hub::apply_manifest, identity, manifests};
use fairlead_tests::{fleet, real::RealServer, wait};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Secret, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

/// An API server that outlives hubs.
pub(crate) struct Store {
    client: Client,
    folder: tempfile::TempDir,
    server: Option<Server>,
    addr: Option<SocketAddr>,
}

/// Whose API server it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Hub,
    Member,
}

#[allow(dead_code, reason = "held for as long as the store lives")]
enum Server {
    Embedded(ApiServer, Handle),
    Real(Box<RealServer>),
}

impl Store {
    /// The embedded one, and a real one where there is one.
    pub(crate) async fn all() -> Vec<Self> {
        let mut all = vec![Self::embedded().await];
        if let Some(real) = RealServer::start_from_environment().await.unwrap() {
            let kubeconfig = std::fs::read_to_string(real.kubeconfig()).unwrap();
            let store = Self::new(real.client(), Server::Real(Box::new(real)));
            store.prepare(&kubeconfig).await;
            all.push(store);
        }
        all
    }

    /// A real one, where there is one, for agents that dial in: its kubeconfig says what it is
    /// checked against.
    pub(crate) async fn real(role: Role) -> Option<Self> {
        let real = RealServer::start_from_environment().await.unwrap()?;
        let kubeconfig = std::fs::read_to_string(real.kubeconfig()).unwrap();
        let certificates = real.kubeconfig().with_file_name("certs/apiserver.crt");
        let checked = format!("certificate-authority: {:?}", certificates);
        let kubeconfig = kubeconfig.replace("insecure-skip-tls-verify: true", &checked);
        let store = Self::new(real.client(), Server::Real(Box::new(real)));
        store.prepare_for(role, &kubeconfig).await;
        Some(store)
    }

    /// The embedded one.
    pub(crate) async fn embedded() -> Self {
        let (store, kubeconfig) = Self::serving().await;
        store.prepare(&kubeconfig).await;
        store
    }

    /// The embedded one, without Fairlead's kinds.
    pub(crate) async fn bare() -> Self {
        let (store, kubeconfig) = Self::serving().await;
        std::fs::write(store.kubeconfig(), kubeconfig).unwrap();
        store
    }

    async fn serving() -> (Self, String) {
        let server = ApiServer::builder().build().await.unwrap();
        let client = server.client();
        let addr = "127.0.0.1:0".parse().unwrap();
        let handle = server.serve(addr, Security::Tls).await.unwrap();
        let kubeconfig = handle.kubeconfig().to_owned();
        (
            Self::new(client, Server::Embedded(server, handle)),
            kubeconfig,
        )
    }

    fn new(client: Client, server: Server) -> Self {
        Self {
            client,
            folder: tempfile::tempdir().unwrap(),
            server: Some(server),
            addr: None,
        }
    }

    /// The embedded one on disk; it can be stopped, backed up and restored.
    pub(crate) async fn durable() -> Self {
        Self::durable_for(Role::Hub).await
    }

    /// The same, for a hub or a member.
    pub(crate) async fn durable_for(role: Role) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr = "127.0.0.1:0".parse().unwrap();
        let (server, addr, kubeconfig) = serve_durable(folder.path(), addr).await;
        let mut config = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        config.current_context = Some(config.contexts[0].name.clone());
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options)
            .await
            .unwrap();
        let store = Self {
            client: Client::try_from(config).unwrap(),
            folder,
            server: Some(server),
            addr: Some(addr),
        };
        store.prepare_for(role, &kubeconfig).await;
        store
    }

    /// It answers nobody any more.
    pub(crate) async fn falls_silent(&mut self) {
        match &self.server {
            Some(Server::Real(real)) => signal_all(&real.pids(), "STOP"),
            _ => self.stop().await,
        }
    }

    /// It answers again.
    pub(crate) async fn answers_again(&mut self) {
        match &self.server {
            Some(Server::Real(real)) => signal_all(&real.pids(), "CONT"),
            _ => self.start_again().await,
        }
    }

    /// Takes a back-up, with a short stop of the embedded one.
    pub(crate) async fn back_up(&mut self) -> PathBuf {
        let backup = self.folder.path().join("backup");
        if let Some(Server::Real(real)) = &self.server {
            real.back_up(&backup).unwrap();
            return backup;
        }
        self.stop().await;
        copy(&self.folder.path().join("data"), &backup);
        self.start_again().await;
        backup
    }

    /// Whether it can be restored: a real one needs etcd's own programs.
    pub(crate) fn can_restore(&self) -> bool {
        match &self.server {
            Some(Server::Real(real)) => real.can_restore(),
            _ => true,
        }
    }

    /// Goes back to a back-up, with a short stop; a real one as README says.
    pub(crate) async fn restore(&mut self, backup: PathBuf) {
        if let Some(Server::Real(real)) = &mut self.server {
            let raised = ["--bump-revision=1000000000", "--mark-compacted"];
            real.restore(&backup, &raised).await.unwrap();
            return;
        }
        self.stop().await;
        let data = self.folder.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(backup, data).unwrap();
        self.start_again().await;
    }

    async fn stop(&mut self) {
        let Some(Server::Embedded(server, handle)) = self.server.take() else {
            panic!("only the embedded server is stopped");
        };
        drop(handle);
        server.shutdown().await;
    }

    async fn start_again(&mut self) {
        let addr = self.addr.expect("a durable server");
        let (server, ..) = serve_durable(self.folder.path(), addr).await;
        self.server = Some(server);
    }

    async fn prepare(&self, admin: &str) {
        self.prepare_for(Role::Hub, admin).await;
    }

    /// Kinds, the rights of the hub or of an agent, and a kubeconfig of its account.
    async fn prepare_for(&self, role: Role, admin: &str) {
        let (kinds, rights, account) = match role {
            Role::Hub => (
                fairlead_api::crds(),
                identity::of_hub(),
                identity::HUB_ACCOUNT,
            ),
            Role::Member => (
                fairlead_api::crds::member_crds(),
                manifests::agent(false),
                manifests::AGENT_ACCOUNT,
            ),
        };
        let crds: Api<CustomResourceDefinition> = Api::all(self.client());
        for crd in &kinds {
            crds.create(&PostParams::default(), crd).await.unwrap();
        }
        for crd in &kinds {
            let name = crd.name_any();
            eventually("an established CRD", async || {
                let conditions = crds.get(&name).await.ok()?.status?.conditions?;
                let mut conditions = conditions.iter();
                let established =
                    conditions.any(|one| one.type_ == "Established" && one.status == "True");
                established.then_some(())
            })
            .await;
        }
        for manifest in &rights {
            apply_manifest(&self.client, manifest).await.unwrap();
        }
        let token = self.token_of(account, &[]).await;
        let kubeconfig = Kubeconfig::from_yaml(admin).unwrap();
        // JSON is YAML, and the type of a token refuses to be written.
        let mut text = serde_json::to_value(&kubeconfig).unwrap();
        for user in text["users"].as_array_mut().unwrap() {
            user["user"] = json!({ "token": token });
        }
        std::fs::write(self.kubeconfig(), text.to_string()).unwrap();
    }

    /// A token of an account of `fairlead-system`.
    pub(crate) async fn token_of(&self, account: &str, audiences: &[&str]) -> String {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client(), labels::SYSTEM_NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences.iter().map(|one| (*one).to_owned()).collect()),
                expiration_seconds: Some(3600),
                ..Default::default()
            }),
            ..Default::default()
        };
        let params = PostParams::default();
        let answer = accounts.create_token_request(account, &params, &request);
        answer.await.unwrap().status.unwrap().token.unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Of the hub's account, or of the agent's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Where the API server is.
    pub(crate) fn url(&self) -> String {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let cluster = kubeconfig.clusters[0].cluster.clone().unwrap();
        cluster.server.unwrap()
    }

    /// What hubs are checked against.
    pub(crate) async fn bundle(&self) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.client(), labels::SYSTEM_NAMESPACE);
        let secret = secrets.get("fairlead-hub-ca").await.unwrap();
        String::from_utf8(secret.data.unwrap()["ca.crt"].0.clone()).unwrap()
    }

    /// Makes a member and waits until the leader has prepared it.
    pub(crate) async fn member(&self, name: &str) {
        let api: Api<MemberCluster> = Api::all(self.client());
        let object = MemberCluster::new(name, Default::default());
        api.create(&PostParams::default(), &object).await.unwrap();
        eventually("a prepared member", async || {
            let status = api.get(name).await.ok()?.status?;
            fairlead_api::conditions::is_true(&status.conditions, "ReadyToJoin").then_some(())
        })
        .await;
    }

    /// `shop/web` of a member.
    pub(crate) async fn exports(&self, member: &str, ips: &[&str]) {
        let spec = ExportRecordSpec {
            service_namespace: "shop".into(),
            service_name: "web".into(),
            ports: vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                ..Default::default()
            }],
            ip_families: vec!["IPv4".into()],
            ..Default::default()
        };
        let record = ExportRecord::new(&labels::export_record_name("shop", "web"), spec);
        let namespace = labels::member_namespace(member);
        let records: Api<ExportRecord> = Api::namespaced(self.client(), &namespace);
        records
            .create(&PostParams::default(), &record)
            .await
            .unwrap();
        self.replaces(member, ips).await;
    }

    /// Its endpoints are these now.
    pub(crate) async fn replaces(&self, member: &str, ips: &[&str]) {
        let namespace = labels::member_namespace(member);
        let name = labels::slice_mirror_name("shop", "web", "s");
        let endpoints = ips
            .iter()
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "labels": {
                    labels::SERVICE_NAMESPACE: "shop",
                    labels::SERVICE_NAME: "web",
                    labels::MANAGED_BY: labels::MANAGER,
                },
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        });
        let slices: Api<EndpointSlice> = Api::namespaced(self.client(), &namespace);
        let params = PatchParams::apply("test").force();
        slices
            .patch(&name, &params, &Patch::Apply(&slice))
            .await
            .unwrap();
    }

    /// `shop/web` at proxy group `edge`.
    pub(crate) async fn serves(&self) {
        let spec = ProxyGroupSpec {
            addresses: vec!["192.0.2.1".into()],
            port_range: PortRange {
                first: 30_000,
                last: 30_099,
            },
            ..Default::default()
        };
        let groups: Api<ProxyGroup> = Api::all(self.client());
        let group = ProxyGroup::new("edge", spec);
        groups.create(&PostParams::default(), &group).await.unwrap();
        let spec = MultiClusterServiceSpec {
            service_import: ServiceImportReference { name: "web".into() },
            frontends: vec![FrontendSpec {
                proxy_group: "edge".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let object = MultiClusterService::new("web", spec);
        let services: Api<MultiClusterService> = Api::namespaced(self.client(), "shop");
        eventually("namespace shop", async || {
            services.create(&PostParams::default(), &object).await.ok()
        })
        .await;
    }

    /// Waits until the service's status says that member a has so many sessions.
    pub(crate) async fn sessions(&self, expected: Option<i64>) {
        let services: Api<MultiClusterService> = Api::namespaced(self.client(), "shop");
        eventually(&format!("{expected:?} sessions"), async || {
            let status = services.get("web").await.unwrap().status?;
            (status.members.first()?.active_sessions == expected).then_some(())
        })
        .await;
    }

    /// Waits until these proxies are connected and run on what is published.
    pub(crate) async fn in_sync(&self, proxies: &[&str]) {
        let groups: Api<ProxyGroup> = Api::all(self.client());
        let count = i32::try_from(proxies.len()).unwrap();
        eventually("the proxies to be in sync", async || {
            let status = groups.get("edge").await.unwrap().status?;
            let names: Vec<&str> = status
                .proxies
                .iter()
                .map(|proxy| proxy.id.as_str())
                .collect();
            (names == proxies && status.in_sync == count).then_some(())
        })
        .await;
    }
}

async fn serve_durable(folder: &Path, addr: SocketAddr) -> (Server, SocketAddr, String) {
    let builder = ApiServer::builder().data_dir(folder.join("data"));
    let builder = builder.durable(true).allow_loopback_endpoints(true);
    let server = builder.build().await.unwrap();
    let handle = eventually("the port to be free", async || {
        server.serve(addr, Security::Tls).await.ok()
    })
    .await;
    let (addr, kubeconfig) = (handle.addr(), handle.kubeconfig().to_owned());
    (Server::Embedded(server, handle), addr, kubeconfig)
}

fn signal_all(pids: &[u32], signal: &str) {
    for pid in pids {
        fleet::kill(*pid, signal).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A value that comes: a busy machine has long enough.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = wait::until(what, async || Ok(look().await.ok_or("nothing")));
    found.await.unwrap()
}
