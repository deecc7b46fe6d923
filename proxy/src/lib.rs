//! proxy

pub mod access_log;
pub mod metrics;
