//! The messages of a hand-over, as JSON: a field more is ignored, a field less has a default, and
//! what can't be understood that way needs a new [`VERSION`]. Pure.

use serde::{Deserialize, Serialize};

use super::{Parcel, SocketRow};
use crate::udp::passing::FlowRow;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Message {
    /// The taker's first word: the versions that it speaks.
    Hello {
        /// Any of these will do.
        versions: Vec<u16>,
        /// Its build, for the giver's log.
        #[serde(default)]
        build: String,
    },
    /// The giver won't.
    Refuse {
        /// What to do about it, for the taker's log.
        reason: String,
    },
    /// The giver will, in so many batches.
    Begin {
        /// What both speak.
        version: u16,
        /// How many follow.
        batches: u32,
    },
    /// Sockets, in the order of the descriptors with this message.
    Sockets {
        /// From 0.
        batch: u32,
        /// What they are for.
        sockets: Vec<SocketRow>,
    },
    /// Something learned.
    Learned {
        /// From 0.
        batch: u32,
        /// What.
        parcel: Parcel,
    },
    /// The taker holds this batch.
    Taken {
        /// Which.
        batch: u32,
    },
    /// The taker accepts connections.
    Ready,
    /// Flows, after [`Self::Ready`], in the order of the sockets with this message.
    Flows {
        /// From 0.
        batch: u32,
        /// What they are.
        flows: Vec<FlowRow>,
    },
    /// The giver accepts no more.
    Released,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No such message in any version known here.
    #[error("a message that is not understood")]
    Unknown(#[source] serde_json::Error),
    /// It says so many sockets and brings so many.
    #[error("a message about {said} sockets that brings {brought}")]
    Count {
        /// In the text.
        said: usize,
        /// As descriptors.
        brought: usize,
    },
    /// A right message at the wrong time.
    #[error("{got} where {expected} was expected")]
    Order {
        /// Its name.
        got: &'static str,
        /// What should have come.
        expected: &'static str,
    },
    /// No version in common.
    #[error("the other process speaks hand-over versions {theirs:?}, this one {VERSION}")]
    Version {
        /// What it speaks.
        theirs: Vec<u16>,
    },
}

// === impl Message ===

impl Message {
    /// The taker's first word.
    pub fn hello() -> Self {
        Self::Hello {
            versions: vec![VERSION],
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs of text and numbers")
    }

    /// From what came with `fds` descriptors.
    pub fn decode(bytes: &[u8], fds: usize) -> Result<Self, WireError> {
        let message: Self = serde_json::from_slice(bytes).map_err(WireError::Unknown)?;
        let said = match &message {
            Self::Sockets { sockets, .. } => sockets.len(),
            Self::Flows { flows, .. } => flows.len(),
            _ => 0,
        };
        match said == fds {
            true => Ok(message),
            false => Err(WireError::Count { said, brought: fds }),
        }
    }

    /// Its name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Refuse { .. } => "refuse",
            Self::Begin { .. } => "begin",
            Self::Sockets { .. } => "sockets",
            Self::Learned { .. } => "learned",
            Self::Taken { .. } => "taken",
            Self::Ready => "ready",
            Self::Flows { .. } => "flows",
            Self::Released => "released",
        }
    }

    /// The error of getting this where something else should have come.
    pub fn instead_of(&self, expected: &'static str) -> WireError {
        WireError::Order {
            got: self.name(),
            expected,
        }
    }
}

/// The version to speak with someone who speaks `theirs`.
pub fn agree(theirs: &[u16]) -> Result<u16, WireError> {
    match theirs.contains(&VERSION) {
        true => Ok(VERSION),
        false => Err(WireError::Version {
            theirs: theirs.to_vec(),
        }),
    }
}

/// Raised when older processes could misunderstand.
pub const VERSION: u16 = 1;
/// Text of one parcel.
pub const PARCEL_BYTES_MAX: usize = 48 * 1024;
/// A whole message; below what Unix sockets take in one piece by default (208 KiB).
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
