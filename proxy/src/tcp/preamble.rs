//! What a client says before its bytes count: a PROXY header, a TLS hello.
//!
//! Pure: bytes in, verdict out. The header is taken off; the hello is only read and goes on to the
//! endpoint. Both together have one deadline and a limit in bytes, so a slow client costs at most
//! 20 kB for five seconds.

use std::net::SocketAddr;

use fairlead_config::frontend::AcceptedVersions;

use crate::{
    access_log::Reason,
    proxy_protocol::{self, Origin},
    sni,
};

/// What is still to be read.
#[derive(Debug)]
pub(crate) struct Preamble {
    /// Versions accepted, while the header is still to come.
    header: Option<AcceptedVersions>,
    hello: bool,
    bytes: Vec<u8>,
    at_least: usize,
    facts: Facts,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Client and destination as the header states them.
    pub(crate) stated: Option<(SocketAddr, SocketAddr)>,
    /// The server name asked for.
    pub(crate) host: Option<Box<str>>,
}

/// What became of a preamble.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// More bytes are needed.
    Wait,
    /// All is known; these bytes go on to the endpoint.
    Done(Facts, Vec<u8>),
    /// The client is refused.
    Refuse(Reason),
}

// === impl Preamble ===

impl Preamble {
    /// Expects a header of the accepted versions, a hello, or both.
    pub(crate) fn new(header: Option<AcceptedVersions>, hello: bool) -> Self {
        Self {
            header,
            hello,
            bytes: Vec::new(),
            at_least: 0,
            facts: Facts::default(),
        }
    }

    /// Takes the bytes that came.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Verdict {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() < self.at_least {
            return Verdict::Wait;
        }
        if let Some(accepted) = self.header {
            match proxy_protocol::parse(&self.bytes, accepted) {
                Err(_) => return Verdict::Refuse(Reason::ProxyHeaderInvalid),
                Ok(proxy_protocol::Progress::Incomplete { at_least }) => {
                    self.at_least = at_least;
                    return Verdict::Wait;
                }
                Ok(proxy_protocol::Progress::Complete { header, length }) => {
                    if let Origin::Client {
                        source,
                        destination,
                    } = header.origin
                    {
                        self.facts.stated = Some((source, destination));
                    }
                    self.header = None;
                    self.at_least = 0;
                    self.bytes.drain(..length);
                }
            }
        }
        if self.hello {
            match sni::parse(&self.bytes) {
                Err(_) => return Verdict::Refuse(Reason::HelloInvalid),
                Ok(sni::Progress::Incomplete { at_least }) => {
                    self.at_least = at_least;
                    return Verdict::Wait;
                }
                Ok(sni::Progress::Complete { host }) => self.facts.host = host,
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        Verdict::Done(std::mem::take(&mut self.facts), bytes)
    }

    /// Bytes that may be read at a time.
    pub(crate) fn wants(&self) -> usize {
        READ_BYTES
    }
}

/// A whole hello as a rule; a longer one takes several reads.
const READ_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
