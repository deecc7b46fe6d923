//! proxy/runtime
