//! One backend of one member.

use std::{net::SocketAddr, sync::Arc};

use crate::name::MemberName;

/// What identifies an endpoint inside a service: two members may use the same address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// The member it runs in.
    pub member: MemberName,
    /// How it is addressed there.
    pub target: Target,
}

/// An endpoint's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// A name that is resolved again when its TTL ends; it stands for every address it yields.
    Dns {
        /// Lower case, without a trailing dot.
        host: Arc<str>,
        /// Not 0.
        port: u16,
    },
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity in the service.
    pub key: EndpointKey,
    /// 1 to [`ENDPOINT_WEIGHT_MAX`], against the other endpoints of the same member.
    pub weight: u16,
    /// The failure domain inside the member, where known.
    pub zone: Option<Arc<str>>,
    /// What its owner says of it.
    pub state: ObjectState,
    /// How it is reached.
    pub hop: Hop,
}

/// What the objects in its cluster say about an endpoint. Probes have their own say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ObjectState {
    /// Takes new sessions.
    #[default]
    Ready,
    /// Not ready; takes nothing.
    NotReady,
    /// Terminating but still serving: no new sessions unless nothing else in the member is ready.
    Draining,
}

/// How an endpoint is reached. Parsing admits only `Direct` today.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hop {
    /// Dial its address.
    #[default]
    Direct,
    /// Dial a gateway that forwards to it.
    Via(Box<Gateway>),
}

/// A gateway that forwards to endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub addr: SocketAddr,
    /// The name that selects the service at it.
    pub server_name: Arc<str>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Addr(addr) => write!(out, "{addr}"),
            Self::Dns { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

/// Weights of endpoints in a member.
pub const ENDPOINT_WEIGHT_MAX: u16 = 1000;
