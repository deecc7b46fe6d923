//! TCP sockets: each function is one system call unless it says otherwise.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with,
        getsockname, shutdown, socket_with, sockopt,
    },
};

#[cfg(test)]
use super::faults;

/// Accepts a client, not blocking, with its address.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    #[cfg(test)]
    faults::check(faults::Call::Accept)?;
    let (fd, addr) = acceptfrom_with(listener, FLAGS)?;
    let addr = addr.ok_or(Errno::CONNABORTED)?;
    Ok((fd, SocketAddr::try_from(addr)?))
}

/// The address that a socket is bound to.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(getsockname(socket)?)?)
}

/// Begins a connect; two system calls. The socket becomes writable once it is connected, or fails.
pub fn connect(addr: &SocketAddr) -> io::Result<OwnedFd> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    #[cfg(test)]
    faults::check(faults::Call::Socket)?;
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    match rustix::net::connect(&socket, addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// The error that waits on a socket, which this clears.
pub fn take_error(socket: impl AsFd) -> Option<io::Error> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error.into()),
    }
}

/// Receives what is there; 0 is the end of the stream. Fewer bytes than `buffer` takes mean that
/// there were no more.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, len) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(len)
}

/// Looks at what is there without taking it.
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let (_, len) = rustix::net::recv(socket, buffer, flags)?;
    Ok(len)
}

/// Sends what fits.
pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Ends our half of the stream once what was sent before is out.
pub fn finish(socket: impl AsFd) -> io::Result<()> {
    Ok(shutdown(socket, Shutdown::Write)?)
}

/// Closes with a RST and discards what was not yet acknowledged; two system calls.
pub fn reset(socket: OwnedFd) {
    // A socket that refuses the option is gone already.
    let _gone = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    drop(socket);
}

/// Sends small segments at once instead of waiting for acknowledgements (no Nagle).
pub fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

/// How dead peers are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Liveness {
    /// Keepalive: idle, interval, probes. `None` is off.
    pub keepalive: Option<(Duration, Duration, u8)>,
    /// TCP_USER_TIMEOUT; `None` leaves it to the system.
    pub user_timeout: Option<Duration>,
}

/// Sets how a dead peer is noticed; up to five system calls. Accepted sockets inherit it from
/// their listener.
pub fn set_liveness(socket: impl AsFd, liveness: &Liveness) -> io::Result<()> {
    let socket = socket.as_fd();
    if let Some((idle, interval, probes)) = liveness.keepalive {
        sockopt::set_tcp_keepidle(socket, whole_seconds(idle))?;
        sockopt::set_tcp_keepintvl(socket, whole_seconds(interval))?;
        sockopt::set_tcp_keepcnt(socket, u32::from(probes.max(1)))?;
    }
    if let Some(timeout) = liveness.user_timeout {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, millis)?;
    }
    sockopt::set_socket_keepalive(socket, liveness.keepalive.is_some())?;
    Ok(())
}

/// The same for a listener that may have had other options before: what is left out is taken back.
pub fn replace_liveness(socket: impl AsFd, liveness: &Liveness) -> io::Result<()> {
    let socket = socket.as_fd();
    if liveness.user_timeout.is_none() {
        sockopt::set_tcp_user_timeout(socket, 0)?;
    }
    set_liveness(socket, liveness)
}

/// Keepalive takes 1 to 32767 seconds.
fn whole_seconds(duration: Duration) -> Duration {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(seconds.clamp(1, 32_767))
}

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
