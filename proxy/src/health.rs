//! Whether endpoints can take sessions.
pub mod times;
