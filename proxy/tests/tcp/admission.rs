//! Who gets in, and where to: allow-lists, limits, PROXY headers, server names.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use fairlead_config::{frontend::AcceptedVersions, policy::ProxyVersion};
use fairlead_proxy::{
    access_log::Reason,
    proxy_protocol::{self, Origin, Progress},
};

use crate::support::{Proxy, Server, exchange, file, wait};

/// The file with extra settings in its frontend.
fn front(settings: &str, policy: &str, endpoint: SocketAddr) -> String {
    file(policy, &[endpoint]).replace("\"$FRONT\"", &format!("\"$FRONT\", {settings}"))
}

fn refused(proxy: &Proxy, bytes: &[u8], reason: Reason) {
    let mut client = proxy.connect();
    client.write_all(bytes).ok();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason:?}");
    wait("the counter", || {
        let unserved = proxy.service().sessions_unserved.value(reason);
        let unrouted = proxy.metrics.process.unrouted.value(reason);
        let closed = proxy.member("m").sessions_closed.value(reason);
        unserved + unrouted + closed == 1
    });
}

#[test]
fn a_source_that_is_not_on_the_allow_list_is_refused() {
    let server = Server::echo();
    let proxy = Proxy::start(1, &front("allow: [10.0.0.0/8]", "", server.addr));
    refused(&proxy, b"", Reason::NotAllowed);
    assert_eq!(proxy.log(1)[0]["reason"], "not-allowed");
}

#[test]
fn the_limit_of_live_sessions_is_exact_and_frees_with_them() {
    let server = Server::echo();
    let proxy = Proxy::start(2, &file("limits: { connections: 3 }", &[server.addr]));
    let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        exchange(client, b"x").unwrap();
    }
    refused(&proxy, b"", Reason::LimitConnections);
    clients.pop();
    wait("a place", || proxy.fleet.sessions() == 2);
    exchange(&mut proxy.connect(), b"x").unwrap();
}

fn header(version: ProxyVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source = "198.51.100.9:4321".parse().unwrap();
    let destination = "203.0.113.1:443".parse().unwrap();
    proxy_protocol::encode(version, source, destination, &mut bytes);
    bytes
}

#[test]
fn a_proxy_header_is_mandatory_from_the_stated_sources_and_names_the_client() {
    let server = Server::echo();
    let settings = "proxyProtocol: { accept: any, from: [127.0.0.0/8] }";
    let proxy = Proxy::start(1, &front(settings, "", server.addr));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut client = proxy.connect();
        client.write_all(&header(version)).unwrap();
        assert_eq!(exchange(&mut client, b"payload").unwrap(), b"payload");
    }
    proxy.wait_closed("m", Reason::Finished, 2);
    for line in proxy.log(2) {
        assert_eq!(line["client"], "198.51.100.9:4321");
        assert_eq!(line["local"], "203.0.113.1:443");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(
            (&line["bytesUp"], &line["bytesDown"]),
            (&7.into(), &7.into())
        );
    }
    refused(
        &proxy,
        b"GET / HTTP/1.1\r\n\r\n",
        Reason::ProxyHeaderInvalid,
    );
}

#[test]
fn a_proxy_header_from_anybody_else_is_refused_and_their_payload_is_not() {
    let server = Server::echo();
    let settings = "proxyProtocol: { accept: any, from: [192.0.2.0/24] }";
    let proxy = Proxy::start(1, &front(settings, "", server.addr));
    assert_eq!(
        exchange(&mut proxy.connect(), b"PRO").unwrap_or_default(),
        b"PRO"
    );
    assert_eq!(
        exchange(&mut proxy.connect(), b"POST /").unwrap(),
        b"POST /"
    );
    refused(
        &proxy,
        &header(ProxyVersion::V1),
        Reason::ProxyHeaderInvalid,
    );
}

#[test]
fn endpoints_get_the_header_that_the_policy_asks_for() {
    for (text, version) in [("v1", AcceptedVersions::V1), ("v2", AcceptedVersions::V2)] {
        let (tell, told) = std::sync::mpsc::channel();
        let server = Server::start(move |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            tell.send(all).unwrap();
        });
        let proxy = Proxy::start(1, &file(&format!("proxyProtocol: {text}"), &[server.addr]));
        let mut client = proxy.connect();
        client.write_all(b"payload").unwrap();
        let own = client.local_addr().unwrap();
        drop(client);
        let all = told.recv().unwrap();
        let Ok(Progress::Complete { header, length }) = proxy_protocol::parse(&all, version) else {
            panic!("{all:?}");
        };
        let expected = Origin::Client {
            source: own,
            destination: proxy.addr,
        };
        assert_eq!(header.origin, expected);
        assert_eq!(&all[length..], b"payload");
        proxy.wait_closed("m", Reason::Finished, 1);
        assert_eq!(proxy.log(1)[0]["bytesUp"], 7, "the header is no payload");
    }
}

fn hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let entry = [&[0], &(name.len() as u16).to_be_bytes()[..], name].concat();
    let list = [&(entry.len() as u16).to_be_bytes()[..], &entry].concat();
    let extension = [&[0, 0], &(list.len() as u16).to_be_bytes()[..], &list].concat();
    let extensions = [&(extension.len() as u16).to_be_bytes()[..], &extension].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0x13, 1],
        &[1, 0],
        &extensions,
    ]
    .concat();
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let handshake = [&[1], length, &body].concat();
    [
        &[22, 3, 1],
        &(handshake.len() as u16).to_be_bytes()[..],
        &handshake,
    ]
    .concat()
}

#[test]
fn the_server_name_chooses_the_service_and_the_hello_arrives_untouched() {
    let named = Server::start(|mut stream| {
        stream.write_all(b"named").ok();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).ok();
    });
    let plain = Server::echo();
    let text = format!(
        "{}  - name: t/named:p
    frontends: [ {{ protocol: tcp, address: \"$FRONT\", sni: [a.example, \"*.b.example\"] }} ]
    tiers: [ {{ members: [ {{ name: n, endpoints: [ {{ address: \"{}\" }} ] }} ] }} ]
",
        file("", &[plain.addr]),
        named.addr
    );
    // A longer suffix, served without a word like the one without a name; and it comes later.
    let text = text
        + &format!(
            "  - name: t/longer:p
    frontends: [ {{ protocol: tcp, address: \"$FRONT\", sni: [\"*.c.b.example\"] }} ]
    tiers: [ {{ members: [ {{ name: l, endpoints: [ {{ address: \"{}\" }} ] }} ] }} ]
",
            plain.addr
        );
    let proxy = Proxy::start(1, &text);
    for (name, is_named) in [
        ("a.example", true),
        ("x.b.example", true),
        ("c.b.example", true),
        ("x.c.b.example", false),
        ("b.example", false),
        ("other.example", false),
    ] {
        let mut client = proxy.connect();
        let hello = hello(name);
        // In two pieces, as a slow client would.
        client.write_all(&hello[..20]).unwrap();
        client.write_all(&hello[20..]).unwrap();
        let expected = if is_named { &b"named"[..] } else { &[] };
        let mut answer = vec![0; expected.len() + hello.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [expected, &hello].concat(), "{name}");
    }
    wait("all to end", || proxy.fleet.sessions() == 0);
    // In the order in which the ends were noticed, which is anyone's.
    let lines = proxy.log(2);
    let mut names: Vec<_> = lines
        .iter()
        .filter_map(|line| line["sni"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["b.example", "other.example"]);
    refused(&proxy, b"GET / HTTP/1.1\r\n\r\n", Reason::HelloInvalid);
}
