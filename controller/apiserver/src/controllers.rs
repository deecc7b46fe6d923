//! The controllers that every cluster has: what a fresh server holds, namespaces, garbage
//! collection, ClusterRole aggregation.
//!
//! One task for each server reads the store's own feed of changes and hands each to those who are
//! switched on; between changes it sleeps. What a controller does goes through the REST layer as
//! the user `system:apiserver`, so it is defaulted, validated and seen by watchers like any other
//! write. Decisions are in [`aggregation`], [`garbage`] and [`namespaces`]; [`io`] carries them out.

pub(crate) mod aggregation;
pub(crate) mod bootstrap;
pub(crate) mod garbage;
pub(crate) mod io;
pub(crate) mod namespaces;

pub(crate) use io::run;
