//! The load: servers behind the proxies and the clients in front of them, one process each.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod tap;

mod alarm;
mod bulk;
mod connections;
mod datagrams;
mod requests;
