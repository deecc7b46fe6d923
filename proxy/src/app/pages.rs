//! The admin server's socket, which outlives this process in a successor.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use fairlead_runtime::{
    admin::{BindError, Pages, Server},
    tasks::{Backoff, Tasks},
};
use tokio::sync::watch;

use crate::upgrade::{Role, SocketRow};

/// A bound admin server.
pub(super) struct AdminServer {
    server: Arc<Server>,
    closed: watch::Sender<bool>,
}

// === impl AdminServer ===

impl AdminServer {
    /// Binds, or takes a predecessor's socket over.
    pub(super) fn open(
        addr: SocketAddr,
        allow_remote: bool,
        inherited: Option<OwnedFd>,
    ) -> Result<Self, BindError> {
        let server = match inherited {
            Some(socket) => Server::adopt(socket.into(), addr, allow_remote)?,
            None => Server::bind(addr, allow_remote)?,
        };
        tracing::info!(addr = %server.addr(), "admin pages");
        let (closed, _) = watch::channel(false);
        Ok(Self {
            server: Arc::new(server),
            closed,
        })
    }

    /// Serves until [`Self::close`].
    pub(super) fn serve(&self, pages: Pages, tasks: &mut Tasks) {
        let (server, closed) = (self.server.clone(), self.closed.subscribe());
        tasks.supervise("admin", Backoff::default(), move || {
            let (server, pages, mut closed) = (server.clone(), pages.clone(), closed.clone());
            async move {
                tokio::select! {
                    () = server.serve(pages) => {}
                    _ = closed.wait_for(|closed| *closed) => {}
                }
                // Closed, it must not be started again.
                let _gone = closed.wait_for(|closed| !*closed).await;
                Ok(())
            }
        });
    }

    /// Leaves the socket to a successor.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// The socket, for a successor.
    pub(super) fn offer(&self) -> Option<(SocketRow, Arc<OwnedFd>)> {
        let row = SocketRow {
            role: Role::Admin,
            addr: self.server.addr(),
        };
        Some((row, Arc::new(self.server.socket().ok()?)))
    }
}
