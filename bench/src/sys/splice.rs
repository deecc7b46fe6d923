//! Pipes, splice and raw reads and writes on sockets.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::epoll::check;

/// A pipe and how much it holds.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes inside.
    pub(crate) held: usize,
}

impl Pipe {
    /// A non-blocking pipe of `capacity` bytes, or of what the system grants.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor.
        let read = unsafe { OwnedFd::from_raw_fd(fds[0]) };
        // SAFETY: the kernel just gave us this descriptor.
        let write = unsafe { OwnedFd::from_raw_fd(fds[1]) };
        // SAFETY: no pointers. A refusal leaves the default size, which works too.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, capacity as i32) };
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Moves up to `max` bytes from a socket into the pipe; 0 is the end of the stream.
    pub(crate) fn fill(&mut self, socket: RawFd, max: usize) -> io::Result<usize> {
        let moved = splice(socket, self.write.as_raw_fd(), max)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what the pipe holds into a socket.
    pub(crate) fn drain(&mut self, socket: RawFd) -> io::Result<usize> {
        let moved = splice(self.read.as_raw_fd(), socket, self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

fn splice(from: RawFd, to: RawFd, max: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are allowed for sockets and pipes.
    let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), max, flags) };
    if moved < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(moved as usize)
    }
}

/// `recv(2)`, non-blocking.
pub(crate) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buffer`.
    let count = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}

/// `send(2)`, non-blocking, without SIGPIPE.
pub(crate) fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `bytes`.
    let count = unsafe {
        libc::send(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_pipe_carries_bytes_from_socket_to_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"through the pipe").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut pipe = Pipe::new(65536).unwrap();
        while pipe.held < 16 {
            match pipe.fill(server.as_raw_fd(), 4096) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        while pipe.held > 0 {
            pipe.drain(server.as_raw_fd()).unwrap();
        }
        drop(server);
        let mut back = String::new();
        client.read_to_string(&mut back).unwrap();
        assert_eq!(back, "through the pipe");
    }
}
