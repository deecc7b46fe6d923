//! A configuration file that is read again when it changes.
//!
//! The folder is watched, not the file: an editor renames a new file over the old one, and a
//! ConfigMap swaps the symlink `..data` beside it. A write in place is read when its writer closes
//! the file, or when the file has not changed for [`SETTLED`]; so a file that is being written is not
//! read half. A file that is bad, gone or refused by the [`guard`] changes nothing.
//!
//! [`Settling`] decides when to read, [`judge`] what becomes of what was read; [`FileSource`] does
//! it. Cost: one stat every 5 s besides what the kernel reports.

use std::{ffi::OsStr, sync::Arc, time::Duration};

use fairlead_config::yaml;
use fairlead_runtime::clock::Tick;

use super::{Refusal, RefusalKind, guard};

mod io;

pub use io::FileSource;

/// What the kernel says of a name in the watched folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A writer closed it, or another file was renamed to it: it is whole.
    Complete,
    /// It was written to, created, removed or renamed away: more may follow.
    Begun,
    /// Events were lost, or the folder itself changed: anything may have happened.
    Unknown,
}

/// When a file is due to be read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    due: Option<Tick>,
}

/// What was read and in force.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What the file says.
    pub file: Arc<yaml::File>,
    /// The bytes that said it, hashed; equal bytes need no second look.
    pub digest: u64,
}

/// What becomes of bytes that were read.
#[derive(Debug, Clone)]
pub enum Judgement {
    /// The bytes in force, once more.
    Unchanged,
    /// They take force.
    Accept(Arc<yaml::File>),
    /// They don't.
    Refuse(Refusal),
}

// === impl Settling ===

impl Settling {
    /// Takes note of a change.
    pub fn note(&mut self, change: Change, now: Tick) {
        self.due = match change {
            Change::Complete | Change::Unknown => Some(now),
            Change::Begun => Some(now + SETTLED),
        };
    }

    /// When to read, if anything has changed since the last read.
    pub fn due(&self) -> Option<Tick> {
        self.due
    }

    /// Whether to read now; if so, forgets what was noted.
    pub fn take(&mut self, now: Tick) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
        }
        due
    }
}

/// Whether a change of `name` in its folder can change the file `watched`: itself, or the symlink
/// that Kubernetes swaps.
pub fn concerns(name: &OsStr, watched: &OsStr) -> bool {
    name == watched || name == DATA_LINK
}

/// Judges bytes that were read at `path` against what is in force; `confirmed` waives the guard.
pub fn judge(path: &str, bytes: &[u8], digest: u64, old: &Accepted, confirmed: bool) -> Judgement {
    if digest == old.digest && !confirmed {
        return Judgement::Unchanged;
    }
    let file = match yaml::parse(bytes) {
        Ok(file) => file,
        Err(problems) => return Judgement::Refuse(Refusal::of_file(path, &problems)),
    };
    if confirmed || file.settings.allow_mass_removal {
        return Judgement::Accept(Arc::new(file));
    }
    match guard::check(&old.file.snapshot, &file.snapshot) {
        Ok(()) => Judgement::Accept(Arc::new(file)),
        Err(refused) => Judgement::Refuse(Refusal::new(
            RefusalKind::MassRemoval,
            path,
            refused.to_string(),
        )),
    }
}

/// How long a file that is being written must have stood still.
pub const SETTLED: Duration = Duration::from_millis(50);
/// What the kubelet renames a new symlink to, beside each file of a ConfigMap.
const DATA_LINK: &str = "..data";

#[cfg(test)]
mod tests;
