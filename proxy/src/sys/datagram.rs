//! Datagrams in batches: `recvmmsg` and `sendmmsg` with packet info, GRO and GSO.
//!
//! Own code, because quinn-udp forbids fragmentation on each socket (a balancer must not change
//! which datagrams get through), asks for time stamps nobody reads, and sends to one destination a
//! call; and because rustix has no `recvmmsg`. Addresses and control messages are encoded and
//! decoded byte by byte in [`wire`], so that only the calls themselves are unsafe.

#![allow(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and socket options that no safe crate wraps"
)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::net::SendFlags;

use wire::{Control, Name};

pub(crate) mod wire;

#[cfg(test)]
mod tests;

/// Received datagrams, held until [`Inbox::clear`].
///
/// Those of one call have room for a train each; the next call begins right behind what the last
/// one brought, so that answers that come one by one lie side by side.
pub(crate) struct Inbox {
    buffers: Box<[u8]>,
    /// Where each message begins.
    starts: Box<[usize]>,
    /// Where the next one begins.
    end: usize,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    filled: usize,
}

/// One received message: a datagram, or several of one sender that the kernel put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    /// Who sent it; none on a connected socket that wasn't asked for it.
    pub(crate) source: Option<SocketAddr>,
    /// The address it came to, where the socket tells.
    pub(crate) local: Option<LocalIp>,
    /// The size of each datagram; the last one may be shorter. The length where there is one only.
    pub(crate) segment: usize,
    /// The payload.
    pub(crate) bytes: &'a [u8],
}

/// An address of this host, and the interface where the address alone doesn't say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LocalIp {
    pub(crate) ip: IpAddr,
    pub(crate) interface: u32,
}

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// Where to; none on a connected socket.
    pub(crate) to: Option<SocketAddr>,
    /// The address to leave from; none for the socket's own.
    pub(crate) from: Option<LocalIp>,
    /// As in [`Received::segment`].
    pub(crate) segment: usize,
    /// The payload.
    pub(crate) bytes: &'a [u8],
}

/// Room for the headers of a batch.
pub(crate) struct Outbox {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

/// What a socket tells about each datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Nothing.
    Nothing,
    /// The address it came to.
    LocalIp,
}

// === impl Inbox ===

impl Inbox {
    /// Room for [`INBOX_SLOTS`] messages. The memory is touched only as far as datagrams fill it.
    pub(crate) fn new() -> Self {
        Self {
            buffers: vec![0; INBOX_SLOTS * STRIDE].into(),
            starts: vec![0; INBOX_SLOTS].into(),
            end: 0,
            names: vec![Name::default(); INBOX_SLOTS].into(),
            controls: vec![Control::default(); INBOX_SLOTS].into(),
            iovecs: vec![NO_IOVEC; INBOX_SLOTS].into(),
            headers: vec![NO_HEADER; INBOX_SLOTS].into(),
            filled: 0,
        }
    }

    /// Slots that are free.
    pub(crate) fn free(&self) -> usize {
        let room = (self.buffers.len() - self.end) / STRIDE;
        room.min(INBOX_SLOTS - self.filled)
    }

    /// Slots that are filled; the index of the next message.
    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    /// Forgets all messages.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
        self.end = 0;
    }

    /// Receives up to `max` messages into free slots and returns how many came. Doesn't block: an
    /// empty socket is [`io::ErrorKind::WouldBlock`], and so is a full inbox.
    pub(crate) fn receive(&mut self, fd: impl AsFd, max: usize, named: bool) -> io::Result<usize> {
        let first = self.filled;
        let count = max.min(self.free());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let buffers = self.buffers[self.end..].chunks_exact_mut(STRIDE);
        for (index, buffer) in buffers.take(count).enumerate() {
            let slot = first + index;
            self.starts[slot] = self.end + index * STRIDE;
            self.iovecs[slot] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: SLOT_BYTES,
            };
            let header = &mut self.headers[slot];
            *header = NO_HEADER;
            if named {
                header.msg_hdr.msg_name = self.names[slot].as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = Name::LENGTH;
            }
            header.msg_hdr.msg_iov = &raw mut self.iovecs[slot];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[slot].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = Control::LENGTH;
        }
        // SAFETY: `count` headers from `first` on were just filled in; each points at a name, an
        // iovec with its buffer and a control buffer of its own, all owned by `self` and of the
        // stated lengths, and none of them is otherwise referenced during the call.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_fd().as_raw_fd(),
                self.headers[first..].as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.filled += received;
        if let Some(last) = self.filled.checked_sub(1) {
            let len = (self.headers[last].msg_len as usize).min(SLOT_BYTES);
            self.end = self.starts[last] + len.next_multiple_of(LINE_BYTES);
        }
        Ok(received)
    }

    /// The message in a filled slot.
    pub(crate) fn message(&self, slot: usize) -> Received<'_> {
        debug_assert!(slot < self.filled, "slot {slot} is free");
        let header = &self.headers[slot];
        let at = self.starts[slot];
        let bytes = &self.buffers[at..at + (header.msg_len as usize).min(SLOT_BYTES)];
        let source = self.names[slot].read(header.msg_hdr.msg_namelen as usize);
        let told = self.controls[slot].read(header.msg_hdr.msg_controllen);
        let segment = told.segment.filter(|segment| *segment > 0);
        Received {
            source,
            local: told.local,
            segment: segment.unwrap_or(bytes.len()),
            bytes,
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Inbox({} of {INBOX_SLOTS})", self.filled)
    }
}

// === impl Received ===

impl Received<'_> {
    /// How many datagrams it is.
    pub(crate) fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment.max(1)).max(1)
    }
}

// === impl Outbox ===

impl Outbox {
    /// Room for [`OUTBOX_SLOTS`] messages a call.
    pub(crate) fn new() -> Self {
        Self {
            names: vec![Name::default(); OUTBOX_SLOTS].into(),
            controls: vec![Control::default(); OUTBOX_SLOTS].into(),
            iovecs: vec![NO_IOVEC; OUTBOX_SLOTS].into(),
            headers: vec![NO_HEADER; OUTBOX_SLOTS].into(),
        }
    }

    /// Sends the first messages of `messages`, at most [`OUTBOX_SLOTS`], and returns how many the
    /// kernel took. An error is the first message's, and nothing was sent then. Doesn't block.
    pub(crate) fn send<'a>(
        &mut self,
        fd: impl AsFd,
        messages: impl Iterator<Item = Outgoing<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (slot, message) in messages.take(OUTBOX_SLOTS).enumerate() {
            self.iovecs[slot] = libc::iovec {
                iov_base: message.bytes.as_ptr().cast_mut().cast(),
                iov_len: message.bytes.len(),
            };
            let header = &mut self.headers[slot];
            *header = NO_HEADER;
            if let Some(to) = message.to {
                header.msg_hdr.msg_namelen = self.names[slot].write(to);
                header.msg_hdr.msg_name = self.names[slot].as_mut_ptr().cast();
            }
            let segment = (message.segment < message.bytes.len()).then_some(message.segment);
            let length = self.controls[slot].write(message.from, segment);
            if length > 0 {
                header.msg_hdr.msg_control = self.controls[slot].as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = length;
            }
            header.msg_hdr.msg_iov = &raw mut self.iovecs[slot];
            header.msg_hdr.msg_iovlen = 1;
            count = slot + 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: `count` headers were just filled in; each points at a name, an iovec and a control
        // buffer of its own, owned by `self`, and each iovec at the bytes of a message, which
        // outlive the call as `'a` does; sending only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Outbox")
    }
}

/// Sends one datagram on a connected socket. Doesn't block.
pub(crate) fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::send(fd, bytes, flags)?;
    Ok(())
}

/// Opens a socket that is connected to `endpoint`, takes trains of datagrams and tells ICMP errors,
/// also those of routers on the way.
pub(crate) fn connect(endpoint: SocketAddr) -> io::Result<OwnedFd> {
    let domain = socket2::Domain::for_address(endpoint);
    let kind = socket2::Type::DGRAM.nonblocking();
    let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::UDP))?;
    let fd = socket.as_fd();
    enable_gro(fd);
    match endpoint {
        SocketAddr::V4(_) => set_flag(fd, libc::SOL_IP, libc::IP_RECVERR)?,
        SocketAddr::V6(_) => set_flag(fd, libc::SOL_IPV6, libc::IPV6_RECVERR)?,
    }
    socket.connect(&endpoint.into())?;
    Ok(socket.into())
}

/// Makes a bound socket take trains of datagrams and tell what is asked for.
pub(crate) fn prepare(fd: BorrowedFd<'_>, v6: bool, tell: Tell) -> io::Result<()> {
    enable_gro(fd);
    // As much as the host lets us have; a socket of many clients fills the default in a burst.
    let _less = socket2::SockRef::from(&fd).set_recv_buffer_size(RECEIVE_BYTES);
    match (tell, v6) {
        (Tell::Nothing, _) => Ok(()),
        (Tell::LocalIp, false) => set_flag(fd, libc::SOL_IP, libc::IP_PKTINFO),
        (Tell::LocalIp, true) => set_flag(fd, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO),
    }
}

/// Takes what waits in the socket's error queue, so that the queue holds no memory; the error
/// itself was told by a send or a receive.
pub(crate) fn drain_errors(fd: BorrowedFd<'_>) {
    let mut byte = [0_u8; 1];
    for _ in 0..ERRORS_MAX {
        let mut part = [io::IoSliceMut::new(&mut byte)];
        let mut header = NO_HEADER.msg_hdr;
        header.msg_iov = part.as_mut_ptr().cast();
        header.msg_iovlen = 1;
        // SAFETY: the header points at one iovec (`IoSliceMut` has its layout) over a byte that
        // outlives the call; no name and no control buffer are given.
        let taken = unsafe {
            libc::recvmsg(
                fd.as_raw_fd(),
                &raw mut header,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        if taken < 0 {
            return;
        }
    }
}

/// Without it the kernel hands over each datagram alone, which is slower and otherwise the same.
fn enable_gro(fd: BorrowedFd<'_>) {
    let _unsupported = set_flag(fd, libc::SOL_UDP, libc::UDP_GRO);
}

fn set_flag(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its length is that of an
    // int.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Messages that an inbox holds.
pub(crate) const INBOX_SLOTS: usize = 64;
/// Messages that one send call takes.
pub(crate) const OUTBOX_SLOTS: usize = 64;
/// A train that GRO put together is at most this long, and so is a datagram.
const SLOT_BYTES: usize = 1 << 16;
/// From one message of a call to the next: not a power of two, or the first bytes of all would
/// compete for the same few lines of the processor's cache.
const STRIDE: usize = SLOT_BYTES + 17 * LINE_BYTES;
const LINE_BYTES: usize = 64;
/// What a listening socket asks to queue; the kernel cuts it down to `net.core.rmem_max`.
const RECEIVE_BYTES: usize = 1 << 20;
/// Errors taken at a time; a socket holds few, as each stops the next send.
const ERRORS_MAX: usize = 16;

const NO_IOVEC: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
const NO_HEADER: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};
