//! Open files: how many there may be, and room for them in the kernel's table before they are needed.
//!
//! Linux doubles a process's table when the next file doesn't fit. In a process of several threads it
//! first waits until every core has been idle or in user space once (`synchronize_rcu`): 5 to 30 ms, in
//! which no thread that needs that file goes on. A data thread that accepts or dials would be one of them, with
//! all its sessions. So the table is made large while there is one thread, and doubled by the control thread,
//! on whose time nothing depends, once half of it is in use; a file that fits waits for no doubling.
//!
//! A slot takes 8 bytes of kernel memory: half a megabyte at the start, and twice what is in use at its most.

use std::{io, os::fd::AsFd, time::Duration};

use fairlead_runtime::clock::Tick;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::fcntl_dupfd_cloexec,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The table of open files as this process has made it.
#[derive(Debug)]
pub(super) struct FileTable {
    slots: usize,
    looked: Tick,
}

// === impl FileTable ===

impl FileTable {
    /// Raises the limit as far as this process may, and makes room for many sessions; waits for nobody
    /// while there is one thread.
    pub(super) fn reserve() -> Self {
        raise_limit();
        let mut table = Self {
            slots: 0,
            looked: Tick::ZERO,
        };
        table.grow(SLOTS_FIRST.min(most()));
        table
    }

    /// Doubles the room when half of it is in use. May wait, so no data thread calls it.
    pub(super) fn keep_room(&mut self, now: Tick) {
        if now - self.looked < LOOKS_APART {
            return;
        }
        self.looked = now;
        // Kernels before 6.2 state no size, and theirs grows when it must.
        let open = std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
        let open = usize::try_from(open).unwrap_or(0);
        if let Some(slots) = wanted(self.slots, open, most()) {
            self.grow(slots);
        }
    }

    /// A failure costs a pause later on, and is no reason to try again and again.
    fn grow(&mut self, slots: usize) {
        self.slots = slots;
        if let Err(error) = open_at(slots.saturating_sub(1)) {
            tracing::debug!(%error, slots, "the table of open files grows when it must");
        }
    }
}

/// How many files may be open.
pub(super) fn most() -> usize {
    let files = getrlimit(Resource::Nofile).current.map(usize::try_from);
    files.and_then(Result::ok).unwrap_or(usize::MAX)
}

fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit of open files stays as it is");
    }
}

/// To how many slots a table should grow.
fn wanted(slots: usize, open: usize, most: usize) -> Option<usize> {
    let twice = open.saturating_mul(2).min(most);
    (twice > slots).then(|| twice.next_power_of_two().min(most))
}

/// Opens something with this number or a higher one, and closes it: tables never shrink.
fn open_at(number: usize) -> io::Result<()> {
    let number = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    let something = eventfd(0, EventfdFlags::CLOEXEC)?;
    drop(fcntl_dupfd_cloexec(something.as_fd(), number)?);
    Ok(())
}

const SLOTS_FIRST: usize = 1 << 16;
const LOOKS_APART: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_doubles_once_half_of_it_is_in_use_up_to_the_limit() {
        assert_eq!(wanted(65_536, 32_768, 1 << 20), None);
        assert_eq!(wanted(65_536, 32_769, 1 << 20), Some(131_072));
        assert_eq!(wanted(65_536, 300_000, 1 << 20), Some(1 << 20));
        assert_eq!(wanted(65_536, 40_000, 70_000), Some(70_000));
        assert_eq!(wanted(70_000, 70_000, 70_000), None);
        assert_eq!(wanted(400, 300, 400), None);
    }

    #[test]
    fn the_kernel_has_the_room_that_was_asked_for() {
        let mut table = FileTable::reserve();
        table.keep_room(Tick::MAX);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let slots = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        let slots: usize = slots.unwrap().trim().parse().unwrap();
        assert!(slots >= SLOTS_FIRST.min(most()), "{slots} slots");
    }
}
