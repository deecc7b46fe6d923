use proptest::prelude::*;

use super::*;

#[test]
fn the_name_is_found_lower_case_and_without_its_dot() {
    for (sent, read) in [
        ("a.example", "a.example"),
        ("A.Example.", "a.example"),
        ("xn--9ca", "xn--9ca"),
    ] {
        let bytes = records(&hello(&[(0, &name(sent))]), 1 << 14);
        assert_eq!(parse(&bytes), Ok(named(read)), "{sent}");
    }
}

#[test]
fn the_name_is_found_after_other_extensions() {
    let name = name("a.example");
    let hello = hello(&[(0x0a0a, &[]), (43, &[2, 3, 4]), (0, &name), (21, &[0; 200])]);
    assert_eq!(parse(&records(&hello, 1 << 14)), Ok(named("a.example")));
}

#[test]
fn a_hello_without_a_name_or_without_extensions_names_nobody() {
    let none = Ok(Progress::Complete { host: None });
    assert_eq!(parse(&records(&hello(&[(43, &[2, 3, 4])]), 1 << 14)), none);
    assert_eq!(parse(&records(&hello(&[]), 1 << 14)), none);
    let old = handshake(&hello_head());
    assert_eq!(parse(&records(&old, 1 << 14)), none);
}

#[test]
fn a_real_client_is_understood() {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let server = "shop.example".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), server).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    assert_eq!(parse(&bytes), Ok(named("shop.example")));
}

#[test]
fn what_is_no_hello_is_refused_at_its_first_wrong_byte() {
    assert_eq!(parse(b"G"), Err(HelloError::NotTls));
    assert_eq!(parse(&[22, 2]), Err(HelloError::NotTls));
    assert_eq!(parse(&[0x80, 0x2e, 1, 3, 1]), Err(HelloError::NotTls));
    assert_eq!(parse(&[22, 3, 1, 0, 5, 2]), Err(HelloError::NotHello));
    assert_eq!(
        parse(&[22, 3, 1, 0, 0]),
        Err(HelloError::Malformed("an empty record"))
    );
    assert_eq!(
        parse(&[22, 3, 1, 0x40, 1]),
        Err(HelloError::Malformed("a record too long"))
    );
    assert_eq!(
        parse(&[22, 3, 1, 0, 9, 1, 0, 0x40, 0]),
        Err(HelloError::TooLong)
    );
}

#[test]
fn lengths_that_lie_are_refused() {
    let good = name("a.example");
    let twice = hello(&[(0, &good), (0, &good)]);
    let mut trailing = hello(&[(0, &good)]);
    trailing.push(0);
    trailing[3] += 1;
    let mut two_names = good.clone();
    two_names.extend_from_slice(&good[2..]);
    let length = two_names.len() - 2;
    two_names[..2].copy_from_slice(&(length as u16).to_be_bytes());
    for (what, hello) in [
        ("two extensions", twice),
        ("trailing bytes", trailing),
        ("two names", hello(&[(0, &two_names)])),
        ("no name in the list", hello(&[(0, &[0, 0])])),
        ("an empty name", hello(&[(0, &name(""))])),
        ("a name with a space", hello(&[(0, &name("a b"))])),
        (
            "a name beyond the list",
            hello(&[(0, &[0, 4, 0, 0, 9, b'a'])]),
        ),
        (
            "a list beyond the extension",
            hello(&[(0, &[0, 9, 0, 0, 1, b'a'])]),
        ),
    ] {
        let parsed = parse(&records(&hello, 1 << 14));
        assert!(
            matches!(parsed, Err(HelloError::Malformed(_))),
            "{what}: {parsed:?}"
        );
    }
}

#[test]
fn a_hello_in_too_many_or_too_large_records_is_refused() {
    let small = hello(&[(0, &name("a.example")), (21, &[0; 100])]);
    assert_eq!(parse(&records(&small, 2)), Err(HelloError::TooLong));
    assert_eq!(parse(&records(&small, 4)), Ok(named("a.example")));
    let large = hello(&[(21, &vec![0; 16_340])]);
    assert_eq!(
        parse(&records(&large, 1 << 14)[..100]),
        Err(HelloError::TooLong)
    );
}

#[test]
fn the_fuzz_corpus_replays() {
    crate::testing::replay_corpus("sni", check);
}

proptest! {
    #[test]
    fn any_split_into_records_and_reads_gives_the_same_name(
        host in "[a-z]{1,20}(\\.[a-z]{1,20}){0,4}",
        padding in 0..2000_usize,
        record in 40..3000_usize,
    ) {
        let hello = hello(&[(21, &vec![0; padding]), (0, &name(&host))]);
        let bytes = records(&hello, record);
        prop_assert_eq!(parse(&bytes), Ok(named(&host)));
        let mut have = 0;
        let mut calls = 0;
        while have < bytes.len() {
            let progress = parse(&bytes[..have]);
            let Ok(Progress::Incomplete { at_least }) = progress else {
                return Err(TestCaseError::fail(format!("{have}: {progress:?}")));
            };
            prop_assert!(at_least > have && at_least <= bytes.len());
            have = at_least;
            calls += 1;
        }
        prop_assert!(calls <= 4 + 2 * RECORDS_MAX);
        for cut in (0..bytes.len()).step_by(7) {
            check(&bytes[..cut]);
        }
    }

    #[test]
    fn a_hello_with_flipped_bytes_keeps_the_contract(
        flips in prop::collection::vec((0..200_usize, any::<u8>()), 1..4),
    ) {
        let mut bytes = records(&hello(&[(43, &[2, 3, 4]), (0, &name("a.example"))]), 60);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        check(&bytes);
    }

    #[test]
    fn arbitrary_bytes_keep_the_contract(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![22, 3, 1];
        bytes.extend(&tail);
        check(&bytes);
        check(&tail);
    }
}

fn named(host: &str) -> Progress {
    Progress::Complete {
        host: Some(host.into()),
    }
}

/// A server name extension's value.
fn name(host: &str) -> Vec<u8> {
    let mut value = Vec::new();
    value.extend_from_slice(&(host.len() as u16 + 3).to_be_bytes());
    value.push(0);
    value.extend_from_slice(&(host.len() as u16).to_be_bytes());
    value.extend_from_slice(host.as_bytes());
    value
}

fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = hello_head();
    let length: usize = extensions.iter().map(|(_, value)| 4 + value.len()).sum();
    body.extend_from_slice(&(length as u16).to_be_bytes());
    for (kind, value) in extensions {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(value.len() as u16).to_be_bytes());
        body.extend_from_slice(value);
    }
    handshake(&body)
}

/// Version, random, an empty session id, one cipher suite, one compression method.
fn hello_head() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body
}

fn handshake(body: &[u8]) -> Vec<u8> {
    let mut message = vec![1];
    message.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend_from_slice(body);
    message
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend_from_slice(&[22, 3, 1]);
        bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
