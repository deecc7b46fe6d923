use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use fairlead_runtime::clock::Clock;
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, rustls};

use super::{
    super::io::{Options, XdsSource},
    plane::{Plane, PlaneStream},
    *,
};
use crate::source::{EVENTS_MAX, Event};

/// A source that runs, and what its control thread would run on.
struct Running {
    source: XdsSource,
    events: mpsc::Receiver<Event>,
    task: tokio::task::JoinHandle<()>,
    running: Snapshot,
}

impl Running {
    fn start(options: Options) -> Self {
        let (source, first) = XdsSource::open(options, Clock::system());
        let (out, events) = mpsc::channel(EVENTS_MAX);
        let task = source.clone();
        let task = tokio::spawn(async move { task.run(out).await.expect("runs until dropped") });
        let mut started = Self {
            source,
            events,
            task,
            running: Snapshot::default(),
        };
        first.into_iter().for_each(|event| started.take(event));
        started
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Delta(delta) => {
                self.running.apply(delta);
            }
            Event::Refused(refusal) => panic!("{refusal}"),
            Event::Whole(_) => unreachable!("xDS yields changes"),
        }
    }

    /// Takes events until `wanted` runs.
    async fn until(&mut self, wanted: &Snapshot) {
        while self.running != *wanted {
            let event = self.events.recv().await.expect("the source runs");
            self.take(event);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn options(addr: SocketAddr) -> Options {
    Options {
        server: format!("http://{addr}"),
        node_id: "proxy-1".to_owned(),
        group: "edge".to_owned(),
        ..Options::default()
    }
}

/// Answers the requests of a new stream with a whole snapshot; returns what each type's first
/// request said it had.
async fn serve(stream: &mut PlaneStream, snapshot: &Snapshot, as_of: u64) -> Vec<usize> {
    let resources = encode(snapshot, as_of);
    let mut had = BTreeMap::new();
    let mut asked = BTreeSet::new();
    stream
        .answer(response(Type::Cluster, &resources.clusters))
        .await;
    while asked.len() < Type::OF_PROXIES.len() {
        let request = stream.request().await;
        let of = Type::parse(&request.type_url).expect("one that is known");
        if request.response_nonce.is_empty() && asked.insert(of) {
            had.insert(of, request.initial_resource_versions.len());
        }
    }
    stream
        .answer(response(Type::Assignment, &resources.assignments))
        .await;
    stream
        .answer(response(Type::Listener, &resources.listeners))
        .await;
    had.into_values().collect()
}

#[tokio::test]
async fn what_the_control_plane_says_arrives_and_is_acknowledged() {
    let mut plane = Plane::start(any_port(), None).await;
    let mut proxy = Running::start(options(plane.addr));
    let mut stream = plane.stream().await;
    let wanted = snapshot(0..3, 1);
    serve(&mut stream, &wanted, 7).await;
    proxy.until(&wanted).await;
    let mut acknowledged = BTreeSet::new();
    while acknowledged.len() < 2 {
        let request = stream.request().await;
        assert_eq!(request.error_detail, None);
        if request.response_nonce != "nonce-Cluster" {
            acknowledged.insert(request.response_nonce);
        }
    }
    let status = proxy.source.status();
    assert!(status.link.connected);
    assert_eq!((status.as_of, status.epoch.as_str()), (7, "one"));
    assert_eq!(status.counts.accepted, 9);
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_with_what_is_in_force() {
    let mut plane = Plane::start(any_port(), None).await;
    let mut proxy = Running::start(options(plane.addr));
    let mut stream = plane.stream().await;
    let wanted = snapshot(0..2, 1);
    serve(&mut stream, &wanted, 1).await;
    proxy.until(&wanted).await;
    stream
        .end(tonic::Status::unauthenticated("the token has expired"))
        .await;
    let mut stream = plane.stream().await;
    let wanted = snapshot(0..3, 1);
    assert_eq!(serve(&mut stream, &wanted, 2).await, [2, 0, 2, 2]);
    proxy.until(&wanted).await;
    let link = proxy.source.status().link;
    assert_eq!(link.ends, 1);
    assert!(link.last_failure.unwrap().contains("the token has expired"));
}

#[tokio::test]
async fn a_restart_without_a_control_plane_serves_the_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let state_file = folder.path().join("state");
    let mut plane = Plane::start(any_port(), None).await;
    let options = Options {
        state_file: Some(state_file.clone()),
        ..options(plane.addr)
    };
    let wanted = snapshot(0..2, 3);
    let mut proxy = Running::start(options.clone());
    let mut stream = plane.stream().await;
    serve(&mut stream, &wanted, 1).await;
    proxy.until(&wanted).await;
    saved_with(&state_file, 6).await;
    drop(proxy);
    drop(stream);
    let addr = plane.addr;
    plane.stop().await;

    let mut proxy = Running::start(options);
    assert_eq!(proxy.running, wanted, "before any stream");
    let mut plane = Plane::start(addr, None).await;
    let mut stream = plane.stream().await;
    let wanted = snapshot(0..2, 4);
    assert_eq!(serve(&mut stream, &wanted, 2).await, [2, 0, 2, 2]);
    proxy.until(&wanted).await;
}

#[tokio::test]
async fn what_was_said_just_before_a_stream_ended_is_kept_while_no_other_comes() {
    let folder = tempfile::tempdir().unwrap();
    let state_file = folder.path().join("state");
    let mut plane = Plane::start(any_port(), None).await;
    let options = Options {
        state_file: Some(state_file.clone()),
        ..options(plane.addr)
    };
    let wanted = snapshot(0..2, 3);
    let mut proxy = Running::start(options);
    let mut stream = plane.stream().await;
    serve(&mut stream, &wanted, 1).await;
    proxy.until(&wanted).await;
    drop(stream);
    plane.stop().await;
    saved_with(&state_file, 6).await;
}

/// Waits until the state on disk holds so many resources.
async fn saved_with(path: &Path, resources: usize) {
    let looks = async {
        loop {
            let saved = fs::read(path)
                .ok()
                .and_then(|bytes| saved::decode(&bytes).ok());
            if saved.is_some_and(|saved| saved.len() == resources) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(60);
    let saved = tokio::time::timeout(patience, looks).await;
    saved.expect("the state on disk");
}

#[tokio::test]
async fn an_unusable_state_is_refused_and_the_control_plane_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let state_file = folder.path().join("state");
    fs::write(&state_file, "not ours").unwrap();
    let options = Options {
        state_file: Some(state_file),
        ..options(any_port())
    };
    let (_, events) = XdsSource::open(options, Clock::system());
    let [Event::Refused(refusal)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert!(refusal.to_string().contains("remove the file"), "{refusal}");
}

fn acceptor(of: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = of.signing_key.serialize_der().try_into().unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![of.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn tls_is_checked_against_the_given_authority_and_the_token_is_read_anew() {
    let authority = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, token_file) = (folder.path().join("ca.pem"), folder.path().join("token"));
    fs::write(&ca_file, authority.cert.pem()).unwrap();
    fs::write(&token_file, "first\n").unwrap();
    let mut plane = Plane::start(any_port(), Some(acceptor(&authority))).await;
    let trusting = Options {
        server: format!("https://{}", plane.addr),
        ca_file: Some(ca_file.clone()),
        server_name: Some("hub.example".to_owned()),
        token_file: Some(token_file.clone()),
        ..options(plane.addr)
    };
    let mut proxy = Running::start(trusting.clone());
    let mut stream = plane.stream().await;
    assert_eq!(stream.authorization.as_deref(), Some("Bearer first"));
    let wanted = snapshot(0..1, 1);
    serve(&mut stream, &wanted, 1).await;
    proxy.until(&wanted).await;
    fs::write(&token_file, "second").unwrap();
    stream.end(tonic::Status::unauthenticated("expired")).await;
    let stream = plane.stream().await;
    assert_eq!(stream.authorization.as_deref(), Some("Bearer second"));
    drop(proxy);

    let other = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
    fs::write(&ca_file, other.cert.pem()).unwrap();
    let distrusting = Running::start(trusting);
    let failure = loop {
        if let Some(failure) = distrusting.source.status().link.last_failure {
            break failure;
        }
        tokio::task::yield_now().await;
    };
    assert!(failure.contains("certificate"), "{failure}");
}
