//! How soon a thread runs once it is woken.
//!
//! Linux (from 6.12 on) lets a thread that runs finish its slice before one that was just woken has its
//! turn: a millisecond or more, four where the clock ticks at 250 Hz, and a higher priority (nice)
//! changes nothing about it. Only a thread whose own slice is shorter doesn't wait. Asking for a short
//! one gives no more time than the nice value does, only earlier, and needs no privilege.

#![allow(
    unsafe_code,
    reason = "sched_getattr and sched_setattr, which no safe crate has"
)]

use std::{io, time::Duration};

/// Asks for slices of this length (0.1 to 100 ms) for the calling thread and what it starts. A thread
/// of another class than the ordinary ones stays as it is; a kernel before 6.12 takes no notice.
pub fn ask(length: Duration) -> io::Result<()> {
    let mut attributes = attributes(CALLER)?;
    let class = attributes.sched_policy.cast_signed();
    if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&class) {
        return Ok(());
    }
    attributes.sched_runtime = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the pointer is to a whole structure of the size that it states, which outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, CALLER, &raw const attributes, 0) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The slice of a thread of this host; none where the kernel states none.
#[cfg(test)]
pub(crate) fn of(thread: libc::pid_t) -> io::Result<Option<Duration>> {
    let nanos = attributes(thread)?.sched_runtime;
    Ok((nanos > 0).then(|| Duration::from_nanos(nanos)))
}

fn attributes(thread: libc::pid_t) -> io::Result<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let to = &raw mut attributes;
    // SAFETY: the pointer is to a structure of `SIZE` bytes, of which the kernel writes no more.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, to, SIZE, 0) };
    match got {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The calling thread, as the kernel names it.
const CALLER: libc::pid_t = 0;
/// The first version of the structure, which every kernel knows.
const SIZE: u32 = size_of::<libc::sched_attr>() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_its_slice_and_keeps_its_priority() {
        let asked = Duration::from_micros(300);
        let (before, after) = std::thread::spawn(move || {
            let before = attributes(CALLER).unwrap();
            ask(asked).unwrap();
            (before, attributes(CALLER).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        // Kernels that know no slices state none.
        if before.sched_runtime > 0 {
            assert_eq!(u128::from(after.sched_runtime), asked.as_nanos());
        }
        let other = attributes(CALLER).unwrap();
        assert_eq!(
            other.sched_runtime, before.sched_runtime,
            "others stay as they are"
        );
    }
}
