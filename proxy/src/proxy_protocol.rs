//! The PROXY protocol, versions 1 and 2: the header in which a proxy tells who its client is.
//!
//! After the specification that HAProxy publishes (`proxy-protocol.txt`). [`parse`] is pure and
//! incremental: give it all bytes so far, it says how many it needs at least, what the header
//! says, or why there will never be one. It owns no buffer, never panics, and costs one pass over
//! at most [`HEADER_BYTES_MAX`] bytes.
//!
//! Refused although the specification allows it: a version 2 header of more than
//! [`HEADER_BYTES_MAX`] bytes.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fairlead_config::{frontend::AcceptedVersions, policy::ProxyVersion};

#[cfg(test)]
mod tests;

/// What is known after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A header so far; there is no use in asking again with fewer bytes than this in all.
    Incomplete {
        /// Counted from the first byte of the header.
        at_least: usize,
    },
    /// A whole header.
    Complete {
        /// What it says.
        header: Header<'a>,
        /// The bytes it takes; what follows is payload.
        length: usize,
    },
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Whose connection this is.
    pub origin: Origin,
    /// The extensions of version 2; empty in version 1.
    pub extensions: Extensions<'a>,
}

/// Whose connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client's.
    Client {
        /// Its address.
        source: SocketAddr,
        /// The address it connected to.
        destination: SocketAddr,
    },
    /// The sender's own, for example a health check (LOCAL): the real addresses count.
    Sender,
    /// Somebody's whose address isn't IP (UNKNOWN, UNSPEC, a Unix socket): the real addresses
    /// count.
    Unknown,
}

/// The type-length-value records of a version 2 header, checked to fill it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions<'a>(&'a [u8]);

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes are something else.
    #[error("no PROXY header at the start of the connection")]
    Missing,
    /// The other version.
    #[error("a PROXY header of version {0}, which is not accepted here")]
    Version(u8),
    /// Version 1: no line end in 107 bytes.
    #[error("a PROXY header of version 1 that is longer than 107 bytes")]
    LineTooLong,
    /// Version 1: a line that isn't one of the forms.
    #[error("a PROXY header of version 1 that is malformed: {0}")]
    Line(&'static str),
    /// Version 2: a command other than LOCAL and PROXY, or a protocol of the future.
    #[error("a PROXY header of version 2 with {what} {value:#04x}, which is not defined")]
    Undefined {
        /// "command" or "family and transport".
        what: &'static str,
        /// The byte.
        value: u8,
    },
    /// Version 2: more than we read.
    #[error("a PROXY header of {0} bytes; 4096 is the limit")]
    TooLong(usize),
    /// Version 2: addresses that don't fit into the stated length.
    #[error("a PROXY header of version 2 too short for its addresses")]
    TooShort,
    /// Version 2: an extension that doesn't fit.
    #[error("a PROXY header of version 2 with an extension beyond its end")]
    Extension,
    /// Version 2: the checksum extension is there and wrong.
    #[error("a PROXY header of version 2 with a wrong checksum")]
    Checksum,
}

/// Reads the header at the start of `bytes`, of a version that is accepted.
pub fn parse(bytes: &[u8], accepted: AcceptedVersions) -> Result<Progress<'_>, HeaderError> {
    if starts_alike(bytes, SIGNATURE_V1) {
        if accepted == AcceptedVersions::V2 {
            return Err(HeaderError::Version(1));
        }
        return parse_v1(bytes);
    }
    if starts_alike(bytes, SIGNATURE_V2) {
        if accepted == AcceptedVersions::V1 {
            return Err(HeaderError::Version(2));
        }
        return parse_v2(bytes);
    }
    Err(HeaderError::Missing)
}

/// Whether these first bytes begin a header, as far as can be told; false for no bytes.
pub fn looks_like_header(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (starts_alike(bytes, SIGNATURE_V1) || starts_alike(bytes, SIGNATURE_V2))
}

/// Appends the header for a TCP connection of `source` to `destination`. Where only one of them is
/// IPv4 it is written as a mapped IPv6 address. At most 107 bytes.
pub fn encode(
    version: ProxyVersion,
    source: SocketAddr,
    destination: SocketAddr,
    out: &mut Vec<u8>,
) {
    match version {
        ProxyVersion::V1 => encode_v1(source, destination, out),
        ProxyVersion::V2 => encode_v2(Some((source, destination)), &[], out)
            .expect("addresses alone are far below the limit"),
    }
}

/// Appends a version 2 header with extensions; LOCAL where `addresses` is `None`. Fails, having
/// appended nothing, where it would be longer than [`HEADER_BYTES_MAX`].
pub fn encode_v2(
    addresses: Option<(SocketAddr, SocketAddr)>,
    extensions: &[(u8, &[u8])],
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    let ips = addresses.map(|(source, destination)| same_family(source.ip(), destination.ip()));
    let (command, family, addresses_length) = match ips {
        None => (COMMAND_LOCAL, 0x00, 0),
        Some((IpAddr::V4(_), _)) => (COMMAND_PROXY, TCP_V4, 12),
        Some((IpAddr::V6(_), _)) => (COMMAND_PROXY, TCP_V6, 36),
    };
    let extensions_length: usize = extensions.iter().map(|(_, value)| 3 + value.len()).sum();
    let length = addresses_length + extensions_length;
    if HEAD_V2 + length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong(HEAD_V2 + length));
    }
    out.extend_from_slice(SIGNATURE_V2);
    out.extend_from_slice(&[VERSION_2 | command, family]);
    out.extend_from_slice(&(length as u16).to_be_bytes());
    if let (Some((source_ip, destination_ip)), Some((source, destination))) = (ips, addresses) {
        for ip in [source_ip, destination_ip] {
            match ip {
                IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
            }
        }
        out.extend_from_slice(&source.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
    }
    for (kind, value) in extensions {
        out.push(*kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    Ok(())
}

/// What holds for any input; the fuzzer and the corpus replay call it.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    match parse(bytes, AcceptedVersions::Any) {
        Ok(Progress::Incomplete { at_least }) => {
            assert!(at_least > bytes.len() && at_least <= HEADER_BYTES_MAX);
        }
        Ok(Progress::Complete { header, length }) => {
            assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
            assert_eq!(
                parse(&bytes[..length], AcceptedVersions::Any),
                Ok(Progress::Complete { header, length }),
                "what follows a header changes nothing"
            );
            assert!(matches!(
                parse(&bytes[..length - 1], AcceptedVersions::Any),
                Ok(Progress::Incomplete { .. })
            ));
            assert!(header.extensions.iter().count() <= length / 3);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

// === impl Extensions ===

impl<'a> Extensions<'a> {
    /// Type and value of each, in order.
    pub fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (kind, value, after) = next_extension(rest).ok()??;
            rest = after;
            Some((kind, value))
        })
    }

    fn check(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut rest = bytes;
        while let Some((_, _, after)) = next_extension(rest)? {
            rest = after;
        }
        Ok(Self(bytes))
    }
}

type Extension<'a> = (u8, &'a [u8], &'a [u8]);

fn next_extension(bytes: &[u8]) -> Result<Option<Extension<'_>>, HeaderError> {
    let Some((head, rest)) = bytes.split_first_chunk::<3>() else {
        return match bytes {
            [] => Ok(None),
            _ => Err(HeaderError::Extension),
        };
    };
    let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
    let (value, after) = rest
        .split_at_checked(length)
        .ok_or(HeaderError::Extension)?;
    Ok(Some((head[0], value, after)))
}

fn parse_v1(bytes: &[u8]) -> Result<Progress<'_>, HeaderError> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        if window.len() == LINE_BYTES_MAX {
            return Err(HeaderError::LineTooLong);
        }
        let at_least = (bytes.len() + 1).max(SHORTEST_V1);
        return Ok(Progress::Incomplete { at_least });
    };
    let line = std::str::from_utf8(&bytes[SIGNATURE_V1.len()..end])
        .map_err(|_| HeaderError::Line("it isn't ASCII"))?;
    Ok(Progress::Complete {
        header: Header {
            origin: parse_line(line)?,
            extensions: Extensions::default(),
        },
        length: end + 2,
    })
}

/// The line after `PROXY ` and without its end.
fn parse_line(line: &str) -> Result<Origin, HeaderError> {
    let mut words = line.split(' ');
    let v6 = match words.next() {
        // Whatever else stands on the line is to be ignored.
        Some("UNKNOWN") => return Ok(Origin::Unknown),
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => {
            return Err(HeaderError::Line(
                "the protocol is none of TCP4, TCP6, UNKNOWN",
            ));
        }
    };
    let mut word = || words.next().ok_or(HeaderError::Line("a part is missing"));
    let source_ip = parse_ip(word()?, v6)?;
    let destination_ip = parse_ip(word()?, v6)?;
    let source = SocketAddr::new(source_ip, parse_port(word()?)?);
    let destination = SocketAddr::new(destination_ip, parse_port(word()?)?);
    match words.next() {
        None => Ok(Origin::Client {
            source,
            destination,
        }),
        Some(_) => Err(HeaderError::Line("something stands after the ports")),
    }
}

fn parse_ip(word: &str, v6: bool) -> Result<IpAddr, HeaderError> {
    let ip = if v6 {
        word.parse::<Ipv6Addr>().map(IpAddr::V6)
    } else {
        word.parse::<Ipv4Addr>().map(IpAddr::V4)
    };
    ip.map_err(|_| HeaderError::Line("an address isn't one of its family"))
}

fn parse_port(word: &str) -> Result<u16, HeaderError> {
    let canonical = word == "0" || !word.starts_with('0');
    match word.parse() {
        Ok(port) if canonical && word.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(HeaderError::Line("a port isn't a number from 0 to 65535")),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Progress<'_>, HeaderError> {
    let Some(head) = bytes.first_chunk::<HEAD_V2>() else {
        return Ok(Progress::Incomplete { at_least: HEAD_V2 });
    };
    let [.., version_command, family, high, low] = *head;
    if version_command & 0xf0 != VERSION_2 {
        return Err(HeaderError::Version(version_command >> 4));
    }
    let length = HEAD_V2 + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong(length));
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(Progress::Incomplete { at_least: length });
    };
    let body = &whole[HEAD_V2..];
    let origin_and_rest = match version_command & 0x0f {
        // The rest of the block is to be discarded, whatever it is.
        COMMAND_LOCAL => return Ok(complete(Origin::Sender, Extensions::default(), length)),
        COMMAND_PROXY => parse_addresses(family, body)?,
        value => {
            let what = "command";
            return Err(HeaderError::Undefined { what, value });
        }
    };
    let (origin, rest) = origin_and_rest;
    let extensions = Extensions::check(rest)?;
    check_sum(whole, length - rest.len(), extensions)?;
    Ok(complete(origin, extensions, length))
}

fn complete(origin: Origin, extensions: Extensions<'_>, length: usize) -> Progress<'_> {
    let header = Header { origin, extensions };
    Progress::Complete { header, length }
}

fn parse_addresses(family: u8, body: &[u8]) -> Result<(Origin, &[u8]), HeaderError> {
    let known = matches!((family >> 4, family & 0x0f), (0..=3, 0..=2));
    if !known {
        let what = "family and transport";
        return Err(HeaderError::Undefined {
            what,
            value: family,
        });
    }
    let length = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let (addresses, rest) = body.split_at_checked(length).ok_or(HeaderError::TooShort)?;
    let origin = match family {
        TCP_V4 | UDP_V4 => client::<4>(addresses),
        TCP_V6 | UDP_V6 => client::<16>(addresses),
        _ => Origin::Unknown,
    };
    Ok((origin, rest))
}

/// Source and destination of `N` bytes each, then both ports.
fn client<const N: usize>(addresses: &[u8]) -> Origin
where
    IpAddr: From<[u8; N]>,
{
    let parts = || {
        let (source, rest) = addresses.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let destination_port = rest.first_chunk::<2>()?;
        Some(Origin::Client {
            source: SocketAddr::new((*source).into(), u16::from_be_bytes(*source_port)),
            destination: SocketAddr::new(
                (*destination).into(),
                u16::from_be_bytes(*destination_port),
            ),
        })
    };
    parts().unwrap_or(Origin::Unknown)
}

/// The checksum covers the whole header with its own value taken as zero.
fn check_sum(
    whole: &[u8],
    extensions_at: usize,
    extensions: Extensions<'_>,
) -> Result<(), HeaderError> {
    let mut at = extensions_at;
    for (kind, value) in extensions.iter() {
        let value_at = at + 3;
        at = value_at + value.len();
        if kind != EXTENSION_CRC32C {
            continue;
        }
        let stated: [u8; 4] = value.try_into().map_err(|_| HeaderError::Checksum)?;
        let mut sum = crc32c(!0, &whole[..value_at]);
        sum = crc32c(sum, &[0; 4]);
        sum = !crc32c(sum, &whole[at..]);
        if sum != u32::from_be_bytes(stated) {
            return Err(HeaderError::Checksum);
        }
    }
    Ok(())
}

/// CRC-32C (Castagnoli, reflected), bit by bit: headers are short and checksums in them rare.
fn crc32c(mut sum: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
        }
    }
    sum
}

fn encode_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source_ip, destination_ip) = same_family(source.ip(), destination.ip());
    let family = if source_ip.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_port, destination_port) = (source.port(), destination.port());
    write!(
        out,
        "PROXY {family} {source_ip} {destination_ip} {source_port} {destination_port}\r\n"
    )
    .expect("writing into memory never fails");
}

fn same_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V6(_)) => (one.to_ipv6_mapped().into(), other),
        (IpAddr::V6(_), IpAddr::V4(other)) => (one, other.to_ipv6_mapped().into()),
        same => same,
    }
}

/// Whether the shorter of both is the beginning of the longer.
fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// The most bytes of a header that are read: addresses of Unix sockets take 232, the extensions in
/// use today (authority, unique id, TLS details) some hundreds.
pub const HEADER_BYTES_MAX: usize = 4096;
/// The extension that holds a CRC-32C of the header.
pub const EXTENSION_CRC32C: u8 = 0x03;

/// The specification's bound for version 1, line end included.
const LINE_BYTES_MAX: usize = 107;
/// `PROXY UNKNOWN\r\n`.
const SHORTEST_V1: usize = 15;
const HEAD_V2: usize = 16;
const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2: u8 = 0x20;
const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const TCP_V4: u8 = 0x11;
const UDP_V4: u8 = 0x12;
const TCP_V6: u8 = 0x21;
const UDP_V6: u8 = 0x22;
