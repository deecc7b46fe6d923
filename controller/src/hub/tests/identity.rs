//! Joining, certificates, tokens.

use super::*;
use crate::join::{self, Admission, JoinRequest, Tokens};

fn request() -> (rcgen::KeyPair, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

/// Posts to the hub, with a client certificate if one is given.
pub(super) async fn post(
    hub: &Handle,
    path: &str,
    body: &serde_json::Value,
    identity: Option<(&str, &str)>,
    trusted: Option<&str>,
) -> (u16, String) {
    use http_body_util::BodyExt;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let bundle = trusted.map_or_else(|| hub.bundle().unwrap(), str::to_owned);
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let socket = tokio::net::TcpStream::connect(hub.addr).await.unwrap();
    let name = rustls::pki_types::ServerName::from(hub.addr.ip());
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(path)
        .header("host", "hub")
        .body(body.to_string())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_bootstrap_token_admits_one_cluster_once() {
    let world = world(true).await;
    let member = fairlead_config::name::MemberName::parse("a").unwrap();
    let clock = Clock::system();
    let token = join::io::make_token(&world.client, &clock, &member)
        .await
        .unwrap();
    world.prepared("a").await;
    let (_, csr) = request();
    let ask = |token: &str, uid: &str| join_request(token, &csr, uid);
    let (status, body) = post(&world.hub, "/join", &ask(&token, "uid-1"), None, None).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = post(&world.hub, "/join", &ask(&token, "uid-1"), None, None).await;
    assert_eq!(status, 401, "replayed: {body}");
    eventually("an event about the replay", async || {
        let events: Api<Event> = Api::all(world.client.clone());
        let all = events.list(&Default::default()).await.ok()?;
        let told = |event: &Event| {
            let about = event.regarding.as_ref().and_then(|one| one.name.as_deref());
            let note = event.note.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("IdentityRefused")
                && about == Some("a")
                && note.contains("used already")
        };
        all.iter().any(told).then_some(())
    })
    .await;
    let second = join::io::make_token(&world.client, &clock, &member)
        .await
        .unwrap();
    let (status, body) = post(&world.hub, "/join", &ask(&second, "uid-2"), None, None).await;
    assert_eq!(status, 409, "another cluster took the name: {body}");
    world.hub.stop().await;
}

fn join_request(token: &str, request: &str, uid: &str) -> serde_json::Value {
    serde_json::to_value(JoinRequest {
        token: token.into(),
        request: request.into(),
        cluster_uid: uid.into(),
    })
    .unwrap()
}

/// The certificate and key of member a, which has joined.
pub(super) async fn joined(world: &World) -> (String, String) {
    let member = fairlead_config::name::MemberName::parse("a").unwrap();
    let clock = Clock::system();
    let token = join::io::make_token(&world.client, &clock, &member)
        .await
        .unwrap();
    world.prepared("a").await;
    let (key, csr) = request();
    let (status, body) = post(
        &world.hub,
        "/join",
        &join_request(&token, &csr, "uid-1"),
        None,
        None,
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let admission: Admission = serde_json::from_str(&body).unwrap();
    (admission.certificate, key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_is_good_for_tokens_as_long_as_its_membership_lasts() {
    let world = world(true).await;
    let (certificate, key) = joined(&world).await;

    let (status, body) = post(&world.hub, "/token", &json!({}), None, None).await;
    assert_eq!(status, 401, "{body}");
    let identity = Some((certificate.as_str(), key.as_str()));
    let (status, body) = post(&world.hub, "/token", &json!({}), identity, None).await;
    assert_eq!(status, 200, "{body}");
    let tokens: Tokens = serde_json::from_str(&body).unwrap();
    assert_eq!(tokens.member, "a");

    let channel = world.tls_channel().await;
    let refused = Proxy::open(channel.clone(), "", None).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let wrong = Some(tokens.kubernetes.token.as_str());
    let refused = Proxy::open(channel.clone(), "", wrong).await.err().unwrap();
    assert_eq!(
        refused.code(),
        tonic::Code::Unauthenticated,
        "the wrong audience"
    );
    told(
        &world,
        "a",
        "StreamRefused",
        "not good for audience fairlead-xds",
    )
    .await;
    world.exports("a", &["10.0.0.1"]).await;
    let right = Some(tokens.xds.token.as_str());
    let mut agent = Proxy::open(channel, "", right).await.unwrap();
    agent.until(|agent| !agent.imports.is_empty()).await;

    let members: Api<MemberCluster> = Api::all(world.client.clone());
    members.delete("a", &DeleteParams::default()).await.unwrap();
    eventually("the member to be gone", async || {
        members.get_opt("a").await.ok()?.is_none().then_some(())
    })
    .await;
    let (status, body) = post(&world.hub, "/token", &json!({}), identity, None).await;
    assert_eq!(status, 403, "taken out: {body}");
    world.member("a").await;
    let (status, body) = post(&world.hub, "/token", &json!({}), identity, None).await;
    assert_eq!(
        status, 401,
        "a certificate of an earlier membership: {body}"
    );
    world.hub.stop().await;
}

#[tokio::test]
async fn a_standalone_proxy_is_of_the_group_its_token_says() {
    let world = world(true).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    let life = Duration::from_secs(600);
    let token = join::io::make_proxy_token(&world.client, "edge", life)
        .await
        .unwrap();
    let channel = world.tls_channel().await;
    let mut proxy = Proxy::open(channel.clone(), "another", Some(&token.token))
        .await
        .unwrap();
    proxy.until(|proxy| proxy.endpoints().len() == 1).await;
    let other = join::io::make_proxy_token(&world.client, "empty", life)
        .await
        .unwrap();
    let mut empty = Proxy::open(channel, "edge", Some(&other.token))
        .await
        .unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), empty.answers.message()).await;
    assert!(
        silence.is_err(),
        "a group that serves nothing is told nothing"
    );
    world.hub.stop().await;
}
