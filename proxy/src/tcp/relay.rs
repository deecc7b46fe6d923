//! Moving bytes between the two sides of a session.
//!
//! Each direction is on its own: it first sends what is pending, then reads, until the source is
//! empty, the sink is full or its turn is over. Small reads go through the thread's shared buffer
//! and only a tail that didn't fit is kept; bulk goes through a borrowed pipe. An idle session
//! owns neither.
//!
//! Invariants: bytes in = bytes out + pending; at most one buffer or one pipe is pending a
//! direction, so a slow reader stops the sender; the end of one stream is passed on after its last
//! byte and never cuts the other stream.
//!
//! Cost of a small message: one receive, one send. Of a megabyte of bulk: eight splices, if the source
//! holds it.

use std::io;

use super::{leg::Side, pipes::Pipes};
use crate::sys::pipe::Pipe;

/// Both directions of a session.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) down: Side,
    pub(crate) up: Side,
    /// From the client to the endpoint.
    pub(crate) upward: Stream,
    /// From the endpoint to the client.
    pub(crate) downward: Stream,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Bytes that reached the sink.
    pub(crate) bytes: u64,
    pending: Pending,
    mode: Mode,
    state: State,
}

/// What was read and not yet sent.
#[derive(Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    Bytes(Box<Tail>),
    Pipe(Box<(Pipe, usize)>),
}

#[derive(Debug)]
struct Tail {
    bytes: Box<[u8]>,
    sent: usize,
    /// So many of the first bytes are ours, not payload.
    uncounted: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Through the shared buffer; the number of large reads in a row.
    Copy(u8),
    /// Through a pipe; the number of small passes in a row.
    Splice(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// The source has ended; its end was not yet passed on.
    Ending,
    /// The end was passed on.
    Ended,
}

/// What a thread shares among its sessions.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) scratch: Box<[u8]>,
    pub(crate) pipes: Pipes,
    pub(crate) copied: u64,
    pub(crate) spliced: u64,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more can be done until an event.
    Waits,
    /// There is more to do; let others have their turn first.
    More,
    /// Both streams have ended in order.
    Finished,
    /// One side failed.
    Failed(Which, Failure),
}

/// A side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Down,
    Up,
}

/// How a side failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It sent a RST.
    Reset,
    /// It stopped acknowledging.
    Unreachable,
    /// Our own host lacks memory or the like.
    Local,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(down: Side, up: Side) -> Self {
        Self {
            down,
            up,
            upward: Stream::default(),
            downward: Stream::default(),
        }
    }

    /// Does all that can be done now in both directions.
    pub(crate) fn turn(&mut self, shared: &mut Shared) -> Turn {
        let up = match self.upward.pump(&mut self.down, &mut self.up, shared) {
            Ok(more) => more,
            Err(fault) => return fault.blame(Which::Down, Which::Up),
        };
        let down = match self.downward.pump(&mut self.up, &mut self.down, shared) {
            Ok(more) => more,
            Err(fault) => return fault.blame(Which::Up, Which::Down),
        };
        if self.is_half_closed()
            && let Some(turn) = self.pass_ends()
        {
            return turn;
        }
        if self.down.failed || self.up.failed {
            return self.find_failure().unwrap_or(Turn::More);
        }
        if up || down { Turn::More } else { Turn::Waits }
    }

    /// Whether one side has finished.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.upward.state != State::Open || self.downward.state != State::Open
    }

    /// Whether it moves so much that others should go first.
    pub(crate) fn is_bulk(&self) -> bool {
        self.upward.is_bulk() || self.downward.is_bulk()
    }

    /// Gives pipes back before the sides are closed.
    pub(crate) fn release(&mut self, shared: &mut Shared) {
        self.upward.release(shared);
        self.downward.release(shared);
    }

    /// A socket failed although nothing was read from it: its stream is blocked or has ended.
    fn find_failure(&mut self) -> Option<Turn> {
        for (side, which) in [(&mut self.down, Which::Down), (&mut self.up, Which::Up)] {
            if std::mem::take(&mut side.failed)
                && let Some(error) = crate::sys::tcp::take_error(side.tcp())
            {
                return Some(Turn::Failed(which, Failure::of(&error)));
            }
        }
        None
    }

    /// Passes ends on. When both streams are through, closing the sockets says it without a call
    /// to shut them down.
    fn pass_ends(&mut self) -> Option<Turn> {
        let upward = self.upward.is_through();
        let downward = self.downward.is_through();
        if upward && downward {
            return Some(Turn::Finished);
        }
        if upward && self.upward.state == State::Ending {
            self.upward.state = State::Ended;
            if let Err(error) = self.up.finish() {
                return Some(Turn::Failed(Which::Up, Failure::of(&error)));
            }
        }
        if downward && self.downward.state == State::Ending {
            self.downward.state = State::Ended;
            if let Err(error) = self.down.finish() {
                return Some(Turn::Failed(Which::Down, Failure::of(&error)));
            }
        }
        None
    }
}

// === impl Stream ===

impl Stream {
    /// Sends these bytes before anything else; the first `uncounted` are not payload.
    pub(crate) fn begin_with(&mut self, bytes: Vec<u8>, uncounted: usize) {
        self.pending = Pending::Bytes(Box::new(Tail {
            bytes: bytes.into_boxed_slice(),
            sent: 0,
            uncounted,
        }));
    }

    /// Moves bytes until the source is empty, the sink is full or the turn is over (`true`).
    fn pump(
        &mut self,
        source: &mut Side,
        sink: &mut Side,
        shared: &mut Shared,
    ) -> Result<bool, Fault> {
        let mut moved = 0;
        loop {
            if !self.flush(sink, shared)? || self.state != State::Open {
                return Ok(false);
            }
            if source.ended {
                self.state = State::Ending;
                return Ok(false);
            }
            if !source.readable || !sink.writable {
                return Ok(false);
            }
            if moved >= TURN_BYTES {
                return Ok(true);
            }
            moved += match self.mode {
                Mode::Copy(large) => self.copy(large, source, sink, shared)?,
                Mode::Splice(small) => self.splice(small, source, sink, shared)?,
            };
        }
    }

    /// Sends what is pending; `true` when nothing is left.
    fn flush(&mut self, sink: &mut Side, shared: &mut Shared) -> Result<bool, Fault> {
        match &mut self.pending {
            Pending::Nothing => return Ok(true),
            _ if !sink.writable => return Ok(false),
            Pending::Bytes(tail) => {
                let sent = sent(sink.send(&tail.bytes[tail.sent..]))?;
                let ours = sent.min(tail.uncounted);
                tail.uncounted -= ours;
                tail.sent += sent;
                self.bytes += (sent - ours) as u64;
                if tail.sent < tail.bytes.len() {
                    return Ok(false);
                }
            }
            Pending::Pipe(lent) => {
                let (pipe, left) = &mut **lent;
                let sent = drain(pipe, sink, *left)?;
                *left -= sent;
                self.bytes += sent as u64;
                if *left > 0 {
                    return Ok(false);
                }
            }
        }
        self.release(shared);
        Ok(true)
    }

    fn copy(
        &mut self,
        large: u8,
        source: &mut Side,
        sink: &mut Side,
        shared: &mut Shared,
    ) -> Result<usize, Fault> {
        let len = match source.receive(&mut shared.scratch) {
            Ok(0) => return Ok(0),
            Ok(len) => len,
            Err(error) => {
                return would_block(&error, 0).ok_or_else(|| Fault::Source(Failure::of(&error)));
            }
        };
        let bytes = &shared.scratch[..len];
        let sent = sent(sink.send(bytes))?;
        self.bytes += sent as u64;
        shared.copied += sent as u64;
        if sent < len {
            self.pending = Pending::Bytes(Box::new(Tail {
                bytes: bytes[sent..].into(),
                sent: 0,
                uncounted: 0,
            }));
        }
        self.mode = if len < LARGE_READ {
            Mode::Copy(0)
        } else if large + 1 < LARGE_READS {
            Mode::Copy(large + 1)
        } else {
            Mode::Splice(0)
        };
        Ok(len)
    }

    fn splice(
        &mut self,
        small: u8,
        source: &mut Side,
        sink: &mut Side,
        shared: &mut Shared,
    ) -> Result<usize, Fault> {
        let Some(pipe) = shared.pipes.borrow() else {
            self.mode = Mode::Copy(0);
            return Ok(0);
        };
        let len = match pipe.fill(source.tcp()) {
            Ok(len) => len,
            Err(error) => {
                shared.pipes.give_back(pipe);
                source.readable &= error.kind() != io::ErrorKind::WouldBlock;
                return would_block(&error, 0).ok_or_else(|| Fault::Source(Failure::of(&error)));
            }
        };
        if len == 0 {
            shared.pipes.give_back(pipe);
            source.ended = true;
            return Ok(0);
        }
        self.mode = if len >= SMALL_PASS {
            Mode::Splice(0)
        } else if small + 1 < SMALL_PASSES {
            Mode::Splice(small + 1)
        } else {
            Mode::Copy(0)
        };
        let sent = match drain(&pipe, sink, len) {
            Ok(sent) => sent,
            Err(fault) => {
                shared.pipes.lose(pipe);
                return Err(fault);
            }
        };
        self.bytes += sent as u64;
        shared.spliced += sent as u64;
        if sent < len {
            self.pending = Pending::Pipe(Box::new((pipe, len - sent)));
        } else {
            shared.pipes.give_back(pipe);
        }
        Ok(len)
    }

    fn is_bulk(&self) -> bool {
        matches!(self.mode, Mode::Splice(_))
    }

    fn is_through(&self) -> bool {
        self.state != State::Open && matches!(self.pending, Pending::Nothing)
    }

    fn release(&mut self, shared: &mut Shared) {
        if let Pending::Pipe(lent) = std::mem::take(&mut self.pending) {
            let (pipe, left) = *lent;
            match left {
                0 => shared.pipes.give_back(pipe),
                _ => shared.pipes.lose(pipe),
            }
        }
    }
}

// === impl Mode ===

impl Default for Mode {
    fn default() -> Self {
        Self::Copy(0)
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            pipes: Pipes::new(),
            copied: 0,
            spliced: 0,
        }
    }

    /// Bytes that sessions have moved since they were last counted.
    pub(crate) fn moved(&self) -> u64 {
        self.copied + self.spliced
    }
}

// === impl Failure ===

impl Failure {
    /// What an error of a socket says of its peer.
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable,
            NotConnected, TimedOut,
        };
        match error.kind() {
            ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => Self::Reset,
            TimedOut | HostUnreachable | NetworkUnreachable => Self::Unreachable,
            _ => Self::Local,
        }
    }
}

enum Fault {
    Source(Failure),
    Sink(Failure),
}

// === impl Fault ===

impl Fault {
    fn blame(self, source: Which, sink: Which) -> Turn {
        match self {
            Self::Source(failure) => Turn::Failed(source, failure),
            Self::Sink(failure) => Turn::Failed(sink, failure),
        }
    }
}

fn sent(result: io::Result<usize>) -> Result<usize, Fault> {
    result.or_else(|error| would_block(&error, 0).ok_or_else(|| Fault::Sink(Failure::of(&error))))
}

/// Splices from the pipe until it is empty or the sink is full.
fn drain(pipe: &Pipe, sink: &mut Side, len: usize) -> Result<usize, Fault> {
    let mut moved = 0;
    sink.before_send();
    while moved < len {
        match pipe.drain(sink.tcp(), len - moved) {
            Ok(some) if some > 0 => moved += some,
            Ok(_) => return Err(Fault::Sink(Failure::Local)),
            Err(error) => {
                would_block(&error, ()).ok_or_else(|| Fault::Sink(Failure::of(&error)))?;
                sink.writable = false;
                break;
            }
        }
    }
    Ok(moved)
}

fn would_block<T>(error: &io::Error, value: T) -> Option<T> {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted).then_some(value)
}

/// Halves the cost of bulk against 16 KiB; one a thread, so its size costs nothing a session.
const SCRATCH_BYTES: usize = 64 * 1024;
/// A read that fills the buffer smells of bulk; two in a row are bulk.
const LARGE_READ: usize = SCRATCH_BYTES;
const LARGE_READS: u8 = 2;
/// A stream of bulk that runs dry is still one: copying what comes next would cost half as much again.
/// But a trickle is cheaper to copy, and two passes as small as this are one.
const SMALL_PASS: usize = 16 * 1024;
const SMALL_PASSES: u8 = 2;
/// What a stream may move before the others have their turn. Less costs more: of 64 streams, each does
/// little at a time and wakes both its peers for it; with a quarter of this, a gigabyte costs half as
/// much again.
pub(crate) const TURN_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
