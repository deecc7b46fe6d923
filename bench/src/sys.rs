//! The system calls of the floor and the clients, as safe functions. The only home of `unsafe` in this crate.
#![allow(unsafe_code, reason = "system calls that std and socket2 do not offer")]

pub(crate) mod datagram;
pub(crate) mod epoll;
pub(crate) mod splice;
pub(crate) mod timer;
