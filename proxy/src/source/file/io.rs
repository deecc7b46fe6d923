//! The shell of the file source: inotify, the file, the clock.

use std::{
    ffi::OsString,
    hash::{DefaultHasher, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_config::yaml;
use fairlead_runtime::{clock::Clock, tasks::TaskError};
use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{Accepted, Change, Judgement, Settling, concerns, judge};
use crate::source::{Event, Refusal, RefusalKind};

/// A watched configuration file. Clones share what was last accepted.
#[derive(Clone)]
pub struct FileSource {
    path: PathBuf,
    shown: String,
    clock: Clock,
    accepted: Arc<Mutex<Accepted>>,
}

/// What a stat says; changes whenever the file does, except for writes within one clock tick.
type Fingerprint = (u64, u64, i64, i64, u64);

// === impl FileSource ===

impl FileSource {
    /// Reads and accepts the file; this is what the process starts with.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, Refusal> {
        let shown = path.display().to_string();
        let bytes = read(path).map_err(|error| unreadable(&shown, &error))?;
        let file = yaml::parse(&bytes).map_err(|problems| Refusal::of_file(&shown, &problems))?;
        let accepted = Accepted {
            file: Arc::new(file),
            digest: digest(&bytes),
        };
        Ok(Self {
            path: path.to_owned(),
            shown,
            clock,
            accepted: Arc::new(Mutex::new(accepted)),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in force.
    pub fn current(&self) -> Arc<yaml::File> {
        self.accepted.lock().file.clone()
    }

    /// Yields an event for each change of the file, until `out` closes. A new number on `reload`
    /// (SIGHUP) reads at once and confirms a mass removal. Ends with an error when the folder can't
    /// be watched; may then be started again.
    pub async fn run(
        self,
        mut reload: watch::Receiver<u64>,
        out: mpsc::Sender<Event>,
    ) -> Result<(), TaskError> {
        let name = self.path.file_name().ok_or("the path names no file")?;
        let name = name.to_owned();
        let mut folders = Folders::watch(&self.path)?;
        let mut settling = Settling::default();
        // The file may have changed between the first read and the watch.
        settling.note(Change::Unknown, self.clock.now());
        let mut seen = fingerprint(&self.path);
        let mut poll = tokio::time::interval(POLL);
        loop {
            let due = settling.due();
            let due = due.map(|due| due.since(self.clock.now()));
            let mut confirmed = false;
            tokio::select! {
                changed = reload.changed() => {
                    changed?;
                    confirmed = true;
                }
                change = folders.next(&name) => {
                    if let Some(change) = change? {
                        settling.note(change, self.clock.now());
                    }
                }
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
                _ = poll.tick() => {
                    let found = fingerprint(&self.path);
                    if found != seen && settling.due().is_none() {
                        settling.note(Change::Begun, self.clock.now());
                    }
                }
            }
            let due = settling.take(self.clock.now());
            if !due && !confirmed {
                continue;
            }
            seen = fingerprint(&self.path);
            if let Some(event) = self.read_again(confirmed).await?
                && out.send(event).await.is_err()
            {
                return Ok(());
            }
            folders.follow(&self.path)?;
        }
    }

    /// Reads and judges the file off the runtime's thread, since a large one takes seconds.
    async fn read_again(&self, confirmed: bool) -> Result<Option<Event>, TaskError> {
        let source = self.clone();
        let judgement = tokio::task::spawn_blocking(move || {
            let bytes = match read(&source.path) {
                Ok(bytes) => bytes,
                Err(error) => return Judgement::Refuse(unreadable(&source.shown, &error)),
            };
            let digest = digest(&bytes);
            let old = source.accepted.lock().clone();
            let judgement = judge(&source.shown, &bytes, digest, &old, confirmed);
            if let Judgement::Accept(file) = &judgement {
                let file = file.clone();
                *source.accepted.lock() = Accepted { file, digest };
            }
            judgement
        });
        Ok(match judgement.await? {
            Judgement::Unchanged => None,
            Judgement::Accept(file) => Some(Event::Whole(file)),
            Judgement::Refuse(refusal) => Some(Event::Refused(refusal)),
        })
    }
}

/// The folders in which a change can change the file: its own, and where its symlinks lead.
struct Folders {
    events: EventStream<Vec<u8>>,
    /// The folder of the path as given.
    own: PathBuf,
    /// The file that the path resolves to, when that is in another folder.
    target: Option<PathBuf>,
    target_watch: Option<inotify::WatchDescriptor>,
}

impl Folders {
    fn watch(path: &Path) -> io::Result<Self> {
        let own = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let inotify = Inotify::init()?;
        inotify.watches().add(&own, WATCHED)?;
        let events = inotify.into_event_stream(vec![0; EVENT_BYTES])?;
        let mut folders = Self {
            events,
            own,
            target: None,
            target_watch: None,
        };
        folders.follow(path)?;
        Ok(folders)
    }

    /// Moves the second watch to where the path leads now.
    fn follow(&mut self, path: &Path) -> io::Result<()> {
        let own = self.own.canonicalize()?;
        let target = path
            .canonicalize()
            .ok()
            .filter(|target| target.parent().is_some_and(|parent| parent != own));
        if target == self.target {
            return Ok(());
        }
        let mut watches = self.events.watches();
        if let Some(watch) = self.target_watch.take() {
            // Gone already when the kubelet removed the old folder.
            watches.remove(watch).ok();
        }
        if let Some(parent) = target.as_deref().and_then(Path::parent) {
            self.target_watch = watches.add(parent, WATCHED).ok();
        }
        self.target = target;
        Ok(())
    }

    /// The next change that concerns the file; `None` for one that doesn't.
    async fn next(&mut self, name: &OsString) -> Result<Option<Change>, TaskError> {
        let event = self.events.next().await.ok_or("inotify ended")??;
        let mask = event.mask;
        if mask.contains(EventMask::Q_OVERFLOW) {
            return Ok(Some(Change::Unknown));
        }
        let own = self.target_watch.as_ref() != Some(&event.wd);
        if mask.intersects(EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF) {
            // A ConfigMap's old folder goes with every swap; the file's own folder shouldn't, and
            // whoever starts this task again watches the new one.
            return match own && self.own_is_gone(mask) {
                true => Err("the folder of the configuration file was moved or removed".into()),
                false => Ok(Some(Change::Unknown)),
            };
        }
        let target = self.target.as_deref().and_then(Path::file_name);
        let concerned = event.name.is_some_and(|changed| {
            concerns(&changed, name) || target.is_some_and(|target| concerns(&changed, target))
        });
        let whole = EventMask::CLOSE_WRITE | EventMask::MOVED_TO;
        Ok(concerned.then(|| match mask.intersects(whole) {
            true => Change::Complete,
            false => Change::Begun,
        }))
    }

    /// IGNORED also follows from our own removal of an older second watch.
    fn own_is_gone(&self, mask: EventMask) -> bool {
        mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF) || !self.own.exists()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > yaml::FILE_BYTES_MAX as u64 {
        let limit = yaml::FILE_BYTES_MAX;
        let message = format!("it has {bytes} bytes, {limit} is the limit");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    std::fs::read(path)
}

fn unreadable(path: &str, error: &io::Error) -> Refusal {
    let kind = RefusalKind::Unreadable;
    Refusal::new(kind, path, format!("the file can't be read: {error}"))
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let meta = std::fs::metadata(path).ok()?;
    let (mtime, nanos) = (meta.mtime(), meta.mtime_nsec());
    Some((meta.dev(), meta.ino(), mtime, nanos, meta.len()))
}

/// Not cryptographic: whoever can write the file needs no collision to change it.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

const WATCHED: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::MODIFY)
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// For file systems that report nothing, such as network mounts.
const POLL: Duration = Duration::from_secs(5);
/// A few events with the longest names.
const EVENT_BYTES: usize = 4096;
