use fairlead_config::policy::ProxyVersion;

use super::*;

fn header(version: ProxyVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (source, destination) = addrs();
    proxy_protocol::encode(version, source, destination, &mut bytes);
    bytes
}

fn addrs() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.7:4000".parse().unwrap(),
        "192.0.2.1:443".parse().unwrap(),
    )
}

#[test]
fn a_header_is_taken_off_in_pieces_of_any_size_and_the_rest_goes_on() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut bytes = header(version);
        bytes.extend_from_slice(b"hello");
        for size in 1..bytes.len() {
            let mut preamble = Preamble::new(Some(AcceptedVersions::Any), false);
            let mut rest = Vec::new();
            let mut facts = None;
            for piece in bytes.chunks(size) {
                if facts.is_some() {
                    rest.extend_from_slice(piece);
                    continue;
                }
                match preamble.feed(piece) {
                    Verdict::Wait => {}
                    Verdict::Done(found, bytes) => {
                        facts = Some(found);
                        rest.extend_from_slice(&bytes);
                    }
                    Verdict::Refuse(reason) => panic!("{reason:?} in pieces of {size}"),
                }
            }
            assert_eq!(facts.unwrap().stated, Some(addrs()));
            assert_eq!(rest, b"hello", "in pieces of {size}");
        }
    }
}

#[test]
fn what_is_no_header_or_no_hello_is_refused() {
    let mut preamble = Preamble::new(Some(AcceptedVersions::Any), false);
    let verdict = preamble.feed(b"GET / HTTP/1.1\r\n");
    assert!(matches!(
        verdict,
        Verdict::Refuse(Reason::ProxyHeaderInvalid)
    ));
    let mut preamble = Preamble::new(Some(AcceptedVersions::V2), false);
    let verdict = preamble.feed(&header(ProxyVersion::V1));
    assert!(matches!(
        verdict,
        Verdict::Refuse(Reason::ProxyHeaderInvalid)
    ));
    let mut preamble = Preamble::new(None, true);
    let verdict = preamble.feed(b"GET / HTTP/1.1\r\n");
    assert!(matches!(verdict, Verdict::Refuse(Reason::HelloInvalid)));
}
