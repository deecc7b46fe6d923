//! Against a name server in this process.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::{
    ResolverBuilder,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, MessageType, ResponseCode},
        rr::{
            RData, Record, RecordType,
            rdata::{A, AAAA},
        },
    },
};
use tokio::{net::UdpSocket, task::JoinSet};

use super::*;

pub(super) fn builder(server: SocketAddr) -> ResolverBuilder<TokioRuntimeProvider> {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let servers = vec![NameServerConfig::new(server.ip(), true, vec![connection])];
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder
}

#[tokio::test]
async fn both_families_are_asked_for_and_the_smallest_ttl_counts() {
    let server = Server::start().await;
    let mut resolver = Resolver::at(server.addr);
    resolver.start("both.example".into());
    let looked = resolver.answer().await;
    assert_eq!(&*looked.host, "both.example");
    let mut found = looked.result.unwrap();
    found.addresses.sort();
    let expected: [IpAddr; 3] =
        ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    assert_eq!(found.addresses, expected);
    assert_eq!(found.ttl, Duration::from_secs(7));
}

#[tokio::test]
async fn an_unknown_name_and_a_name_without_addresses_are_no_name() {
    let server = Server::start().await;
    let mut resolver = Resolver::at(server.addr);
    for host in ["unknown.example", "empty.example"] {
        resolver.start(host.into());
        assert_eq!(
            resolver.answer().await.result,
            Err(Failure::NoName),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_server_that_fails_is_a_failure_and_the_next_look_up_may_succeed() {
    let server = Server::start().await;
    let mut resolver = Resolver::at(server.addr);
    resolver.start("broken.example".into());
    assert!(matches!(
        resolver.answer().await.result,
        Err(Failure::Other(_))
    ));
    resolver.start("both.example".into());
    assert!(resolver.answer().await.result.is_ok());
}

#[tokio::test]
async fn look_ups_run_side_by_side() {
    let server = Server::start().await;
    let mut resolver = Resolver::at(server.addr);
    for number in 0..20 {
        resolver.start(format!("n{number}.both.example").into());
    }
    for _ in 0..20 {
        assert!(resolver.answer().await.result.is_ok());
    }
}

struct Server {
    addr: SocketAddr,
    _serving: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&buffer[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self {
            addr,
            _serving: serving,
        }
    }
}

fn answer(question: &[u8]) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::new(
        question.metadata.id,
        MessageType::Response,
        question.metadata.op_code,
    );
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let name = query.name().clone();
    let text = name.to_ascii();
    answer.add_query(query.clone());
    let mut add = |ttl, data| {
        answer.add_answer(Record::from_rdata(name.clone(), ttl, data));
    };
    match query.query_type() {
        RecordType::A if text.ends_with("both.example.") => {
            add(7, RData::A(A::new(192, 0, 2, 1)));
            add(90, RData::A(A::new(192, 0, 2, 2)));
        }
        RecordType::AAAA if text.ends_with("both.example.") => {
            add(30, RData::AAAA(AAAA("2001:db8::1".parse().unwrap())));
        }
        _ => {}
    }
    if text == "unknown.example." {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else if text == "broken.example." {
        answer.metadata.response_code = ResponseCode::ServFail;
    }
    answer.to_vec().unwrap()
}
