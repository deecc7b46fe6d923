//! systemd: readiness (`sd_notify`), and listening sockets kept in its descriptor store while no
//! process runs, so that a restart refuses nobody.
//!
//! The unit needs `Type=notify`, `NotifyAccess=all` (a successor by SIGUSR2 speaks for itself) and
//! `FileDescriptorStoreMax=` at the number of listening sockets. Without systemd all of this does
//! nothing.

use std::{
    env, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram},
    },
};

use rustix::net::{SocketType, sockopt};

use super::{Inheritance, Role, SocketRow};
use crate::sys::{fdpass, tcp};

/// The service manager's ear.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    stores: bool,
}

// === impl Notifier ===

impl Notifier {
    /// From the environment.
    pub fn from_env() -> Self {
        let path = env::var("NOTIFY_SOCKET").ok();
        let socket = path.and_then(|path| connect(&path).ok());
        Self {
            socket,
            // Older versions don't say; they ignore what they can't store.
            stores: env::var("FDSTORE").is_ok_and(|max| max != "0"),
        }
    }

    /// Whether it keeps sockets beyond the life of this process.
    pub fn stores(&self) -> bool {
        self.stores
    }

    /// This process serves; after a hand-over the manager learns who that is now.
    pub fn ready(&self) {
        self.say(&format!("READY=1\nMAINPID={}\n", std::process::id()), &[]);
    }

    /// This process leaves.
    pub fn stopping(&self) {
        self.say("STOPPING=1\n", &[]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.say(&format!("STATUS={text}\n"), &[]);
    }

    /// Asks the manager to keep a socket.
    pub fn store(&self, row: &SocketRow, socket: BorrowedFd<'_>) {
        if self.stores {
            self.say(&format!("FDSTORE=1\nFDNAME={}\n", name(row)), &[socket]);
        }
    }

    /// Asks the manager to let go of the sockets at an address.
    pub fn forget(&self, row: &SocketRow) {
        if self.stores {
            self.say(&format!("FDSTOREREMOVE=1\nFDNAME={}\n", name(row)), &[]);
        }
    }

    fn say(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.socket {
            // A manager that doesn't listen must not stop the proxy.
            fdpass::send(socket, text.as_bytes(), fds).ok();
        }
    }
}

/// The sockets that the manager kept, or was told to open: `LISTEN_FDS`, for this process.
pub fn inheritance() -> Inheritance {
    let fds = fdpass::from_manager();
    let sockets = (0..)
        .zip(fds)
        .filter_map(|(place, fd)| Some((place, describe(&fd)?, fd)));
    Inheritance {
        sockets: sockets.collect(),
        ..Inheritance::default()
    }
}

fn describe(fd: &OwnedFd) -> Option<SocketRow> {
    let role = match sockopt::socket_type(fd).ok()? {
        SocketType::STREAM if sockopt::socket_acceptconn(fd).ok()? => Role::Tcp,
        SocketType::DGRAM => Role::Udp,
        _ => return None,
    };
    let flags = rustix::fs::fcntl_getfl(fd).ok()?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).ok()?;
    let addr = tcp::local_addr(fd.as_fd()).ok()?;
    Some(SocketRow { role, addr })
}

/// A name without ':' and control characters, as the protocol wants it.
fn name(row: &SocketRow) -> String {
    let role = match row.role {
        Role::Tcp => "tcp",
        Role::Udp => "udp",
        Role::Admin => "admin",
    };
    format!("{role}-{}", row.addr).replace(':', "_")
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match path.strip_prefix('@') {
        Some(name) => socket.connect_addr(&UnixAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}
