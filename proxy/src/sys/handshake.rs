//! The time between a client's SYN and its place in a listener's queue.
//!
//! A listener that closes resets what is in that time, although its client may think to be
//! connected already. So a listener is first told to begin no new handshake, and closed when none
//! is under way any more.

#![allow(
    unsafe_code,
    reason = "socket filters, which no safe crate attaches to a socket"
)]

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Lets a listener begin no new handshake: SYNs are dropped, and clients try again after a second.
/// Handshakes under way go on. Sockets accepted from it drop SYNs as well, which says nothing.
pub(crate) fn refuse(listener: impl AsFd) -> io::Result<()> {
    let mut program = NO_SYN;
    let filter = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option's value is a `sock_fprog` of the stated length; it and the instructions
    // that it points at outlive the call, which copies them.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Takes [`refuse`] back; an error where there was nothing to take back.
pub(crate) fn admit(listener: impl AsFd) -> io::Result<()> {
    let unused: libc::c_int = 0;
    // SAFETY: the option's value is an int that outlives the call; the kernel ignores it.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const unused).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result)
}

/// The local addresses of all handshakes under way in this network namespace, one each. Walks the
/// kernel's table of connections: some milliseconds where there are many.
pub(crate) fn under_way() -> io::Result<Vec<SocketAddr>> {
    let kind = Type::from(libc::SOCK_RAW).cloexec();
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), kind, Some(protocol))?;
    // The kernel answers at once; the limit is for one that doesn't.
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; DUMP_BYTES];
    for family in [libc::AF_INET, libc::AF_INET6] {
        socket.send(&request(family as u8))?;
        loop {
            let length = socket.read(&mut buffer)?;
            if read_dump(&buffer[..length], &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

/// An `inet_diag_req_v2` for the handshakes of a family.
fn request(family: u8) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[16] = family;
    bytes[17] = libc::IPPROTO_TCP as u8;
    bytes[20..24].copy_from_slice(&(1_u32 << TCP_SYN_RECV).to_ne_bytes());
    bytes
}

/// Collects the local addresses in a part of the answer; whether it was the last part.
fn read_dump(mut bytes: &[u8], found: &mut Vec<SocketAddr>) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while !bytes.is_empty() {
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(short)?;
        let [a, b, c, d, e, f, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = bytes.get(HEAD_BYTES..length).ok_or_else(short)?;
        match libc::c_int::from(u16::from_ne_bytes([e, f])) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let errno = body.first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
                return Err(io::Error::from_raw_os_error(-errno));
            }
            _ => found.push(local_of(body).ok_or_else(short)?),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The source of an `inet_diag_msg`: four bytes of state, two ports, two addresses.
fn local_of(body: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(*body.first()?);
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let ip: IpAddr = if family == libc::AF_INET {
        let octets: [u8; 4] = *body.get(8..)?.first_chunk()?;
        Ipv4Addr::from(octets).into()
    } else {
        let octets: [u8; 16] = *body.get(8..)?.first_chunk()?;
        Ipv6Addr::from(octets).into()
    };
    Some(SocketAddr::new(ip, port))
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops segments that have SYN and not ACK; a filter of a TCP socket begins at the TCP header.
const NO_SYN: [libc::sock_filter; 5] = {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }
    [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
};
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_SYN_RECV: u32 = 3;
/// A `nlmsghdr`.
const HEAD_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEAD_BYTES + 56;
/// What the kernel fills at a time at the most.
const DUMP_BYTES: usize = 32 << 10;

/// A handshake is over only when the client has sent something.
#[cfg(test)]
pub(crate) fn defer(listener: impl AsFd) {
    let seconds: libc::c_int = 60;
    // SAFETY: the option's value is an int that outlives the call, and its length is that of an
    // int.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result).unwrap();
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A client whose handshake stays under way until it sends something.
    fn deferred(addr: &str) -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind(addr).unwrap();
        defer(&listener);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    }

    #[test]
    fn a_handshake_under_way_is_seen_until_it_is_over() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, mut client) = deferred(addr);
            let local = listener.local_addr().unwrap();
            assert!(under_way().unwrap().contains(&local), "{local}");
            client.write_all(b"x").unwrap();
            let _accepted = listener.accept().unwrap();
            assert!(!under_way().unwrap().contains(&local), "{local}");
        }
    }

    #[test]
    fn a_listener_that_refuses_handshakes_ends_those_under_way_and_begins_none() {
        let (listener, mut client) = deferred("127.0.0.1:0");
        let addr = listener.local_addr().unwrap();
        refuse(&listener).unwrap();
        let soon = Duration::from_millis(50);
        TcpStream::connect_timeout(&addr, soon).unwrap_err();
        client.write_all(b"patient").unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mut word = [0; 7];
        accepted.read_exact(&mut word).unwrap();
        accepted.write_all(&word).unwrap();
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"patient");

        admit(&listener).unwrap();
        TcpStream::connect(addr).unwrap();
        admit(&listener).unwrap_err();
    }

    #[test]
    fn half_an_answer_is_an_error_and_no_panic() {
        let whole = request(libc::AF_INET as u8);
        for length in 1..whole.len() {
            read_dump(&whole[..length], &mut Vec::new()).unwrap_err();
        }
    }
}
