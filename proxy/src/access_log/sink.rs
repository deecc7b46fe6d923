//! Where access log lines go: a bounded buffer per data thread, one writer thread a destination.
//!
//! A data thread appends to its own buffer under its own mutex, which only the writer ever takes
//! besides it, for the time of a pointer swap. It never waits for the disk: a line that finds its
//! buffer full is dropped and counted. Lines of one thread stay in order; those of several threads
//! may interleave by up to [`COALESCE`].

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, Thread},
    time::Duration,
};

use fairlead_config::policy::AccessLog;
use parking_lot::Mutex;

use super::{Record, write_line};
use crate::metrics::{Counter, Metrics};

/// Every destination that some service logs to.
#[derive(Debug)]
pub struct Sinks {
    threads: usize,
    metrics: Arc<Metrics>,
    open: Mutex<BTreeMap<Arc<str>, Arc<Sink>>>,
}

/// One destination.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    thread: Thread,
}

/// A destination that can't be written to.
#[derive(Debug, thiserror::Error)]
#[error("access log {path}: cannot be opened for appending")]
pub struct SinkError {
    /// The file.
    pub path: Arc<str>,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

#[derive(Debug)]
struct Shared {
    shards: Box<[Mutex<Vec<u8>>]>,
    metrics: Arc<Metrics>,
    /// The writer sleeps; whoever appends first wakes it.
    asleep: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
}

enum Output {
    Stdout,
    File { path: Arc<str>, file: File },
}

// === impl Sinks ===

impl Sinks {
    /// None open yet; `threads` data threads will write.
    pub fn new(threads: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            threads: threads.max(1),
            metrics,
            open: Mutex::default(),
        }
    }

    /// The sink for `destination`, opened at its first use; `None` where logging is off.
    pub fn sink(&self, destination: &AccessLog) -> Result<Option<Arc<Sink>>, SinkError> {
        let path = match destination {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Arc::from(STDOUT),
            AccessLog::File(path) => Arc::clone(path),
        };
        let mut open = self.open.lock();
        if let Some(sink) = open.get(&path) {
            return Ok(Some(Arc::clone(sink)));
        }
        let output = match destination {
            AccessLog::File(path) => Output::file(path)?,
            _ => Output::Stdout,
        };
        let sink = Arc::new(Sink::new(self.threads, Arc::clone(&self.metrics), output));
        open.insert(path, Arc::clone(&sink));
        Ok(Some(sink))
    }

    /// Opens every file anew, after a rotation.
    pub fn reopen(&self) {
        self.close_unused();
        for sink in self.open.lock().values() {
            sink.shared.reopen.store(true, Ordering::Release);
            sink.thread.unpark();
        }
    }

    /// Closes the files that nothing else holds any more.
    pub fn close_unused(&self) {
        self.open
            .lock()
            .retain(|_, sink| Arc::strong_count(sink) > 1);
    }
}

// === impl Sink ===

impl Sink {
    fn new(threads: usize, metrics: Arc<Metrics>, output: Output) -> Self {
        let shared = Arc::new(Shared {
            shards: (0..threads).map(|_| Mutex::default()).collect(),
            metrics,
            asleep: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || run(&for_writer, output))
            .expect("a process that can start its data threads can start this one");
        Self {
            shared,
            thread: writer.thread().clone(),
            writer: Mutex::new(Some(writer)),
        }
    }

    /// Appends the line of `record` to the buffer of data thread `thread`. Never blocks on I/O: a
    /// full buffer ([`BUFFER_BYTES_MAX`]) drops the line.
    pub fn append(&self, thread: usize, record: &Record) {
        let shared = &*self.shared;
        let mut buffer = shared.shards[thread % shared.shards.len()].lock();
        if buffer.len() >= BUFFER_BYTES_MAX {
            shared.metrics.process.access_log_dropped.inc();
            return;
        }
        write_line(record, &mut buffer);
        buffer.push(b'\n');
        drop(buffer);
        shared.metrics.process.access_log_lines.inc();
        if shared.asleep.swap(false, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(writer) = self.writer.lock().take() {
            // The writer's panic, if it had one, has been printed; there is nobody left to tell.
            drop(writer.join());
        }
    }
}

// === impl Output ===

impl Output {
    fn file(path: &Arc<str>) -> Result<Self, SinkError> {
        let open = OpenOptions::new().create(true).append(true).open(&**path);
        let file = open.map_err(|source| SinkError {
            path: Arc::clone(path),
            source,
        })?;
        Ok(Self::File {
            path: Arc::clone(path),
            file,
        })
    }

    fn reopen(&mut self) {
        let Self::File { path, .. } = self else {
            return;
        };
        match Self::file(path) {
            Ok(new) => *self = new,
            Err(error) => {
                tracing::warn!(error = %error.source, path = %error.path, "access log not reopened");
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }
}

/// The writer thread: takes what the data threads wrote until told to stop, and then once more.
fn run(shared: &Shared, mut output: Output) {
    let mut spare = Vec::new();
    let mut failing = false;
    loop {
        let stopping = shared.stop.load(Ordering::Acquire);
        if shared.reopen.swap(false, Ordering::AcqRel) {
            output.reopen();
        }
        let mut idle = true;
        for shard in &shared.shards {
            spare.clear();
            std::mem::swap(&mut *shard.lock(), &mut spare);
            if spare.is_empty() {
                continue;
            }
            idle = false;
            failing = write_out(shared, &mut output, &spare, failing);
        }
        if stopping && idle {
            return;
        }
        if idle {
            shared.asleep.store(true, Ordering::Release);
            // Whatever was appended before the flag was up is seen here, not slept over.
            if shared.shards.iter().all(|shard| shard.lock().is_empty())
                && !shared.stop.load(Ordering::Acquire)
            {
                std::thread::park();
            }
            shared.asleep.store(false, Ordering::Release);
        } else if !stopping {
            std::thread::park_timeout(COALESCE);
        }
    }
}

/// Writes; says so once when it starts to fail. Returns whether it failed.
fn write_out(shared: &Shared, output: &mut Output, bytes: &[u8], failing: bool) -> bool {
    match output.write(bytes) {
        Ok(()) => false,
        Err(error) => {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            let dropped: &Counter = &shared.metrics.process.access_log_dropped;
            dropped.add(lines as u64);
            if !failing {
                tracing::warn!(%error, lines, "access log cannot be written; its lines are lost");
            }
            true
        }
    }
}

/// Bytes a data thread may have waiting: about 3,000 lines.
pub const BUFFER_BYTES_MAX: usize = 1 << 20;
/// How long the writer lets lines gather, so that a busy proxy costs it 50 writes a second.
pub const COALESCE: Duration = Duration::from_millis(20);

/// No file path: those are checked not to be empty.
const STDOUT: &str = "";

#[cfg(test)]
mod tests {
    use super::{super::tests::record, *};

    #[test]
    fn every_appended_line_is_in_the_file_once_the_sink_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<str> = folder.path().join("access").to_str().unwrap().into();
        let metrics = Metrics::new(2);
        let sinks = Sinks::new(2, Arc::clone(&metrics));
        let sink = sinks
            .sink(&AccessLog::File(Arc::clone(&path)))
            .unwrap()
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let sink = &sink;
                scope.spawn(move || (0..500).for_each(|_| sink.append(thread, &record())));
            }
        });
        drop(sink);
        sinks.close_unused();
        let text = std::fs::read_to_string(&*path).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert!(text.lines().all(|line| line.ends_with('}')));
        assert_eq!(metrics.process.access_log_lines.value(), 1000);
        assert_eq!(metrics.process.access_log_dropped.value(), 0);
    }

    #[test]
    fn a_full_buffer_drops_the_newest_line_and_counts_it() {
        let metrics = Metrics::new(1);
        let path: Arc<str> = "/dev/null".into();
        let output = Output::file(&path).unwrap();
        let sink = Sink::new(1, Arc::clone(&metrics), output);
        // The writer may empty the buffer in between; then it is filled again.
        let full = vec![b'x'; BUFFER_BYTES_MAX];
        while metrics.process.access_log_dropped.value() == 0 {
            sink.shared.shards[0].lock().clone_from(&full);
            sink.append(0, &record());
        }
        assert_eq!(metrics.process.access_log_dropped.value(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_names_itself() {
        let sinks = Sinks::new(1, Metrics::new(1));
        let error = sinks
            .sink(&AccessLog::File("/proc/no/such".into()))
            .unwrap_err();
        assert!(error.to_string().contains("/proc/no/such"));
    }

    #[test]
    fn a_rotated_file_is_written_anew_after_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<str> = folder.path().join("access").to_str().unwrap().into();
        let sinks = Sinks::new(1, Metrics::new(1));
        let destination = AccessLog::File(Arc::clone(&path));
        let sink = sinks.sink(&destination).unwrap().unwrap();
        std::fs::rename(&*path, folder.path().join("old")).unwrap();
        sinks.reopen();
        while !std::fs::exists(&*path).unwrap() {
            std::thread::yield_now();
        }
        sink.append(0, &record());
        drop(sink);
        sinks.close_unused();
        assert_eq!(std::fs::read_to_string(&*path).unwrap().lines().count(), 1);
    }
}
