//! `fairlead-controller hub` as a process: start, pages, leading and following, ends; and
//! `fairlead-controller member`, between such a hub and a proxy of its own.
//!
//! Everything runs with the hub's own identity and rights, on the embedded API server always and on
//! a real one where `KUBEBUILDER_ASSETS` names one.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "hub/member.rs"]
mod member;
#[path = "hub/process.rs"]
mod process;
#[path = "hub/proxy.rs"]
mod proxy;
#[path = "hub/restore.rs"]
mod restore;
#[path = "hub/store.rs"]
mod store;

use fairlead_api::{labels, proxy::ProxyGroup};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};

use process::{Hub, mistake};
use proxy::Proxy;
use store::{Store, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_starts_shows_itself_and_leaves_when_asked() {
    for store in Store::all().await {
        let mut hub = Hub::start(&store, "hub-0", &[]).await;
        hub.is_ready().await;
        let index = hub.page("/").await;
        for path in ["/healthz", "/readyz", "/metrics", "/explain"] {
            assert!(index.contains(path), "{index}");
        }
        assert_eq!(hub.page("/healthz").await, "ok\n");
        let leads = async || {
            hub.page("/metrics")
                .await
                .contains("fairlead_hub_leads 1")
                .then_some(())
        };
        eventually("the hub to lead", leads).await;
        let leases: Api<Lease> = Api::namespaced(store.client(), labels::SYSTEM_NAMESPACE);
        let holder = async || {
            let lease = leases.get(labels::LEADER_LEASE).await.unwrap();
            lease.spec?.holder_identity
        };
        assert_eq!(holder().await.as_deref(), Some("hub-0"));
        hub.signal("TERM");
        assert_eq!(hub.ended().await, Some(0), "{}", hub.log());
        assert_eq!(holder().await.as_deref(), Some(""), "the lead is given up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_writes_both_serve_and_followers_hand_reports_on() {
    for store in Store::all().await {
        let mut leader = Hub::start(&store, "hub-0", &[]).await;
        leader.is_ready().await;
        leader.leads().await;
        let mut follower = Hub::start(&store, "hub-1", &[]).await;
        follower.is_ready().await;
        store.member("a").await;
        store.exports("a", &["10.0.0.1"]).await;
        store.serves().await;

        // One proxy at each, which say different things.
        let mut one = Proxy::open(&store, &leader, "one").await;
        let two = Proxy::open(&store, &follower, "two").await;
        one.until_endpoints(&["10.0.0.1"]).await;
        two.until_endpoints(&["10.0.0.1"]).await;
        one.report(3);
        two.report(4);
        store.sessions(Some(7)).await;
        store.in_sync(&["one", "two"]).await;

        // The leader dies without a word: the follower's proxy keeps its stream, and soon somebody
        // writes again.
        leader.signal("KILL");
        leader.ended().await;
        store.replaces("a", &["10.0.0.1", "10.0.0.2"]).await;
        two.until_endpoints(&["10.0.0.1", "10.0.0.2"]).await;
        follower.leads().await;
        store.sessions(None).await;
        // The other proxy comes to whoever is left, and nothing has to be sent to it twice.
        one.reopen(&store, &follower).await;
        one.report(5);
        two.report(4);
        store.sessions(Some(9)).await;
        let groups: Api<ProxyGroup> = Api::all(store.client());
        groups
            .delete("edge", &DeleteParams::default())
            .await
            .unwrap();
        two.until_endpoints(&[]).await;
        follower.signal("TERM");
        assert_eq!(follower.ended().await, Some(0), "{}", follower.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_nothing_away_and_sends_nothing_twice() {
    let store = Store::embedded().await;
    let mut hub = Hub::start(&store, "hub-0", &[]).await;
    hub.is_ready().await;
    store.member("a").await;
    store.exports("a", &["10.0.0.1"]).await;
    store.serves().await;
    let mut proxy = Proxy::open(&store, &hub, "one").await;
    proxy.until_endpoints(&["10.0.0.1"]).await;
    store.in_sync(&["one"]).await;
    let before = proxy.heard();
    hub.signal("KILL");
    hub.ended().await;
    let mut again = Hub::start(&store, "hub-0", &[]).await;
    proxy.reopen(&store, &again).await;
    store.replaces("a", &["10.0.0.2"]).await;
    proxy.until_endpoints(&["10.0.0.2"]).await;
    let after = proxy.heard();
    assert_eq!(
        (after.0 - before.0, after.1 - before.1),
        (1, 0),
        "the one assignment that changed, and nothing else"
    );
    again.signal("INT");
    assert_eq!(again.ended().await, Some(0), "{}", again.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_what_to_do() {
    let store = Store::embedded().await;
    let bare = Store::bare().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file = |store: &Store| store.kubeconfig().display().to_string();
    let nowhere = store.folder().join("nowhere.kubeconfig");
    let kubeconfig = std::fs::read_to_string(store.kubeconfig()).unwrap();
    let url = store.url();
    std::fs::write(&nowhere, kubeconfig.replace(&url, "https://127.0.0.1:1")).unwrap();
    let cases = [
        (file(&bare), vec![], "fairlead crds | kubectl apply"),
        (nowhere.display().to_string(), vec![], "https://127.0.0.1:1"),
        ("/no/such/file".to_owned(), vec![], "/no/such/file"),
        (
            file(&store),
            vec!["--listen", &taken],
            "choose another --listen",
        ),
        (file(&store), vec!["--admin", &taken], "admin address"),
        (
            file(&store),
            vec!["--plain", "--listen", "0.0.0.0:0"],
            "loopback",
        ),
        (
            file(&store),
            vec!["--advertise", "hub.example"],
            "HOST:PORT",
        ),
        (file(&store), vec!["--log", "a=b=c"], "log filter"),
    ];
    for (kubeconfig, flags, expected) in cases {
        let (code, text) = mistake(&kubeconfig, &flags).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(expected),
            "{flags:?} should say {expected:?}: {text}"
        );
    }
}
