//! What only unsafe code can tell.

pub(crate) mod allocation;
