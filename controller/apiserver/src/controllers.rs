//! The controllers every cluster has: bootstrap, namespaces, garbage collection, aggregation.

pub(crate) mod aggregation;
pub(crate) mod bootstrap;
