//! Socket addresses and control messages as Linux lays them out in memory.
//!
//! Everything is read and written as bytes: nothing here is unsafe, and whatever the kernel left in
//! a buffer at worst reads as nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::LocalIp;

/// A `sockaddr_in` or `sockaddr_in6`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(8))]
pub(crate) struct Name([u8; 28]);

/// Room for the control messages of one datagram.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control([u8; Self::LENGTH]);

/// What control messages say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    pub(crate) local: Option<LocalIp>,
    pub(crate) segment: Option<usize>,
}

// === impl Name ===

impl Name {
    pub(crate) const LENGTH: u32 = 28;

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// Returns the length.
    pub(crate) fn write(&mut self, addr: SocketAddr) -> u32 {
        let name = &mut self.0;
        name[2..4].copy_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(addr) => {
                name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                name[4..8].copy_from_slice(&addr.ip().octets());
                name[8..16].fill(0);
                16
            }
            SocketAddr::V6(addr) => {
                name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                name[4..8].copy_from_slice(&addr.flowinfo().to_be_bytes());
                name[8..24].copy_from_slice(&addr.ip().octets());
                name[24..28].copy_from_slice(&addr.scope_id().to_ne_bytes());
                Self::LENGTH
            }
        }
    }

    /// The first `length` bytes; the flow label is left out, for it says nothing about who sent.
    pub(crate) fn read(&self, length: usize) -> Option<SocketAddr> {
        let name = self.0.get(..length)?;
        let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
        match libc::c_int::from(u16::from_ne_bytes(*name.first_chunk()?)) {
            libc::AF_INET => {
                let octets: [u8; 4] = *name.get(4..)?.first_chunk()?;
                Some(SocketAddr::new(Ipv4Addr::from(octets).into(), port))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = *name.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(octets.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

// === impl Control ===

impl Control {
    /// An `in6_pktinfo` and an int, each with its head, and some room to spare.
    pub(crate) const LENGTH: usize = 96;

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// Returns the length, 0 when there is nothing to say.
    pub(crate) fn write(&mut self, from: Option<LocalIp>, segment: Option<usize>) -> usize {
        let mut at = 0;
        match from.map(|from| (from.ip, from.interface)) {
            Some((IpAddr::V4(ip), interface)) => {
                // in_pktinfo: interface, the address to leave from, and one that is ignored.
                let mut info = [0; 12];
                info[..4].copy_from_slice(&interface.to_ne_bytes());
                info[4..8].copy_from_slice(&ip.octets());
                at = self.push(at, libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(ip), interface)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                at = self.push(at, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment) = segment.and_then(|segment| u16::try_from(segment).ok()) {
            at = self.push(at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        at
    }

    /// The messages in the first `length` bytes; unknown ones are skipped.
    pub(crate) fn read(&self, length: usize) -> Told {
        let mut told = Told::default();
        let mut rest = &self.0[..length.min(Self::LENGTH)];
        while let Some((level, kind, data, after)) = next_message(rest) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                    told.segment = segment.and_then(|segment| usize::try_from(segment).ok());
                }
                (libc::SOL_IP, libc::IP_PKTINFO) => told.local = local_v4(data),
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => told.local = local_v6(data),
                _ => {}
            }
            rest = after;
        }
        told
    }

    #[cfg(test)]
    pub(crate) fn fill_for_test(&mut self, bytes: &[u8]) {
        self.0.copy_from_slice(bytes);
    }

    fn push(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let length = HEAD + data.len();
        let end = at + align(length);
        let message = &mut self.0[at..end];
        message[..WORD].copy_from_slice(&length.to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEAD].copy_from_slice(&kind.to_ne_bytes());
        message[HEAD..length].copy_from_slice(data);
        message[length..].fill(0);
        end
    }
}

impl Default for Control {
    fn default() -> Self {
        Self([0; Self::LENGTH])
    }
}

type Message<'a> = (i32, i32, &'a [u8], &'a [u8]);

fn next_message(bytes: &[u8]) -> Option<Message<'_>> {
    let head = bytes.first_chunk::<HEAD>()?;
    let length = usize::from_ne_bytes(*head.first_chunk()?);
    let level = i32::from_ne_bytes(*head[WORD..].first_chunk()?);
    let kind = i32::from_ne_bytes(*head[WORD + 4..].first_chunk()?);
    let data = bytes.get(HEAD..length)?;
    let after = bytes.get(align(length)..).unwrap_or_default();
    Some((level, kind, data, after))
}

/// Of the two addresses in an `in_pktinfo`, the one in the datagram's header. The interface is left
/// out: an IPv4 address says enough, and the way back may lead elsewhere.
fn local_v4(data: &[u8]) -> Option<LocalIp> {
    let octets: [u8; 4] = *data.get(8..)?.first_chunk()?;
    Some(LocalIp {
        ip: Ipv4Addr::from(octets).into(),
        interface: 0,
    })
}

/// A link-local address means something only together with its interface.
fn local_v6(data: &[u8]) -> Option<LocalIp> {
    let octets: [u8; 16] = *data.first_chunk()?;
    let ip = Ipv6Addr::from(octets);
    let interface = u32::from_ne_bytes(*data.get(16..)?.first_chunk()?);
    Some(LocalIp {
        ip: ip.into(),
        interface: if ip.is_unicast_link_local() {
            interface
        } else {
            0
        },
    })
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

const WORD: usize = size_of::<usize>();
/// A `cmsghdr`: a word, two ints.
const HEAD: usize = WORD + 8;
