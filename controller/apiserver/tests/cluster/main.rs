//! What every cluster does by itself: namespaces, accounts, garbage collection, aggregation, RBAC,
//! and subresources with a kind of their own.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, what fails to unwrap is the finding"
)]

mod controllers;
mod rights;
mod subresources;
mod support;
