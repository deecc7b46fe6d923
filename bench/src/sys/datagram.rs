//! Batches of datagrams.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    os::fd::RawFd,
};

/// Datagrams a call.
pub(crate) const BATCH: usize = 64;
/// The largest datagram.
const DATAGRAM_MAX: usize = 2048;

/// Buffers for one batch in and the same batch out, in place. Never moved once made: headers point into it.
pub(crate) struct Batch {
    buffers: Box<[[u8; DATAGRAM_MAX]; BATCH]>,
    names: Box<[libc::sockaddr_in; BATCH]>,
    slices: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    held: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero is a valid sockaddr_in.
        let name: libc::sockaddr_in = unsafe { mem::zeroed() };
        // SAFETY: all-zero is a valid mmsghdr (null pointers, zero lengths).
        let headers = Box::new(unsafe { mem::zeroed::<[libc::mmsghdr; BATCH]>() });
        let slice = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            buffers: Box::new([[0; DATAGRAM_MAX]; BATCH]),
            names: Box::new([name; BATCH]),
            slices: Box::new([slice; BATCH]),
            headers,
            held: 0,
        }
    }

    /// Receives up to `max` datagrams behind those that are held; the first and the count.
    pub(crate) fn receive(&mut self, socket: RawFd, max: usize) -> io::Result<Range<usize>> {
        let first = self.held;
        let last = BATCH.min(first + max);
        for index in first..last {
            self.slices[index] = libc::iovec {
                iov_base: self.buffers[index].as_mut_ptr().cast(),
                iov_len: DATAGRAM_MAX,
            };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &raw mut self.slices[index];
            header.msg_iovlen = 1;
        }
        let headers = &mut self.headers[first..last];
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: every header points into this batch, which outlives the call.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                headers.as_mut_ptr(),
                headers.len() as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.held += count as usize;
        Ok(first..self.held)
    }

    /// Room for more.
    pub(crate) fn free(&self) -> usize {
        BATCH - self.held
    }

    /// All datagrams that are held.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.held
    }

    /// Forgets all datagrams.
    pub(crate) fn clear(&mut self) {
        self.held = 0;
    }

    /// Where datagram `index` came from.
    pub(crate) fn source(&self, index: usize) -> SocketAddrV4 {
        let name = &self.names[index];
        let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
        SocketAddrV4::new(ip, u16::from_be(name.sin_port))
    }

    /// The bytes of datagram `index`.
    #[cfg(test)]
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        &self.buffers[index][..self.headers[index].msg_len as usize]
    }

    /// Says where datagram `index` goes: to `to`, or to the peer of a connected socket.
    pub(crate) fn address(&mut self, index: usize, to: Option<SocketAddrV4>) {
        self.slices[index].iov_len = self.headers[index].msg_len as usize;
        let header = &mut self.headers[index].msg_hdr;
        match to {
            Some(addr) => {
                self.names[index].sin_family = libc::AF_INET as u16;
                self.names[index].sin_port = addr.port().to_be();
                self.names[index].sin_addr.s_addr = u32::from(*addr.ip()).to_be();
                header.msg_name = (&raw mut self.names[index]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            }
            None => {
                header.msg_name = std::ptr::null_mut();
                header.msg_namelen = 0;
            }
        }
    }

    /// Sends datagrams `range`, which have been addressed. How many went out.
    pub(crate) fn send(&mut self, socket: RawFd, range: Range<usize>) -> io::Result<usize> {
        let headers = &mut self.headers[range];
        // SAFETY: every header points into this batch, which outlives the call.
        let count = unsafe {
            libc::sendmmsg(
                socket,
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        if count < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(count as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsRawFd};

    use super::*;

    #[test]
    fn a_batch_keeps_bytes_and_sources_apart() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let clients: Vec<_> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        for (index, client) in clients.iter().enumerate() {
            client.send_to(&vec![index as u8; index + 1], to).unwrap();
        }
        let mut batch = Batch::new();
        assert_eq!(batch.receive(server.as_raw_fd(), 2).unwrap(), 0..2);
        assert_eq!(batch.receive(server.as_raw_fd(), 2).unwrap(), 2..3);
        for (index, client) in clients.iter().enumerate() {
            assert_eq!(batch.bytes(index), vec![index as u8; index + 1]);
            let source = batch.source(index);
            assert_eq!(
                std::net::SocketAddr::V4(source),
                client.local_addr().unwrap()
            );
            batch.address(index, Some(source));
            let sent = batch.send(server.as_raw_fd(), index..index + 1);
            assert_eq!(sent.unwrap(), 1);
            let mut back = [0; 16];
            assert_eq!(client.recv(&mut back).unwrap(), index + 1);
        }
    }
}
