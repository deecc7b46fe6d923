//! The Kubernetes types a fleet is made of, and the CRDs that hold them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`member`] | MemberCluster and what a member reports of itself |
//! | [`export`] | ExportRecord: one export of one member, as the hub sees it |
//! | [`proxy`] | ProxyGroup: proxies that serve the same frontends |
//! | [`service`] | MultiClusterService: frontends and traffic policy of one import |
//! | [`mcs`] | ServiceExport and ServiceImport of the MCS API, both versions |
//! | [`about`] | ClusterProperty of the About API |
//! | [`conditions`] | condition types, reasons, and how a condition list changes |
//! | [`labels`] | labels, annotations, namespaces and names that both sides agree on |
//! | [`mod@crds`] | all CRDs, for `fairlead crds` and the chart |
//!
//! Types only: no client, no clock. Whatever CEL can check is in the schemas.

#![allow(
    unreachable_pub,
    reason = "the schema derive copies each public struct into a function body"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column states its type"
)]

pub mod about;
pub mod conditions;
pub mod crds;
pub mod export;
pub mod labels;
pub mod mcs;
pub mod member;
pub mod proxy;
mod schema;
pub mod service;

pub use crds::crds;
