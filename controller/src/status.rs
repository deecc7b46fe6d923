//! What the hub's objects should say, as writes; nothing where they say so already.
//!
//! A write carries the resourceVersion that it was decided on: whoever decided on an old state, a
//! deposed leader above all, is refused by the API server and plans again.

mod exports;
mod imports;
mod services;

use fairlead_api::{
    conditions,
    export::ExportRecordStatus,
    mcs::{ServiceImport, ServiceImportStatus},
    member::MemberClusterStatus,
    proxy::{AllocatedPort, ProxyGroup},
    service::MultiClusterServiceStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub use exports::exports;
pub use imports::{import, import_object};
pub use services::services;

use crate::world::{self, ExportKey, ServiceKey};

/// Something to write on the hub.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// The outcome of an export, on its record.
    Export {
        /// Whose.
        slot: ExportKey,
        /// The record's resourceVersion.
        version: u64,
        /// The whole status.
        status: ExportRecordStatus,
    },
    /// An import, made or changed; its namespace is made when missing.
    Import {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion; 0 makes it.
        version: u64,
        /// Labels, annotations and spec.
        object: Box<ServiceImport>,
    },
    /// The status of an import that exists.
    ImportStatus {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: ServiceImportStatus,
    },
    /// An import that nobody exports any more.
    DeleteImport {
        /// Of what.
        key: ServiceKey,
        /// Its resourceVersion.
        version: u64,
    },
    /// The status of a MultiClusterService.
    Service {
        /// Its namespace and name.
        namespace: String,
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: Box<MultiClusterServiceStatus>,
    },
    /// The ports of a proxy group's frontends.
    GroupPorts {
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// All of them.
        frontends: Vec<AllocatedPort>,
    },
    /// What a group's proxies say: everything in its status but ports.
    GroupProxies {
        /// Its name.
        name: String,
        /// Its resourceVersion; 0: whatever it is.
        version: u64,
        /// The fields.
        status: serde_json::Value,
    },
    /// The status of a member.
    Member {
        /// Its name.
        name: String,
        /// Its resourceVersion.
        version: u64,
        /// The whole status.
        status: Box<MemberClusterStatus>,
    },
}

impl Write {
    /// The resourceVersion that it was decided on.
    pub fn version(&self) -> u64 {
        match self {
            Self::Export { version, .. }
            | Self::Import { version, .. }
            | Self::ImportStatus { version, .. }
            | Self::DeleteImport { version, .. }
            | Self::Service { version, .. }
            | Self::GroupPorts { version, .. }
            | Self::GroupProxies { version, .. }
            | Self::Member { version, .. } => *version,
        }
    }

    /// What is written, for logs and errors.
    pub fn target(&self) -> String {
        match self {
            Self::Export { slot, .. } => format!("ExportRecord {} of {}", slot.object, slot.member),
            Self::Import { key, .. } => format!("ServiceImport {key}"),
            Self::ImportStatus { key, .. } => format!("status of ServiceImport {key}"),
            Self::DeleteImport { key, .. } => format!("removal of ServiceImport {key}"),
            Self::Service {
                namespace, name, ..
            } => format!("status of MultiClusterService {namespace}/{name}"),
            Self::GroupPorts { name, .. } => format!("ports of ProxyGroup {name}"),
            Self::GroupProxies { name, .. } => format!("proxies of ProxyGroup {name}"),
            Self::Member { name, .. } => format!("status of MemberCluster {name}"),
        }
    }
}

/// The ports of a group's frontends.
pub fn group_ports(group: &ProxyGroup, frontends: Vec<AllocatedPort>) -> Option<Write> {
    let have = group.status.as_ref().map(|status| &status.frontends[..]);
    let mut have = have.unwrap_or_default().to_vec();
    have.sort();
    (have != frontends).then(|| Write::GroupPorts {
        name: group.metadata.name.clone().unwrap_or_default(),
        version: world::version(&group.metadata),
        frontends,
    })
}

/// The condition of a type, from a status.
pub fn condition<'c>(all: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions::find(all, kind)
}
