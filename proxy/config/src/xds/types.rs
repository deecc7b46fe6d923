//! The types of resources that travel over one stream.

use super::{
    chunks,
    proto::{
        Typed, cluster::Cluster, endpoint::ClusterLoadAssignment, fairlead::Import,
        listener::Listener,
    },
};

/// The types served, in the order in which updates are sent; removals go the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names of xDS")]
pub enum Type {
    Cluster,
    /// Endpoints of a member, for clients that ask for them apart from assignments.
    Chunk,
    Assignment,
    Listener,
    Import,
}

impl Type {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Chunk,
        Self::Assignment,
        Self::Listener,
        Self::Import,
    ];

    /// Those that a proxy takes, in order.
    pub const OF_PROXIES: [Self; 4] =
        [Self::Cluster, Self::Chunk, Self::Assignment, Self::Listener];

    /// Its type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => Cluster::URL,
            Self::Chunk => chunks::URL,
            Self::Assignment => ClusterLoadAssignment::URL,
            Self::Listener => Listener::URL,
            Self::Import => Import::URL,
        }
    }

    /// From a type URL.
    pub fn parse(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.url() == url)
    }

    /// What problems call a resource of it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Assignment | Self::Chunk => "endpoints",
            Self::Listener => "listener",
            Self::Import => "import",
        }
    }
}
