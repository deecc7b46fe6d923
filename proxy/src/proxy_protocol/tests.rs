use proptest::prelude::*;

use super::*;

const ANY: AcceptedVersions = AcceptedVersions::Any;

#[test]
fn version_1_forms_are_read() {
    for (line, origin) in [
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n",
            client_of("192.0.2.1:4711", "192.0.2.2:443"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 0 65535\r\n",
            client_of("[2001:db8::1]:0", "[::1]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", Origin::Unknown),
        ("PROXY UNKNOWN ffff::1 whatever 1 2\r\n", Origin::Unknown),
    ] {
        let mut bytes = line.as_bytes().to_vec();
        bytes.extend_from_slice(b"payload");
        assert_eq!(read(&bytes), Ok((origin, line.len())), "{line}");
    }
}

#[test]
fn version_1_lines_that_break_a_rule_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 \u{e9} 192.0.2.2 1 2\r\n",
    ] {
        assert!(
            matches!(parse(line.as_bytes(), ANY), Err(HeaderError::Line(_))),
            "{line}"
        );
    }
}

#[test]
fn a_version_1_line_without_an_end_is_refused_at_107_bytes() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    line.resize(106, b'x');
    assert!(matches!(
        parse(&line, ANY),
        Ok(Progress::Incomplete { at_least: 107 })
    ));
    line.push(b'x');
    assert_eq!(parse(&line, ANY), Err(HeaderError::LineTooLong));
}

#[test]
fn version_2_commands_and_families_are_told_apart() {
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 1, 187];
    let mut v6 = [0; 36];
    v6[15] = 1;
    v6[31] = 2;
    for (command_family, body, origin) in [
        (
            [0x21, 0x11],
            &v4[..],
            client_of("192.0.2.1:4711", "192.0.2.2:443"),
        ),
        (
            [0x21, 0x12],
            &v4[..],
            client_of("192.0.2.1:4711", "192.0.2.2:443"),
        ),
        ([0x21, 0x21], &v6[..], client_of("[::1]:0", "[::2]:0")),
        ([0x21, 0x31], &[7; 216][..], Origin::Unknown),
        ([0x21, 0x00], &[][..], Origin::Unknown),
        ([0x20, 0x00], &[][..], Origin::Sender),
        ([0x20, 0xff], &[1, 2, 3][..], Origin::Sender),
    ] {
        let bytes = v2(command_family, body);
        assert_eq!(
            read(&bytes),
            Ok((origin, bytes.len())),
            "{command_family:?}"
        );
    }
}

#[test]
fn version_2_headers_that_break_a_rule_are_refused() {
    for (command_family, body, error) in [
        ([0x11, 0x11], &[0; 12][..], HeaderError::Version(1)),
        (
            [0x22, 0x11],
            &[0; 12][..],
            HeaderError::Undefined {
                what: "command",
                value: 2,
            },
        ),
        ([0x21, 0x41], &[0; 12][..], undefined_family(0x41)),
        ([0x21, 0x13], &[0; 12][..], undefined_family(0x13)),
        ([0x21, 0x11], &[0; 11][..], HeaderError::TooShort),
        ([0x21, 0x21], &[0; 35][..], HeaderError::TooShort),
        ([0x21, 0x31], &[0; 215][..], HeaderError::TooShort),
        ([0x21, 0x11], &[0; 14][..], HeaderError::Extension),
        ([0x21, 0x00], &[1, 0, 2, 9][..], HeaderError::Extension),
        ([0x21, 0x00], &[0; 4081][..], HeaderError::TooLong(4097)),
        ([0x21, 0x00], &[3, 0, 3, 1, 2, 3][..], HeaderError::Checksum),
        (
            [0x21, 0x00],
            &[3, 0, 4, 1, 2, 3, 4][..],
            HeaderError::Checksum,
        ),
    ] {
        assert_eq!(parse(&v2(command_family, body), ANY), Err(error));
    }
}

#[test]
fn a_right_checksum_is_accepted_and_every_flipped_byte_found() {
    let mut bytes = v2(
        [0x21, 0x00],
        &[0xe0, 0, 1, 5, 3, 0, 4, 0, 0, 0, 0, 0xe1, 0, 0],
    );
    let at = bytes.len() - 7;
    let sum = !crc32c(!0, &bytes);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert!(matches!(parse(&bytes, ANY), Ok(Progress::Complete { .. })));
    for at in [19, 22, 24] {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        assert!(parse(&broken, ANY).is_err(), "byte {at}");
    }
}

#[test]
fn crc32c_gives_the_published_check_value() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
}

#[test]
fn only_the_accepted_versions_are_read() {
    let one = b"PROXY UNKNOWN\r\n";
    let two = v2([0x20, 0], &[]);
    assert_eq!(
        parse(one, AcceptedVersions::V2),
        Err(HeaderError::Version(1))
    );
    assert_eq!(
        parse(&two, AcceptedVersions::V1),
        Err(HeaderError::Version(2))
    );
    assert!(parse(one, AcceptedVersions::V1).is_ok() && parse(&two, AcceptedVersions::V2).is_ok());
    assert_eq!(parse(b"GET / HTTP/1.1\r\n", ANY), Err(HeaderError::Missing));
    assert_eq!(parse(b"\x16\x03\x01", ANY), Err(HeaderError::Missing));
}

#[test]
fn extensions_come_back_as_they_were_sent() {
    let sent: [(u8, &[u8]); 3] = [(0x02, b"a.example"), (0x04, b""), (0xe0, &[0; 300])];
    let mut bytes = Vec::new();
    encode_v2(None, &[], &mut bytes).unwrap();
    assert_eq!(read(&bytes), Ok((Origin::Sender, 16)));
    bytes.clear();
    let addresses = (
        "192.0.2.1:1".parse().unwrap(),
        "192.0.2.2:2".parse().unwrap(),
    );
    encode_v2(Some(addresses), &sent, &mut bytes).unwrap();
    let Ok(Progress::Complete { header, .. }) = parse(&bytes, ANY) else {
        panic!("a whole header");
    };
    assert_eq!(header.extensions.iter().collect::<Vec<_>>(), sent);
    let length = bytes.len();
    assert!(encode_v2(None, &[(0xe0, &[0; 4090])], &mut bytes).is_err());
    assert_eq!(bytes.len(), length, "nothing was appended");
}

#[test]
fn addresses_of_two_families_are_written_as_one() {
    let mut bytes = Vec::new();
    encode(
        ProxyVersion::V1,
        "192.0.2.1:1".parse().unwrap(),
        "[2001:db8::1]:2".parse().unwrap(),
        &mut bytes,
    );
    assert_eq!(bytes, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
}

#[test]
fn the_fuzz_corpus_replays() {
    crate::testing::replay_corpus("proxy_header", check);
}

proptest! {
    #[test]
    fn what_was_encoded_is_read_back_from_any_split(
        source: SocketAddr,
        destination: SocketAddr,
        second: bool,
    ) {
        let version = if second { ProxyVersion::V2 } else { ProxyVersion::V1 };
        let mut bytes = Vec::new();
        encode(version, source, destination, &mut bytes);
        let length = bytes.len();
        prop_assert!(length <= 107);
        bytes.extend_from_slice(b"payload");
        let (ip, other_ip) = same_family(source.ip(), destination.ip());
        let origin = Origin::Client {
            source: SocketAddr::new(ip, source.port()),
            destination: SocketAddr::new(other_ip, destination.port()),
        };
        prop_assert_eq!(read(&bytes), Ok((origin, length)));
        for cut in 0..length {
            let progress = parse(&bytes[..cut], ANY);
            let Ok(Progress::Incomplete { at_least }) = progress else {
                return Err(TestCaseError::fail(format!("{cut}: {progress:?}")));
            };
            prop_assert!(at_least > cut && at_least <= length, "{cut}: {at_least}");
        }
    }

    #[test]
    fn arbitrary_bytes_behind_a_signature_keep_the_contract(
        signature in 0..3_usize,
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = [SIGNATURE_V1, SIGNATURE_V2, b""][signature].to_vec();
        bytes.extend(tail);
        check(&bytes);
    }
}

fn read(bytes: &[u8]) -> Result<(Origin, usize), HeaderError> {
    match parse(bytes, ANY)? {
        Progress::Complete { header, length } => Ok((header.origin, length)),
        Progress::Incomplete { at_least } => panic!("{at_least} bytes needed"),
    }
}

fn client_of(source: &str, destination: &str) -> Origin {
    Origin::Client {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn undefined_family(value: u8) -> HeaderError {
    let what = "family and transport";
    HeaderError::Undefined { what, value }
}

fn v2(command_family: [u8; 2], body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE_V2.to_vec();
    bytes.extend_from_slice(&command_family);
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}
