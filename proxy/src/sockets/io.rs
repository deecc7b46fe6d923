//! Binding.
//!
//! Listeners share their port among threads (SO_REUSEPORT), and the kernel lets any process of the
//! same user join in: a second proxy would silently take half the traffic. So each new address is
//! first bound alone, which fails when anybody listens there.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use fairlead_config::{frontend::Protocol, name::FrontendName};
use socket2::{Domain, Socket, Type};

use super::Bind;
use crate::sys::tcp::{self, Liveness};

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "{bind}, asked for by frontend {asked_by}, is in use by another process or another \
         frontend of this one; stop the holder (ss -ltnup shows it) or choose another port"
    )]
    InUse {
        /// Where.
        bind: Bind,
        /// By whom.
        asked_by: FrontendName,
    },
    /// Ports below 1024 are for root.
    #[error(
        "{bind}, asked for by frontend {asked_by}, needs the capability CAP_NET_BIND_SERVICE \
         or a port above 1023"
    )]
    Forbidden {
        /// Where.
        bind: Bind,
        /// By whom.
        asked_by: FrontendName,
    },
    /// The address isn't one of this host.
    #[error(
        "{bind}, asked for by frontend {asked_by}, is no address of this host; add it to an \
         interface, or use 0.0.0.0 or [::]"
    )]
    NotLocal {
        /// Where.
        bind: Bind,
        /// By whom.
        asked_by: FrontendName,
    },
    /// Anything else.
    #[error("{bind}, asked for by frontend {asked_by}: {operation} failed")]
    Other {
        /// Where.
        bind: Bind,
        /// By whom.
        asked_by: FrontendName,
        /// What failed.
        operation: &'static str,
        /// How.
        #[source]
        source: io::Error,
    },
}

/// Binds `count` sockets at one address; TCP ones listen, with the options that accepted sockets
/// inherit. `probe`: first make sure that nobody else is there; leave it out only where this
/// process itself holds an address that overlaps.
pub fn bind(
    bind: Bind,
    count: usize,
    liveness: &Liveness,
    asked_by: &FrontendName,
    probe: bool,
) -> Result<Vec<OwnedFd>, BindError> {
    let explain = |(operation, source)| explain(bind, asked_by, operation, source);
    if probe {
        open(bind, false).map_err(explain)?;
    }
    let sockets = (0..count).map(|_| {
        let socket = open(bind, true).map_err(explain)?;
        if bind.protocol == Protocol::Tcp {
            listen(&socket, liveness).map_err(explain)?;
        }
        Ok(OwnedFd::from(socket))
    });
    sockets.collect()
}

type Failed = (&'static str, io::Error);

fn open(bind: Bind, shared: bool) -> Result<Socket, Failed> {
    let domain = Domain::for_address(bind.addr);
    let kind = match bind.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)
        .map_err(|error| ("opening a socket", error))?;
    let set = || -> io::Result<()> {
        if matches!(bind.addr, SocketAddr::V6(_)) {
            socket.set_only_v6(true)?;
        }
        if bind.protocol == Protocol::Tcp {
            // Connections of an earlier process in TIME_WAIT are no holders.
            socket.set_reuse_address(true)?;
        }
        socket.set_reuse_port(shared)
    };
    set().map_err(|error| ("setting its options", error))?;
    socket
        .bind(&bind.addr.into())
        .map_err(|error| ("binding", error))?;
    Ok(socket)
}

fn listen(socket: &Socket, liveness: &Liveness) -> Result<(), Failed> {
    let set = || -> io::Result<()> {
        tcp::set_nodelay(socket)?;
        tcp::set_liveness(socket, liveness)
    };
    set().map_err(|error| ("setting its options", error))?;
    socket.listen(BACKLOG).map_err(|error| ("listening", error))
}

fn explain(
    bind: Bind,
    asked_by: &FrontendName,
    operation: &'static str,
    source: io::Error,
) -> BindError {
    let asked_by = asked_by.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { bind, asked_by },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { bind, asked_by },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { bind, asked_by },
        _ => BindError::Other {
            bind,
            asked_by,
            operation,
            source,
        },
    }
}

/// The kernel cuts it down to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
