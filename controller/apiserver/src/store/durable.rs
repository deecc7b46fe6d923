//! The store on disk: every acknowledged change survives `kill -9` and the loss of power.
//!
//! One thread owns the database. It takes the writes that have queued up, decides them in order,
//! makes them safe in one transaction that ends with one `fdatasync` (so the queue that builds up
//! during a sync is the next group), then shows them to readers and watchers, then answers. Nobody
//! ever sees a change that could still be lost.
//!
//! After a restart the objects and their revisions are as before; the history of changes is not
//! kept, so watches and lists from earlier revisions get `410 Gone` and start over.
//!
//! When the disk fails, the writes of that group and all later ones are refused; reading goes on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::{
    Change, Draft, Key, Limits, Object, Refused, Shared, State, Store, Table, Write, check,
};

/// The way from writers to the thread that owns the database.
#[derive(Debug)]
pub(super) struct Disk {
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Pending {
    write: Write,
    /// The object in its stored form, with room for the revision.
    bytes: Vec<u8>,
    reply: oneshot::Sender<Result<Arc<Object>, Refused>>,
}

/// The database could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the database {path}")]
    Open {
        path: PathBuf,
        source: redb::DatabaseError,
    },
    #[error("cannot read the database {path}")]
    Read { path: PathBuf, source: redb::Error },
    #[error("the database {path} holds an object that this version cannot read: {key}")]
    Content { path: PathBuf, key: String },
    #[error("cannot start the thread that writes to {path}")]
    Thread {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Store {
    /// Opens a store on disk, or makes an empty one.
    ///
    /// # Errors
    /// When the file can't be opened (another process has it, say) or isn't a store.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let database = Database::create(path).map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::load(database, path, limits)
    }

    /// The same on anything that can hold bytes, for tests that pull the plug.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_backend(backend: impl StorageBackend, limits: Limits) -> Result<Self, OpenError> {
        let path = Path::new("(a storage backend)");
        let database = Database::builder()
            .create_with_backend(backend)
            .map_err(|source| OpenError::Open {
                path: path.to_owned(),
                source,
            })?;
        Self::load(database, path, limits)
    }

    /// Writes that wait for the thread.
    #[cfg(test)]
    fn queued(&self) -> usize {
        let queue = self.1.as_ref().and_then(|disk| disk.queue.lock().clone());
        queue.map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    fn load(database: Database, path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let state = read(&database, path)?;
        let shared = Arc::new(Shared::new(state, limits));
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            database,
            shared: Arc::clone(&shared),
            failed: false,
        };
        let thread = std::thread::Builder::new()
            .name("apiserver-store".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|source| OpenError::Thread {
                path: path.to_owned(),
                source,
            })?;
        let disk = Disk {
            queue: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self(shared, Some(Arc::new(disk))))
    }
}

// === impl Disk ===

impl Disk {
    pub(super) async fn commit(&self, write: Write) -> Result<Arc<Object>, Refused> {
        let mut bytes = Vec::new();
        if let Change::Put(draft) = &write.change {
            bytes.extend_from_slice(&[0; REVISION_LEN]);
            draft.encode(&mut bytes);
        }
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.lock().clone().ok_or(Refused::Failed)?;
        let pending = Pending {
            write,
            bytes,
            reply,
        };
        queue.send(pending).await.map_err(|_| Refused::Failed)?;
        answer.await.unwrap_or(Err(Refused::Failed))
    }

    /// Takes no more writes, and waits until those that are queued are answered and the file is
    /// free for whoever opens it next.
    pub(super) fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that owns the database.
struct Writer {
    database: Database,
    shared: Arc<Shared>,
    /// The disk has failed: what it holds is no longer known, so nothing more is written.
    failed: bool,
}

/// A write that may take place, and its revision.
struct Decided {
    pending: Pending,
    revision: u64,
}

// === impl Writer ===

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Pending>) {
        let (mut decided, refused) = decide(&self.shared, group);
        if !decided.is_empty() {
            let result = if self.failed {
                Err(None)
            } else {
                self.save(&mut decided).map_err(Some)
            };
            match result {
                Ok(()) => show(&self.shared, decided),
                Err(error) => {
                    if let Some(error) = error {
                        tracing::error!(%error, "the store cannot write any more; restart the server");
                    }
                    self.failed = true;
                    for Decided { pending, .. } in decided {
                        drop(pending.reply.send(Err(Refused::Failed)));
                    }
                }
            }
        }
        // Only now is the state that refused them one that their clients can read.
        for (pending, why) in refused {
            drop(pending.reply.send(Err(why)));
        }
    }

    fn save(&self, decided: &mut [Decided]) -> Result<(), redb::Error> {
        // A transaction is durable when its commit returns: that is the library's default.
        let transaction = self.database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for Decided { pending, revision } in decided.iter_mut() {
                let key = disk_key(&pending.write.table, &pending.write.key);
                match pending.write.change {
                    Change::Put(_) => {
                        pending.bytes[..REVISION_LEN].copy_from_slice(&revision.to_le_bytes());
                        objects.insert(key.as_str(), pending.bytes.as_slice())?;
                    }
                    Change::Delete(_) => {
                        objects.remove(key.as_str())?;
                    }
                }
            }
            let last = decided.last().map_or(0, |decided| decided.revision);
            transaction.open_table(META)?.insert(REVISION, last)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Which writes of a group take place, each judged on the state that those before it leave.
fn decide(shared: &Shared, group: Vec<Pending>) -> (Vec<Decided>, Vec<(Pending, Refused)>) {
    let state = shared.state.read();
    let mut revision = state.revision;
    let mut ahead: HashMap<(Arc<str>, Key), Option<u64>> = HashMap::new();
    let (mut decided, mut refused) = (Vec::new(), Vec::new());
    for pending in group {
        let write = &pending.write;
        let place = (Arc::clone(&write.table), write.key.clone());
        let found = match ahead.get(&place) {
            Some(found) => *found,
            None => {
                let table = state.tables.get(&write.table);
                table
                    .and_then(|table| table.objects.get(&write.key))
                    .map(|object| object.revision)
            }
        };
        match check(write.expected, found) {
            Err(why) => refused.push((pending, why)),
            Ok(()) => {
                revision += 1;
                let there = matches!(write.change, Change::Put(_)).then_some(revision);
                ahead.insert(place, there);
                decided.push(Decided { pending, revision });
            }
        }
    }
    (decided, refused)
}

/// Makes a group of safe changes visible, and answers.
fn show(shared: &Shared, decided: Vec<Decided>) {
    let mut answers = Vec::with_capacity(decided.len());
    {
        let mut state = shared.state.write();
        for Decided { pending, revision } in decided {
            let Pending { write, reply, .. } = pending;
            answers.push((reply, state.put(write, revision, &shared.limits)));
        }
    }
    shared.changed.notify_waiters();
    for (reply, object) in answers {
        // The client may be gone; its change stands.
        drop(reply.send(Ok(object)));
    }
}

fn read(database: &Database, path: &Path) -> Result<State, OpenError> {
    let fault = |source: redb::Error| OpenError::Read {
        path: path.to_owned(),
        source,
    };
    let mut state = State {
        revision: 1,
        ..State::default()
    };
    let transaction = database.begin_read().map_err(|error| fault(error.into()))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(state),
        Err(error) => return Err(fault(error.into())),
    };
    let revision = meta.get(REVISION).map_err(|error| fault(error.into()))?;
    state.revision = revision.map_or(1, |revision| revision.value());
    // What happened before is not in the file: clients that want it must list again.
    state.compacted = state.revision;
    let objects = transaction
        .open_table(OBJECTS)
        .map_err(|error| fault(error.into()))?;
    for entry in objects.iter().map_err(|error| fault(error.into()))? {
        let (key, value) = entry.map_err(|error| fault(error.into()))?;
        load_object(&mut state, key.value(), value.value()).ok_or_else(|| OpenError::Content {
            path: path.to_owned(),
            key: key.value().to_owned(),
        })?;
    }
    Ok(state)
}

fn load_object(state: &mut State, key: &str, value: &[u8]) -> Option<()> {
    let (table, key) = key.split_once(SEPARATOR)?;
    let (revision, draft) = value.split_first_chunk::<REVISION_LEN>()?;
    let draft = Draft::decode(draft)?;
    let key = Key::from_text(key);
    let object = Arc::new(Object::new(
        key.clone(),
        u64::from_le_bytes(*revision),
        draft,
    ));
    let compacted = state.compacted;
    let table = match state.tables.get_mut(table) {
        Some(table) => table,
        None => state
            .tables
            .entry(Arc::from(table))
            .or_insert_with(|| Table::new(compacted)),
    };
    table.last = compacted;
    table.objects.insert(key, object);
    Some(())
}

fn disk_key(table: &str, key: &Key) -> String {
    format!("{table}{SEPARATOR}{}", key.as_str())
}

const OBJECTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// Between table and key: in neither of them.
const SEPARATOR: char = '\u{1f}';
const REVISION_LEN: usize = 8;
/// Writes made safe together; more wait for the next group.
const GROUP_MAX: usize = 1024;
/// Writes that may wait; further writers wait for room.
const QUEUE_MAX: usize = 4096;

#[cfg(test)]
mod tests;
