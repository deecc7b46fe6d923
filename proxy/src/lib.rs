//! proxy

pub mod access_log;
pub mod limits;
pub mod metrics;
pub mod proxy_protocol;
pub mod sni;

#[cfg(test)]
pub(crate) mod testing;
