//! What we publish, given to a real Envoy. Runs where `FAIRLEAD_ENVOY` names its binary.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Stdio};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use super::{plane::Plane, *};

/// Every kind of policy, frontend and endpoint that has an Envoy equal. `ECHO` and `LISTEN` are
/// replaced by ports.
const FILE: &str = "
services:
  - name: shop/web:https
    frontends:
      - { protocol: tcp, address: '127.0.0.1:LISTEN' }
    policy: { balancer: round-robin, healthCheck: { tcp: {}, interval: 200ms }, timeouts: { idle: off, lifetime: 1h } }
    tiers:
      - members:
          - { name: eu-1, weight: 80, endpoints: [ { address: '127.0.0.1:ECHO', zone: a } ] }
          - { name: eu-2, weight: 0, endpoints: [ { address: '127.0.0.2:1' } ] }
      - members: [ { name: us-1, endpoints: [ { address: '[fd00::1]:8443', weight: 7, state: not-ready } ] } ]
  - name: shop/sni:https
    frontends:
      - { protocol: tcp, address: '127.0.0.1:18443', sni: [a.example, '*.b.example'], allow: [10.0.0.0/8], proxyProtocol: { accept: v2, from: [10.0.0.0/8] } }
      - { protocol: tcp, address: '127.0.0.1:18443', proxyProtocol: { accept: v2, from: [10.0.0.0/8] } }
    policy:
      balancer: least-connections
      healthCheck: { http: { path: /up, statuses: 200-399 }, port: 99 }
      limits: { connections: 10, connectionsPerEndpoint: 5 }
      proxyProtocol: v2
      drain: { unhealthy: reset }
      keepalive: { idle: 5s, interval: 1s, probes: 9 }
    tiers: [ { members: [ { name: eu-1, endpoints: [ { address: '127.0.0.1:2', state: draining } ] } ] } ]
  - name: shop/grpc:h2
    frontends: [ { protocol: tcp, address: '127.0.0.1:18500-18502' } ]
    policy: { balancer: maglev, affinity: client-ip, healthCheck: { grpc: { service: x } }, passive: { maxEjected: 10% } }
    tiers: [ { members: [] }, { members: [ { name: eu-1, endpoints: [ { address: '127.0.0.1:3' } ] } ] } ]
  - name: shop/dns:tcp
    frontends: [ { protocol: tcp, address: '[::1]:18600' } ]
    policy: { balancer: rendezvous, affinity: client-ip, proxyProtocol: v1, healthCheck: { tcp: { send: ping, expect: pong } } }
    tiers: [ { members: [ { name: eu-1, endpoints: [ { dns: 'localhost:4' }, { address: '127.0.0.1:5' } ] } ] } ]
  - name: shop/udp:dns
    frontends: [ { protocol: udp, address: '127.0.0.1:LISTEN' } ]
    policy: { balancer: random, affinity: client-ip, healthCheck: { udp: { send: ping } }, spillFactor: 1.0, panicBelow: 0 }
    tiers: [ { members: [ { name: eu-1, endpoints: [ { address: '127.0.0.1:ECHO' } ] } ] } ]
";

#[tokio::test]
#[ignore = "needs FAIRLEAD_ENVOY, the path of an Envoy binary"]
async fn an_envoy_accepts_every_resource_and_serves() {
    let binary = std::env::var("FAIRLEAD_ENVOY").expect("FAIRLEAD_ENVOY");
    let echo_port = echo().await.port().to_string();
    let listen: SocketAddr = "127.0.0.1:18400".parse().unwrap();
    let text = FILE
        .replace("ECHO", &echo_port)
        .replace("LISTEN", &listen.port().to_string());
    let file = yaml::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    let resources = encode(&file.snapshot, 1);

    let mut plane = Plane::start("127.0.0.1:0".parse().unwrap(), None).await;
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("envoy.yaml");
    fs::write(&bootstrap, bootstrap_text(plane.addr)).unwrap();
    let mut envoy = Command::new(binary)
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "warning",
            "-c",
        ])
        .arg(&bootstrap)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("Envoy starts");

    let mut stream = plane.stream().await;
    let mut acknowledged = BTreeMap::new();
    let mut told = BTreeSet::new();
    while acknowledged.len() < 3 {
        let request = stream.request().await;
        let of = Type::parse(&request.type_url).expect("one of three");
        if let Some(error) = request.error_detail {
            panic!("{}: {}", request.type_url, error.message);
        }
        if !request.response_nonce.is_empty() {
            acknowledged.insert(of, ());
        } else if told.insert(of) {
            let all = match of {
                Type::Cluster => &resources.clusters,
                Type::Assignment => &resources.assignments,
                Type::Listener => &resources.listeners,
                Type::Chunk | Type::Import => panic!("{of:?} was asked for"),
            };
            stream.answer(response(of, all)).await;
        }
    }
    let mut client = loop {
        if let Ok(client) = TcpStream::connect(listen).await {
            break client;
        }
        tokio::task::yield_now().await;
    };
    client.write_all(b"through Envoy").await.unwrap();
    let mut answer = [0; 13];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"through Envoy");
    envoy.kill().await.unwrap();
}

/// A server that answers each byte with itself.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    addr
}

fn bootstrap_text(plane: SocketAddr) -> String {
    format!(
        "
node: {{ id: envoy-1, cluster: edge }}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [ {{ envoy_grpc: {{ cluster_name: plane }} }} ]
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
    - name: plane
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ http2_protocol_options: {{}} }}
      load_assignment:
        cluster_name: plane
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
",
        plane.ip(),
        plane.port()
    )
}
