//! What tests of several modules share.

mod io;
pub(crate) mod services;
pub(crate) mod sys;

pub(crate) use io::replay_corpus;
pub(crate) use sys::allocation;
