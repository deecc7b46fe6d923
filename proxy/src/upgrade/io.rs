//! The shell of a hand-over: sockets, time-outs, the child process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::io::unix::AsyncFd;

use super::{
    Inheritance, Offer,
    wire::{MESSAGE_BYTES_MAX, Message, WireError, agree},
};
use crate::{sys::fdpass, udp::passing::FlowRow};

/// Why a hand-over did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// A system call.
    #[error("{0} failed")]
    System(&'static str, #[source] io::Error),
    /// The other one said something wrong.
    #[error("the other process sent something wrong")]
    Wire(#[from] WireError),
    /// The other one is gone.
    #[error("the other process ended before it had {0}")]
    Gone(&'static str),
    /// The other one takes too long.
    #[error("the other process did not answer within {0:?}")]
    TimedOut(Duration),
    /// The giver won't.
    #[error("the other process refuses: {0}")]
    Refused(String),
}

/// A connection to the other process.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

/// A path at which takers find this process.
#[derive(Debug)]
pub struct Door(AsyncFd<OwnedFd>);

/// The child that is to be the successor; killed when dropped before [`Successor::release`].
#[derive(Debug)]
pub struct Successor(Option<Child>);

/// A hand-over that waits for its giver's last word.
#[derive(Debug)]
pub struct Taking(Channel);

// === impl Channel ===

impl Channel {
    /// Over a connected message socket.
    pub fn new(socket: OwnedFd) -> Result<Self, HandOverError> {
        fdpass::watch(socket)
            .map(Self)
            .map_err(|error| HandOverError::System("watching the hand-over socket", error))
    }

    /// To the process that listens at `path`; `None` when nobody does.
    pub fn find(path: &Path) -> Result<Option<Self>, HandOverError> {
        match fdpass::connect_to(path) {
            Ok(socket) => Self::new(socket).map(Some),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(HandOverError::System(
                "connecting to the take-over path",
                error,
            )),
        }
    }

    /// From the process that started this one for a hand-over; `None` when it was started in any
    /// other way.
    pub fn from_parent() -> Result<Option<Self>, HandOverError> {
        if std::env::var_os(PARENT_VARIABLE).is_none() {
            return Ok(None);
        }
        let failed = |error: io::Error| HandOverError::System("taking the parent's socket", error);
        let socket = rustix::stdio::stdin()
            .try_clone_to_owned()
            .map_err(failed)?;
        let nothing = std::fs::File::open("/dev/null").map_err(failed)?;
        rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(error.into()))?;
        Self::new(socket).map(Some)
    }

    /// Sends a message.
    pub async fn send(
        &self,
        message: &Message,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), HandOverError> {
        let bytes = message.encode();
        let sending = async {
            loop {
                let mut guard = self.0.writable().await?;
                let sent = guard.try_io(|socket| fdpass::send(socket.get_ref(), &bytes, fds));
                match sent {
                    Ok(sent) => return sent,
                    Err(_would_block) => {}
                }
            }
        };
        within(STEP, sending)
            .await?
            .map_err(|error| HandOverError::System("sending to the other process", error))
    }

    /// Receives a message, within `patience`. `waiting_for`: what the sender then has done.
    pub async fn receive(
        &self,
        patience: Duration,
        waiting_for: &'static str,
    ) -> Result<(Message, Vec<OwnedFd>), HandOverError> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let receiving = async {
            loop {
                let mut guard = self.0.readable().await?;
                let received =
                    guard.try_io(|socket| fdpass::receive(socket.get_ref(), &mut buffer));
                match received {
                    Ok(received) => return received,
                    Err(_would_block) => {}
                }
            }
        };
        let received = within(patience, receiving).await?;
        let (len, fds) = match received {
            Ok((0, _)) => return Err(HandOverError::Gone(waiting_for)),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(HandOverError::Gone(waiting_for));
            }
            Err(error) => {
                return Err(HandOverError::System(
                    "receiving from the other process",
                    error,
                ));
            }
        };
        Ok((Message::decode(&buffer[..len], fds.len())?, fds))
    }

    /// The giver's part, until the taker is ready.
    pub async fn give(&self, offer: &Offer) -> Result<(), HandOverError> {
        let (hello, _) = self.receive(STEP, "said hello").await?;
        let Message::Hello { versions, build } = &hello else {
            return Err(hello.instead_of("hello").into());
        };
        let version = match agree(versions) {
            Ok(version) => version,
            Err(error) => {
                let reason = error.to_string();
                self.send(&Message::Refuse { reason }, &[]).await?;
                return Err(error.into());
            }
        };
        tracing::info!(build, sockets = offer.sockets.len(), "handing over");
        let groups: Vec<_> = offer.sockets.chunks(fdpass::FDS_MAX).collect();
        let batches = groups.len() + offer.parcels.len();
        let batches = u32::try_from(batches).unwrap_or(u32::MAX);
        self.send(&Message::Begin { version, batches }, &[]).await?;
        let mut batch = 0;
        for group in groups {
            let sockets = group.iter().map(|(row, _)| *row).collect();
            let fds: Vec<BorrowedFd<'_>> = group.iter().map(|(_, fd)| fd.as_fd()).collect();
            self.send(&Message::Sockets { batch, sockets }, &fds)
                .await?;
            self.expect_taken(batch, STEP).await?;
            batch += 1;
        }
        for parcel in offer.parcels.iter().cloned() {
            self.send(&Message::Learned { batch, parcel }, &[]).await?;
            self.expect_taken(batch, STEP).await?;
            batch += 1;
        }
        match self.receive(START, "started to accept").await?.0 {
            Message::Ready => Ok(()),
            other => Err(other.instead_of("ready").into()),
        }
    }

    /// Passes flows on; until this succeeds they are the giver's, who still has every socket.
    pub async fn pass(&self, flows: &[(FlowRow, OwnedFd)]) -> Result<(), HandOverError> {
        for (batch, group) in (0..).zip(flows.chunks(fdpass::FDS_MAX)) {
            let fds: Vec<BorrowedFd<'_>> = group.iter().map(|(_, fd)| fd.as_fd()).collect();
            let flows = group.iter().map(|(row, _)| row.clone()).collect();
            self.send(&Message::Flows { batch, flows }, &fds).await?;
            self.expect_taken(batch, FLOWS).await?;
        }
        Ok(())
    }

    /// The giver changed its mind: it serves on, and the taker must not.
    pub async fn refuse(&self, reason: String) -> Result<(), HandOverError> {
        self.send(&Message::Refuse { reason }, &[]).await
    }

    /// The giver's last word.
    pub async fn release(&self) -> Result<(), HandOverError> {
        self.send(&Message::Released, &[]).await
    }

    /// The taker's part, until it has everything.
    pub async fn take(self) -> Result<(Inheritance, Taking), HandOverError> {
        self.send(&Message::hello(), &[]).await?;
        let batches = match self.receive(STEP, "begun").await?.0 {
            Message::Begin { batches, .. } => batches,
            Message::Refuse { reason } => return Err(HandOverError::Refused(reason)),
            other => return Err(other.instead_of("begin").into()),
        };
        let mut inheritance = Inheritance {
            flows_follow: true,
            ..Inheritance::default()
        };
        for batch in 0..batches {
            let (message, fds) = self.receive(STEP, "sent everything").await?;
            match message {
                Message::Sockets { batch: at, sockets } if at == batch => {
                    let first = u32::try_from(inheritance.sockets.len()).unwrap_or(u32::MAX);
                    let rows = (first..).zip(sockets).zip(fds);
                    let rows = rows.map(|((place, row), fd)| (place, row, fd));
                    inheritance.sockets.extend(rows);
                }
                Message::Learned { batch: at, parcel } if at == batch => {
                    inheritance.parcels.push(parcel);
                }
                other => return Err(other.instead_of("the next batch").into()),
            }
            self.send(&Message::Taken { batch }, &[]).await?;
        }
        Ok((inheritance, Taking(self)))
    }

    async fn expect_taken(&self, batch: u32, patience: Duration) -> Result<(), HandOverError> {
        match self.receive(patience, "taken everything").await?.0 {
            Message::Taken { batch: taken } if taken == batch => Ok(()),
            other => Err(other.instead_of("taken").into()),
        }
    }
}

// === impl Taking ===

impl Taking {
    /// Tells the giver that this process accepts connections, takes the giver's flows and waits
    /// until the giver accepts no more. From here on this process serves, whatever becomes of the
    /// giver, unless the answer is [`HandOverError::Refused`]: then the giver serves on.
    pub async fn ready(
        self,
        mut adopt: impl FnMut(Vec<(FlowRow, OwnedFd)>),
    ) -> Result<(), HandOverError> {
        self.0.send(&Message::Ready, &[]).await?;
        loop {
            let (message, fds) = self.0.receive(STEP, "released").await?;
            match message {
                Message::Flows { batch, flows } => {
                    adopt(flows.into_iter().zip(fds).collect());
                    self.0.send(&Message::Taken { batch }, &[]).await?;
                }
                Message::Released => return Ok(()),
                Message::Refuse { reason } => return Err(HandOverError::Refused(reason)),
                other => return Err(other.instead_of("released").into()),
            }
        }
    }
}

// === impl Door ===

impl Door {
    /// Opens it at `path`; takers find this process there from now on.
    pub fn open(path: &Path) -> Result<Self, HandOverError> {
        let failed = |error| HandOverError::System("listening at the take-over path", error);
        let socket = fdpass::listen_at(path).map_err(failed)?;
        fdpass::watch(socket).map(Self).map_err(failed)
    }

    /// The next taker.
    pub async fn knock(&self) -> Result<Channel, HandOverError> {
        let failed = |error| HandOverError::System("accepting a taker", error);
        loop {
            let mut guard = self.0.readable().await.map_err(failed)?;
            match guard.try_io(|listener| fdpass::accept(listener.get_ref())) {
                Ok(Ok(socket)) => return Channel::new(socket),
                Ok(Err(error)) => return Err(failed(error)),
                Err(_would_block) => {}
            }
        }
    }
}

// === impl Successor ===

impl Successor {
    /// Starts `program` with the arguments of this process.
    pub fn start(program: &Path) -> Result<(Self, Channel), HandOverError> {
        let (ours, theirs) = fdpass::pair()
            .map_err(|error| HandOverError::System("creating the hand-over socket", error))?;
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(PARENT_VARIABLE, "stdin")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|error| HandOverError::System("starting the new binary", error))?;
        Ok((Self(Some(child)), Channel::new(ours)?))
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// It serves now, and lives on.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, HandOverError> {
    let done = tokio::time::timeout(patience, work).await;
    done.map_err(|_| HandOverError::TimedOut(patience))
}

/// An answer that takes no work.
const STEP: Duration = Duration::from_secs(10);
/// The new process reads its file, binds and starts its threads; 10,000 services take seconds.
const START: Duration = Duration::from_secs(60);
/// Datagrams wait meanwhile.
const FLOWS: Duration = Duration::from_secs(2);
/// Set for a child that is to take over from its parent.
const PARENT_VARIABLE: &str = "FAIRLEAD_HAND_OVER";
