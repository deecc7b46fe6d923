//! TCP sessions.
mod leg;
mod pipes;
mod relay;
mod slab;
mod wheel;
