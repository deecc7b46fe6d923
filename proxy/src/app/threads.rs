//! The data threads as the process sees them.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{sys::slice, tcp::Fleet};

/// Running data threads.
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    lost: mpsc::Receiver<String>,
}

// === impl Threads ===

impl Threads {
    /// Starts all of `fleet`.
    pub(super) fn start(fleet: &Arc<Fleet>, seed: u64) -> io::Result<Self> {
        let (sender, lost) = mpsc::channel(fleet.threads());
        let handles = (0..fleet.threads()).map(|index| {
            let (fleet, sender) = (fleet.clone(), sender.clone());
            let work = move || {
                run_promptly();
                let run = AssertUnwindSafe(|| fleet.run(index, seed ^ index as u64));
                let failure = match catch_unwind(run) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => format!("thread {index}: {error}"),
                    Err(_) => format!("thread {index} panicked"),
                };
                // Nobody listens any more when the process is on its way out.
                let _leaving = sender.blocking_send(failure);
            };
            std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(work)
        });
        Ok(Self {
            handles: handles.collect::<io::Result<_>>()?,
            lost,
        })
    }

    /// Waits until one is lost, and says why.
    pub(super) async fn lost(&mut self) -> String {
        match self.lost.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended.
    pub(super) fn join(&mut self) {
        for handle in self.handles.drain(..) {
            // A panic was told by `lost` already.
            let _panicked = handle.join();
        }
    }
}

/// A data thread that is woken waits for nobody to finish a turn, neither the control thread, which may
/// work on a configuration for a second, nor whatever else runs on this host.
fn run_promptly() {
    if let Err(error) = slice::ask(SLICE) {
        tracing::debug!(%error, "data threads have turns of ordinary length");
    }
}

/// Random bits that nobody outside can guess: hash tables and draws depend on them.
pub(super) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0_u8)
}

/// The shortest that there is.
const SLICE: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use fairlead_runtime::clock::Clock;

    use super::*;
    use crate::metrics::Metrics;

    /// The slices of this process's data threads.
    fn slices() -> Vec<Option<Duration>> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let data = tasks.filter_map(|task| {
            let task = task.unwrap();
            // Other tests' threads come and go.
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse().ok()?;
            name.starts_with("data-").then_some(id)
        });
        data.filter_map(|id| slice::of(id).ok()).collect()
    }

    #[test]
    fn every_data_thread_asks_for_the_shortest_slice() {
        let caller = slice::of(0).unwrap();
        if caller.is_none() {
            println!("skipped: this kernel knows no slices");
            return;
        }
        assert_ne!(caller, Some(SLICE), "or it would prove nothing");
        let fleet = Fleet::new(3, Metrics::new(3), Clock::system()).unwrap();
        let mut threads = Threads::start(&fleet, 7).unwrap();
        let start = Instant::now();
        loop {
            let slices = slices();
            if slices.len() >= 3 && slices.iter().all(|slice| *slice == Some(SLICE)) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{slices:?}");
            std::thread::yield_now();
        }
        fleet.end();
        threads.join();
        assert_eq!(slice::of(0).unwrap(), caller, "no other thread does");
    }
}
