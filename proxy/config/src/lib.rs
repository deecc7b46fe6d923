//! proxy/config
