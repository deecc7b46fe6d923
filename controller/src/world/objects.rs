//! The objects that are watched, by kind.

use std::sync::Arc;

use fairlead_api::{
    export::ExportRecord, mcs::ServiceImport, member::MemberCluster, proxy::ProxyGroup,
    service::MultiClusterService,
};
use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::convert;

/// An object of one of the kinds that are watched.
#[derive(Debug, Clone)]
pub enum Object {
    /// A member.
    Member(Box<MemberCluster>),
    /// An export.
    Export(Box<ExportRecord>),
    /// A mirrored slice.
    Slice(Box<EndpointSlice>),
    /// A proxy group.
    Group(Box<ProxyGroup>),
    /// A policy.
    Service(Box<MultiClusterService>),
    /// An import on the hub.
    Import(Box<ServiceImport>),
}

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "see Object")]
pub enum Kind {
    Member,
    Export,
    Slice,
    Group,
    Service,
    Import,
}

/// `(namespace, name)` of a hub object.
pub type ObjectKey = (Arc<str>, Arc<str>);

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Member(_) => Kind::Member,
            Self::Export(_) => Kind::Export,
            Self::Slice(_) => Kind::Slice,
            Self::Group(_) => Kind::Group,
            Self::Service(_) => Kind::Service,
            Self::Import(_) => Kind::Import,
        }
    }

    /// Its resourceVersion.
    pub fn version(&self) -> u64 {
        convert::version(self.metadata())
    }

    fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Member(object) => &object.metadata,
            Self::Export(object) => &object.metadata,
            Self::Slice(object) => &object.metadata,
            Self::Group(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::Import(object) => &object.metadata,
        }
    }

    /// Its namespace (empty where none) and name.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        (namespace.into(), name.into())
    }
}

macro_rules! into_object {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$variant(Box::new(object))
            }
        })*
    };
}

into_object!(
    MemberCluster => Member,
    ExportRecord => Export,
    EndpointSlice => Slice,
    ProxyGroup => Group,
    MultiClusterService => Service,
    ServiceImport => Import
);
