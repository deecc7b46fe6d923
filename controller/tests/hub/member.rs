//! A member's agent as a process, between the hub's process and the one of a proxy.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use fairlead_api::{
    conditions::find,
    export::ExportRecord,
    labels,
    mcs::v1beta1::{ServiceExport, ServiceImport},
    proxy::{PortRange, ProxyGroup, ProxyGroupSpec},
    service::MultiClusterService,
};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    agent::{import::derived_name, invitation::Invitation},
    board::Type,
    hub::apply_manifest,
    identity,
    join::io::make_token,
};
use fairlead_runtime::clock::Clock;
use fairlead_tests::{
    clients::Session,
    fleet,
    process::{Process, sibling},
    wait,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::Command,
    task::JoinSet,
};

use crate::{
    process::Hub,
    store::{Role, Store, eventually},
};

const CONTROLLER: &str = env!("CARGO_BIN_EXE_fairlead-controller");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_while_the_hub_is_away_goes_on_from_its_disk() {
    outlives(Place::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_real_clusters_an_agent_goes_on_from_its_disk() {
    match Place::real().await {
        Some(place) => outlives(place).await,
        None => eprintln!("SKIPPED: set KUBEBUILDER_ASSETS=$(tests/kube/build.sh)"),
    }
}

async fn outlives(mut place: Place) {
    let mut hub = place.hub().await;
    place.exports(&[place.pods[0]]).await;
    let mut agent = Agent::start(&place, Some(&place.invitation(&hub).await)).await;
    place.export_goes_up(&["10.0.9.1"]).await;
    place.import_is_served(&[place.pods[0]]).await;
    let mut proxy = Proxy::start(&place, "one").await;
    proxy.has(place.pods[0]).await;
    place.is_reported("one", place.answer(&proxy).await).await;
    place.is_saved().await;

    // The agent, the hub and its API server die, one after the other, without a word.
    agent.process.signal("KILL").unwrap();
    agent.process.ended().await.unwrap();
    drop(place.answer(&proxy).await);
    hub.signal("KILL");
    hub.ended().await;
    place.store.falls_silent().await;
    let imports = place.imports();
    let gone = DeleteParams::default();
    imports.delete("web", &gone).await.unwrap();

    // What came down is served again, to a proxy that has never seen the hub, too.
    let mut again = Agent::start(&place, None).await;
    place.import_is_served(&[place.pods[0]]).await;
    proxy.process.signal("KILL").unwrap();
    proxy.process.ended().await.unwrap();
    let proxy = Proxy::start(&place, "two").await;
    proxy.has(place.pods[0]).await;
    drop(place.answer(&proxy).await);

    // The hub comes back, and what changed meanwhile and afterwards arrives, both ways.
    place.pods_move("own", &["10.0.9.2"]).await;
    place.store.answers_again().await;
    let hub = place.hub().await;
    place.export_goes_up(&["10.0.9.2"]).await;
    let moved = place.pods[1].to_string();
    place.store.replaces("a", &[&moved]).await;
    place.import_is_served(&[place.pods[1]]).await;
    proxy.has(place.pods[1]).await;
    place.is_reported("two", place.answer(&proxy).await).await;
    let metrics = fleet::page(&again.admin, "/metrics").await.unwrap();
    assert!(metrics.contains("fairlead_agent_connected 1"), "{metrics}");
    again.process.signal("TERM").unwrap();
    let code = again.process.ended().await.unwrap();
    assert_eq!(code, Some(0), "{}", again.process.log());
    drop(hub);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_cannot_start_says_why_and_what_to_do() {
    let member = Store::durable_for(Role::Member).await;
    let kubeconfig = member.kubeconfig().display().to_string();
    let data = member.folder().join("agent").display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nowhere = Invitation {
        hub: "127.0.0.1:1".into(),
        token: "b.x".into(),
        bundle: String::new(),
    };
    let nowhere = nowhere.encode();
    let cases: [(&[&str], i32, &str); 6] = [
        (&[], 1, "give the line that `fairlead join NAME` prints"),
        (&["--invitation", "nonsense"], 1, "copy the whole line"),
        (&["--invitation", &nowhere], 1, "127.0.0.1:1"),
        (&["--admin", &taken], 1, "admin address"),
        (&["--kubeconfig", "/no/such/file"], 1, "/no/such/file"),
        (&["--publish"], 2, "--listen <ADDR:PORT>"),
    ];
    for (flags, code, expected) in cases {
        let mut command = Command::new(CONTROLLER);
        command.args(["member", "--data", &data]).args(flags);
        for (flag, value) in [("--kubeconfig", &*kubeconfig), ("--admin", "127.0.0.1:0")] {
            if !flags.contains(&flag) {
                command.args([flag, value]);
            }
        }
        let mut process = Process::start("the agent", command).unwrap();
        assert_eq!(process.ended().await.unwrap(), Some(code), "{flags:?}");
        let log = async || process.log().contains(expected).then_some(());
        eventually(&format!("{flags:?} to say {expected:?}"), log).await;
    }
}

/// The API servers of the hub and of member b, and what is there to be exported.
struct Place {
    store: Store,
    member: Store,
    /// Whether endpoints may be on loopback addresses, and so be real.
    loopback: bool,
    /// Where member a's pods are, before and after they move.
    pods: [Ipv4Addr; 2],
    /// The first port of the proxy group.
    frontend: u16,
    /// Where hub and agent listen, over and over again.
    ports: [u16; 2],
    _servers: JoinSet<()>,
}

impl Place {
    async fn embedded() -> Self {
        let (store, member) = tokio::join!(
            Store::durable_for(Role::Hub),
            Store::durable_for(Role::Member)
        );
        // Nobody else's, whoever runs tests beside this one.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let pods = [1, 2].map(|pod| Ipv4Addr::new(127, 100 + high % 50, middle ^ (pod << 7), low));
        let mut servers = JoinSet::new();
        for pod in pods {
            let listener = TcpListener::bind((pod, 8080)).await.unwrap();
            servers.spawn(answer(listener));
        }
        Self::new((store, member), true, pods, servers).await
    }

    async fn real() -> Option<Self> {
        let (store, member) = tokio::join!(Store::real(Role::Hub), Store::real(Role::Member));
        let pods = [1, 2].map(|pod| Ipv4Addr::new(10, 0, 0, pod));
        Some(Self::new((store?, member?), false, pods, JoinSet::new()).await)
    }

    async fn new(
        (store, member): (Store, Store),
        loopback: bool,
        pods: [Ipv4Addr; 2],
        servers: JoinSet<()>,
    ) -> Self {
        let [hub, agent, frontend] = free_ports();
        let place = Self {
            store,
            member,
            loopback,
            pods,
            frontend,
            ports: [hub, agent],
            _servers: servers,
        };
        for object in own_service() {
            let applied = async || {
                let applied = apply_manifest(&place.member.client(), &object).await;
                applied.ok()
            };
            eventually(&object["kind"].to_string(), applied).await;
        }
        place.pods_move("own", &["10.0.9.1"]).await;
        place
    }

    /// A hub, always at the same address.
    async fn hub(&self) -> Hub {
        let listen = format!("127.0.0.1:{}", self.ports[0]);
        let mut flags = vec!["--listen", &listen];
        if self.loopback {
            flags.push("--allow-loopback-endpoints");
        }
        let hub = Hub::start(&self.store, "hub-0", &flags).await;
        hub.is_ready().await;
        hub
    }

    /// Member a exports `shop/web`, which b's proxies serve.
    async fn exports(&self, pods: &[Ipv4Addr]) {
        self.store.member("a").await;
        let pods: Vec<String> = pods.iter().map(Ipv4Addr::to_string).collect();
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        self.store.exports("a", &pods).await;
        let spec = ProxyGroupSpec {
            member: Some("b".into()),
            listen: Some(vec!["0.0.0.0".into()]),
            services: vec!["shop/web".into()],
            port_range: PortRange {
                first: self.frontend.into(),
                last: self.frontend.into(),
            },
            ..ProxyGroupSpec::default()
        };
        let groups = self.groups();
        let group = ProxyGroup::new("edge", spec);
        groups.create(&PostParams::default(), &group).await.unwrap();
        let service: MultiClusterService = serde_json::from_value(json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "MultiClusterService",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "serviceImport": { "name": "web" },
                "frontends": [ { "proxyGroup": "edge" } ],
                // Addresses that aren't here are not to be asked.
                "healthCheck": { "off": !self.loopback },
            },
        }))
        .unwrap();
        let services: Api<MultiClusterService> = Api::namespaced(self.store.client(), "shop");
        eventually("namespace shop on the hub", async || {
            let params = PostParams::default();
            services.create(&params, &service).await.ok()
        })
        .await;
    }

    async fn invitation(&self, hub: &Hub) -> String {
        let client = self.store.client();
        let member = MemberName::parse("b").unwrap();
        let token = make_token(&client, &Clock::system(), &member).await;
        let invitation = Invitation {
            hub: hub.addr.to_string(),
            token: token.unwrap(),
            bundle: self.store.bundle().await,
        };
        invitation.encode()
    }

    /// The endpoints of a service of member b are these now.
    async fn pods_move(&self, service: &str, ips: &[&str]) {
        let endpoints = ips
            .iter()
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-1"), "namespace": "shop",
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [ { "name": "http", "protocol": "TCP", "port": 8080 } ],
        });
        apply_manifest(&self.member.client(), &slice).await.unwrap();
    }

    /// Waits until the hub has b's export with these endpoints, and b was told so.
    async fn export_goes_up(&self, ips: &[&str]) {
        let namespace = labels::member_namespace("b");
        let records = Api::<ExportRecord>::namespaced(self.store.client(), &namespace);
        let mirrors = Api::<EndpointSlice>::namespaced(self.store.client(), &namespace);
        eventually(&format!("an export of {ips:?} on the hub"), async || {
            let name = labels::export_record_name("shop", "own");
            let status = records.get_opt(&name).await.ok()??.status?;
            let valid = find(&status.conditions, "Valid")?;
            let all = mirrors.list(&ListParams::default()).await.ok()?;
            (valid.status == "True" && addresses(all.items) == ips).then_some(())
        })
        .await;
        let exports = Api::<ServiceExport>::namespaced(self.member.client(), "shop");
        eventually("the member to be told", async || {
            let status = exports.get("own").await.ok()?.status?;
            (find(&status.conditions, "Valid")?.status == "True").then_some(())
        })
        .await;
    }

    /// Waits until b has the import `shop/web`, its derived Service and slices.
    async fn import_is_served(&self, ips: &[Ipv4Addr]) {
        let ips: Vec<String> = ips.iter().map(Ipv4Addr::to_string).collect();
        let services = Api::<Service>::namespaced(self.member.client(), "shop");
        let slices = Api::<EndpointSlice>::namespaced(self.member.client(), "shop");
        let derived = derived_name(&("shop".to_owned(), "web".to_owned()));
        let ours = ListParams::default().labels("multicluster.kubernetes.io/service-name=web");
        eventually(&format!("an import served by {ips:?}"), async || {
            let import = self.imports().get_opt("web").await.ok()??;
            let ready = find(&import.status.as_ref()?.conditions, "Ready")?.clone();
            let service = services.get_opt(&derived).await.ok()??;
            let address = service.spec?.cluster_ips?;
            let there = addresses(slices.list(&ours).await.ok()?.items);
            let same = import.spec.ips == address && there == ips;
            (same && ready.status == "True").then_some(())
        })
        .await;
    }

    /// A session through the proxy, where endpoints are real: held until it is dropped.
    async fn answer(&self, proxy: &Proxy) -> Option<Session> {
        if !self.loopback {
            return None;
        }
        let addr = SocketAddr::from(([127, 0, 0, 1], self.frontend));
        let what = format!("an answer by proxy {}", proxy.node);
        Some(eventually(&what, async || Session::open(addr).await.ok()).await)
    }

    /// Waits until the hub knows that the proxy runs on what is published, and of its session.
    async fn is_reported(&self, node: &str, session: Option<Session>) {
        let sessions = Some(i64::from(session.is_some()));
        let what = format!("{node} with {sessions:?} on the hub");
        let reported = wait::until(&what, async || {
            let status = self.groups().get("edge").await?.status.unwrap_or_default();
            let mut proxies = status.proxies.iter();
            let told = proxies.any(|one| one.id == node && one.sessions == sessions);
            let whole = status.connected == 1 && status.in_sync == 1 && told;
            Ok(whole.then_some(()).ok_or(status))
        });
        reported.await.unwrap();
    }

    /// Waits until what came down is on the agent's disk.
    async fn is_saved(&self) {
        let path = self.data().join("received.bin");
        eventually("the state on disk", async || {
            let bytes = std::fs::read(&path).ok()?;
            let resources = fairlead_config::xds::saved::decode(&bytes).ok()?;
            let has = |of: Type| resources.iter().any(|(url, _)| *url == of.url());
            (has(Type::Import) && has(Type::Listener)).then_some(())
        })
        .await;
    }

    fn imports(&self) -> Api<ServiceImport> {
        Api::namespaced(self.member.client(), "shop")
    }

    fn groups(&self) -> Api<ProxyGroup> {
        Api::all(self.store.client())
    }

    fn data(&self) -> PathBuf {
        self.member.folder().join("agent")
    }
}

/// `fairlead-controller member` in b.
struct Agent {
    process: Process,
    admin: String,
}

impl Agent {
    async fn start(place: &Place, invitation: Option<&str>) -> Self {
        let mut command = Command::new(CONTROLLER);
        command.arg("member").arg("--data").arg(place.data());
        command.arg("--kubeconfig").arg(place.member.kubeconfig());
        let listen = format!("127.0.0.1:{}", place.ports[1]);
        command.args(["--listen", &listen, "--publish", "--admin", "127.0.0.1:0"]);
        if let Some(line) = invitation {
            command.args(["--invitation", line]);
        }
        let mut process = Process::start("the agent", command).unwrap();
        let admin: SocketAddr = process.says("the agent runs", "admin=").await.unwrap();
        let admin = format!("http://{admin}");
        process.is_ready(&admin).await.unwrap();
        Self { process, admin }
    }
}

/// `fairlead-proxy` in b, with nothing on its disk.
struct Proxy {
    process: Process,
    node: &'static str,
    admin: String,
}

impl Proxy {
    async fn start(place: &Place, node: &'static str) -> Self {
        let account = identity::proxy_subject("edge");
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": labels::SYSTEM_NAMESPACE },
        });
        apply_manifest(&place.member.client(), &object)
            .await
            .unwrap();
        let token = place
            .member
            .token_of(&account, &[labels::XDS_AUDIENCE])
            .await;
        let folder = place.member.folder().join(node);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        let controller = Path::new(CONTROLLER);
        let program = sibling(controller, "fairlead-proxy", "fairlead-proxy").unwrap();
        let mut command = Command::new(program);
        let xds = format!("https://127.0.0.1:{}", place.ports[1]);
        command.args(["--xds", &xds, "--group", "edge", "--node", node]);
        command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        command
            .arg("--xds-ca")
            .arg(place.data().join("proxies-ca.pem"));
        command.arg("--xds-token").arg(folder.join("token"));
        command.arg("--xds-state").arg(folder.join("state"));
        let mut process = Process::start(node, command).unwrap();
        let admin: SocketAddr = process.says("admin pages", "addr=").await.unwrap();
        let admin = format!("http://{admin}");
        process.is_ready(&admin).await.unwrap();
        Self {
            process,
            node,
            admin,
        }
    }

    /// Waits until this pod is all that it has.
    async fn has(&self, pod: Ipv4Addr) {
        eventually(&format!("{pod} in proxy {}", self.node), async || {
            let page = fleet::page(&self.admin, "/services").await.ok()?;
            let page: Value = serde_json::from_str(&page).ok()?;
            let members = page["services"][0]["tiers"][0]["members"].as_array()?;
            let endpoints = members.first()?["endpoints"].as_array()?;
            let at: Vec<&str> = endpoints
                .iter()
                .filter_map(|endpoint| endpoint["address"].as_str())
                .collect();
            (at == [format!("{pod}:8080")]).then_some(())
        })
        .await;
    }
}

/// Service, namespace and export `shop/own` of member b.
fn own_service() -> [Value; 3] {
    [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "own", "namespace": "shop" },
            "spec": { "ports": [ { "name": "http", "port": 80, "targetPort": 8080 } ] },
        }),
        json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": { "name": "own", "namespace": "shop" },
        }),
    ]
}

fn addresses(slices: Vec<EndpointSlice>) -> Vec<String> {
    let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
    let addresses = endpoints.flatten().flat_map(|endpoint| endpoint.addresses);
    let mut addresses: Vec<String> = addresses.collect();
    addresses.sort();
    addresses
}

/// Answers each line with `a pod`, as a member's pod does.
async fn answer(listener: TcpListener) {
    let mut sessions = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        sessions.spawn(async move {
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                if write.write_all(b"a pod\n").await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Ports to listen at again and again: below those that the kernel hands out by itself, so that
/// nobody who connects somewhere takes one meanwhile. No port is given to two tests.
fn free_ports() -> [u16; 3] {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let next = || {
        let mut ports = (0..1000).map(|_| first + 7 * TRIED.fetch_add(1, Ordering::Relaxed));
        ports.find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok())
    };
    [(); 3].map(|()| next().expect("a free port"))
}
