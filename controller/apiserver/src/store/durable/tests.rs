//! What survives when the plug is pulled.

use super::*;
use crate::store::{Range, Scope};
use futures::FutureExt as _;
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use serde_json::json;
use std::io::Error;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk in memory that knows what was synced, counts syncs, and can hold one up.
#[derive(Debug, Clone, Default)]
struct Plug(Arc<Device>);

#[derive(Debug, Default)]
struct Device {
    content: Mutex<Content>,
    gate: Mutex<Gate>,
    moved: Condvar,
    /// No sync succeeds.
    broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Content {
    current: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync: at a power cut each sector of them may be on the disk or not.
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: usize,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Syncs that may pass although it is closed.
    passes: usize,
    /// A sync is waiting at the gate.
    waiting: bool,
}

impl Plug {
    /// What the disk holds after the power was cut now: all that was synced, and any part of the
    /// rest, sector by sector.
    fn cut(&self, mut keeps: impl FnMut() -> bool) -> Self {
        let content = self.0.content.lock();
        let mut left = content.synced.clone();
        if left.len() < content.current.len() {
            left.resize(content.current.len(), 0);
        }
        for (offset, bytes) in &content.unsynced {
            for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                let start = offset + at * SECTOR;
                if keeps() && start + sector.len() <= left.len() {
                    left[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        let after = Content {
            current: left.clone(),
            synced: left,
            ..Content::default()
        };
        Self(Arc::new(Device {
            content: Mutex::new(after),
            ..Device::default()
        }))
    }

    fn syncs(&self) -> usize {
        self.0.content.lock().syncs
    }

    fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
    }

    /// Lets the sync that waits at the gate through, and no other.
    fn let_one_pass(&self) {
        self.0.gate.lock().passes = 1;
        self.0.moved.notify_all();
    }

    fn close_gate(&self) {
        self.0.gate.lock().closed = true;
    }

    fn open_gate(&self) {
        self.0.gate.lock().closed = false;
        self.0.moved.notify_all();
    }

    fn await_sync(&self) {
        let mut gate = self.0.gate.lock();
        let patience = std::time::Duration::from_secs(20);
        let late = self
            .0
            .moved
            .wait_while_for(&mut gate, |gate| !gate.waiting, patience);
        assert!(!late.timed_out(), "a commit syncs");
    }
}

impl StorageBackend for Plug {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.content.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.content.lock().current[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0
            .content
            .lock()
            .current
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut gate = self.0.gate.lock();
        gate.waiting = gate.closed;
        self.0.moved.notify_all();
        while gate.closed && gate.passes == 0 {
            self.0.moved.wait(&mut gate);
        }
        gate.passes = 0;
        gate.waiting = false;
        if self.0.broken.load(Ordering::SeqCst) {
            return Err(Error::other("the disk is broken"));
        }
        let mut content = self.0.content.lock();
        content.syncs += 1;
        content.synced = content.current.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut content = self.0.content.lock();
        let start = usize::try_from(offset).unwrap();
        content.current[start..start + data.len()].copy_from_slice(data);
        content.unsynced.push((start, data.to_vec()));
        Ok(())
    }
}

const SECTOR: usize = 512;
const TABLE: &str = "configmaps";

fn put(name: &str, value: u64, expected: Option<u64>) -> Write {
    let object = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "data": {"n": value.to_string()}});
    Write {
        table: TABLE.into(),
        key: Key::new("blue", name),
        expected,
        change: Change::Put(Draft::new(
            &object,
            vec![("status.phase".into(), "Active".into())],
        )),
    }
}

fn delete(name: &str, expected: u64) -> Write {
    let object = json!({"metadata": {"name": name}});
    Write {
        table: TABLE.into(),
        key: Key::new("blue", name),
        expected: Some(expected),
        change: Change::Delete(Draft::new(&object, Vec::new())),
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

fn open(plug: &Plug) -> Store {
    Store::open_backend(plug.clone(), Limits::default()).expect("the disk holds a store or nothing")
}

/// Names, revisions and texts of everything in the store.
fn dump(store: &Store) -> Vec<(String, u64, String)> {
    let listing = store.list(TABLE, &Range::default(), &|_| true).unwrap();
    listing
        .objects
        .iter()
        .map(|object| {
            let value = object.value(b"{");
            (
                object.key().as_str().to_owned(),
                object.revision(),
                value["data"]["n"].to_string(),
            )
        })
        .collect()
}

#[test]
fn a_restart_goes_on_where_the_server_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects");
    let store = Store::open(&path, Limits::default()).unwrap();
    let first = block(store.commit(put("a", 1, None))).unwrap();
    block(store.commit(put("a", 2, Some(first.revision())))).unwrap();
    let gone = block(store.commit(put("b", 3, None))).unwrap();
    block(store.commit(delete("b", gone.revision()))).unwrap();
    let (before, revision) = (dump(&store), store.revision());
    assert!(
        Store::open(&path, Limits::default()).is_err(),
        "one process has the file"
    );
    drop(store);
    let store = Store::open(&path, Limits::default()).unwrap();
    assert_eq!((dump(&store), store.revision()), (before, revision));
    let object = store.read(TABLE, &Key::new("blue", "a")).unwrap();
    assert_eq!(
        (object.label("app"), object.field("status.phase")),
        (Some("web"), "Active")
    );
    let table: Arc<str> = TABLE.into();
    assert!(
        store.watch(&table, Scope::All, revision - 1).is_err(),
        "earlier history is gone"
    );
    assert!(
        store
            .list(
                TABLE,
                &Range {
                    at: Some(revision - 1),
                    ..Range::default()
                },
                &|_| true
            )
            .is_err()
    );
    let mut watcher = store.watch(&table, Scope::All, revision).unwrap();
    let next = block(store.commit(put("c", 4, None))).unwrap();
    assert_eq!(next.revision(), revision + 1);
    assert_eq!(watcher.take().unwrap().events.len(), 1);
}

#[test]
fn nobody_sees_a_change_before_it_is_synced() {
    let plug = Plug::default();
    let store = open(&plug);
    let before = store.revision();
    plug.close_gate();
    let writer = store.clone();
    let write = std::thread::spawn(move || block(writer.commit(put("a", 1, None))));
    plug.await_sync();
    assert!(!write.is_finished(), "not acknowledged");
    assert_eq!(
        (store.revision(), dump(&store)),
        (before, Vec::new()),
        "not visible"
    );
    let after_cut = open(&plug.cut(|| true));
    assert!(dump(&after_cut).len() <= 1);
    plug.open_gate();
    let object = write.join().unwrap().unwrap();
    assert_eq!(store.revision(), object.revision());
}

#[test]
fn each_acknowledged_write_was_synced_and_a_group_shares_its_sync() {
    let plug = Plug::default();
    let store = open(&plug);
    for value in 0..10 {
        let before = plug.syncs();
        block(store.commit(put(&format!("one-{value}"), value, None))).unwrap();
        assert!(plug.syncs() > before, "acknowledged after a sync");
    }
    plug.close_gate();
    let first = {
        let store = store.clone();
        std::thread::spawn(move || block(store.commit(put("first", 0, None))))
    };
    plug.await_sync();
    let before = plug.syncs();
    let many: Vec<_> = (0..100)
        .map(|value| {
            let store = store.clone();
            std::thread::spawn(move || {
                block(store.commit(put(&format!("many-{value}"), value, None)))
            })
        })
        .collect();
    // While the first sync is held up, all others queue behind it.
    while store.queued() < 100 {
        std::thread::yield_now();
    }
    plug.open_gate();
    first.join().unwrap().unwrap();
    for write in many {
        write.join().unwrap().unwrap();
    }
    let syncs = plug.syncs() - before;
    assert!(syncs <= 10, "101 writes took {syncs} syncs");
}

#[test]
fn a_disk_that_failed_once_takes_no_more_writes_and_is_read_on() {
    let plug = Plug::default();
    let store = open(&plug);
    block(store.commit(put("a", 1, None))).unwrap();
    let (before, revision) = (dump(&store), store.revision());
    let mut watcher = store.watch(&TABLE.into(), Scope::All, revision).unwrap();
    plug.set_broken(true);
    let lost = block(store.commit(put("b", 2, None)));
    assert_eq!(lost.unwrap_err(), Refused::Failed);
    // What the disk holds by now nobody knows.
    plug.set_broken(false);
    let late = block(store.commit(put("c", 3, None)));
    assert_eq!(late.unwrap_err(), Refused::Failed);
    assert_eq!((dump(&store), store.revision()), (before, revision));
    assert!(watcher.take().unwrap().events.is_empty());
}

#[test]
fn who_lost_hears_it_only_when_the_winner_can_be_read() {
    let plug = Plug::default();
    let store = open(&plug);
    plug.close_gate();
    let mut first = Box::pin(store.commit(put("first", 0, None)));
    assert!(first.as_mut().now_or_never().is_none());
    plug.await_sync();
    // These wait behind it, and are the next group.
    let mut winner = Box::pin(store.commit(put("a", 1, None)));
    let mut loser = Box::pin(store.commit(put("a", 2, None)));
    assert!(winner.as_mut().now_or_never().is_none());
    assert!(loser.as_mut().now_or_never().is_none());
    plug.let_one_pass();
    block(first).unwrap();
    plug.await_sync();
    let told = loser.as_mut().now_or_never();
    // A gate that stays closed would hold up a failure as well.
    plug.open_gate();
    assert!(told.is_none(), "nobody can read who won");
    assert_eq!(block(loser).unwrap_err(), Refused::Exists);
    assert!(store.read(TABLE, &Key::new("blue", "a")).is_some());
    block(winner).unwrap();
}

#[test]
fn a_conflict_is_told_once_the_winner_can_be_read() {
    let plug = Plug::default();
    let store = open(&plug);
    let first = block(store.commit(put("a", 1, None))).unwrap().revision();
    let (one, two) = (
        store.commit(put("a", 2, Some(first))),
        store.commit(put("a", 3, Some(first))),
    );
    let (one, two) = block(futures::future::join(one, two));
    let winner = one.unwrap().revision();
    assert_eq!(two.unwrap_err(), Refused::Modified(winner));
    assert_eq!(
        store
            .read(TABLE, &Key::new("blue", "a"))
            .unwrap()
            .revision(),
        winner
    );
    assert_eq!(
        block(store.commit(put("a", 4, None))).unwrap_err(),
        Refused::Exists
    );
    assert_eq!(
        block(store.commit(delete("z", 1))).unwrap_err(),
        Refused::Missing
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whenever the power goes, whatever of the unsynced sectors reached the disk: what was
    /// acknowledged is there, exactly, and what wasn't is there wholly or not at all.
    #[test]
    fn a_power_cut_loses_no_acknowledged_write(
        steps in prop::collection::vec((0..6_u64, any::<bool>()), 1..30),
        seed in any::<u64>(),
    ) {
        let plug = Plug::default();
        let store = open(&plug);
        let mut state = seed;
        let mut coin = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 63 == 1
        };
        for (value, (name, remove)) in steps.into_iter().enumerate() {
            let name = format!("n{name}");
            let found = store.read(TABLE, &Key::new("blue", &name)).map(|object| object.revision());
            let write = match found {
                Some(revision) if remove => delete(&name, revision),
                found => put(&name, value as u64, found),
            };
            let acknowledged = dump(&store);
            // Cut in the middle of a commit: one more write may be there, never half of one.
            plug.close_gate();
            let writer = store.clone();
            let commit = std::thread::spawn(move || block(writer.commit(write)));
            plug.await_sync();
            let torn = plug.cut(&mut coin);
            plug.open_gate();
            commit.join().unwrap().unwrap();
            let complete = dump(&store);
            let recovered = dump(&open(&torn));
            prop_assert!(
                recovered == acknowledged || recovered == complete,
                "{recovered:?} is neither {acknowledged:?} nor {complete:?}"
            );
            // Cut between commits: exactly what was acknowledged.
            let reopened = open(&plug.cut(&mut coin));
            prop_assert_eq!(dump(&reopened), complete);
            prop_assert_eq!(reopened.revision(), store.revision());
        }
    }
}
