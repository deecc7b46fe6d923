//! proxy

pub mod access_log;
pub mod admin;
pub mod app;
pub mod balancer;
pub mod connect;
pub mod control;
pub mod directory;
pub mod dns;
pub mod health;
pub(crate) mod keyed_hash;
pub mod limits;
pub mod metrics;
pub mod proxy_protocol;
pub mod registry;
pub mod settings;
pub mod sni;
pub mod sockets;
pub mod source;
pub mod sys;
pub mod tcp;
pub mod udp;
pub mod upgrade;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
