//! The store against a shadow model, and tables of its rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const TABLE: &str = "things";

fn draft(value: u8) -> Draft {
    // Odd values carry the label that some watchers select.
    let labels = if value % 2 == 1 {
        json!({"odd": "yes"})
    } else {
        json!({})
    };
    Draft::new(
        &json!({"metadata": {"labels": labels}, "value": value}),
        Vec::new(),
    )
}

fn value(object: &Object) -> u8 {
    let object = object.value(b"{");
    u8::try_from(object["value"].as_u64().unwrap()).unwrap()
}

fn is_odd(object: &Object) -> bool {
    object.label("odd").is_some()
}

fn commit(store: &Store, key: &Key, change: Change) -> Result<u64, Refused> {
    let expected = store.read(TABLE, key).map(|object| object.revision());
    let write = Write {
        table: Arc::from(TABLE),
        key: key.clone(),
        expected,
        change,
    };
    let done = store
        .commit(write)
        .now_or_never()
        .expect("memory answers at once");
    done.map(|object| object.revision())
}

fn put(store: &Store, name: &str, value: u8) -> u64 {
    commit(store, &Key::new("a", name), Change::Put(draft(value))).unwrap()
}

fn table() -> Arc<str> {
    Arc::from(TABLE)
}

// === the model ===

/// Every state that the store went through: what each key held at each revision.
#[derive(Debug, Default)]
struct History(BTreeMap<u64, BTreeMap<Key, u8>>);

impl History {
    fn at(&self, revision: u64) -> BTreeMap<Key, u8> {
        self.0
            .range(..=revision)
            .next_back()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }
}

/// What one client keeps from its lists and watches.
#[derive(Debug)]
struct Client {
    scope: Scope,
    range: Range,
    only_odd: bool,
    cache: BTreeMap<Key, u8>,
    seen: u64,
    watcher: Option<Watcher>,
}

impl Client {
    fn new(namespace: &str, name: Option<&str>, only_odd: bool) -> Self {
        let range = Range {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: name.map(str::to_owned),
            ..Range::default()
        };
        let scope = Scope::new(namespace, name);
        Self {
            scope,
            range,
            only_odd,
            cache: BTreeMap::new(),
            seen: 0,
            watcher: None,
        }
    }

    fn accepts(&self, object: &Object) -> bool {
        !self.only_odd || is_odd(object)
    }

    /// What the model says that this client should hold at a revision.
    fn expected(&self, history: &History, revision: u64) -> BTreeMap<Key, u8> {
        let mut state = history.at(revision);
        state.retain(|key, value| {
            let namespace = self.range.namespace.as_deref();
            namespace.is_none_or(|namespace| key.namespace() == namespace)
                && self
                    .range
                    .name
                    .as_deref()
                    .is_none_or(|name| key.name() == name)
                && (!self.only_odd || *value % 2 == 1)
        });
        state
    }

    fn list(&mut self, store: &Store) {
        let only_odd = self.only_odd;
        let accepts = |object: &Object| !only_odd || is_odd(object);
        let (listing, watcher) =
            store.list_and_watch(&table(), &self.range, self.scope.clone(), &accepts);
        self.cache = listing
            .objects
            .iter()
            .map(|object| (object.key().clone(), value(object)))
            .collect();
        self.seen = listing.revision;
        self.watcher = Some(watcher);
    }

    /// Reads some changes; resumes, or lists again when history is gone.
    fn step(&mut self, store: &Store) {
        if self.watcher.is_none() {
            match store.watch(&table(), self.scope.clone(), self.seen) {
                Ok(watcher) if self.seen > 0 => self.watcher = Some(watcher),
                _ => return self.list(store),
            }
        }
        let taken = self.watcher.as_mut().expect("it was set above").take();
        let Ok(batch) = taken else {
            return self.list(store);
        };
        for event in &batch.events {
            assert!(event.revision > self.seen, "an event came twice");
            self.seen = event.revision;
            let Some((seen, object)) = event.seen(|object| self.accepts(object)) else {
                continue;
            };
            let key = object.key().clone();
            let before = match seen {
                Seen::Deleted => self.cache.remove(&key),
                _ => self.cache.insert(key, value(object)),
            };
            assert_eq!(before.is_some(), seen != Seen::Added, "a phantom: {seen:?}");
        }
        self.seen = batch.through;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, u8),
    Delete(u8, u8),
    Compact(u8),
    Read(usize),
    Disconnect(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..4_u8, any::<u8>()).prop_map(|(ns, name, value)| Step::Put(ns, name, value)),
        3 => (0..3_u8, 0..4_u8).prop_map(|(ns, name)| Step::Delete(ns, name)),
        1 => any::<u8>().prop_map(Step::Compact),
        5 => (0..6_usize).prop_map(Step::Read),
        1 => (0..6_usize).prop_map(Step::Disconnect),
    ]
}

fn key(namespace: u8, name: u8) -> Key {
    // Names around the separator: `a-b/x` lies between `a/…` only in naive orders.
    let namespace = ["a", "a-b", "b"][usize::from(namespace)];
    Key::new(namespace, &format!("n{name}"))
}

proptest! {
    /// Whatever the order of writes, reads, reconnects and compactions, and however short the
    /// history: at each revision that a client has read to, it holds what the store held then.
    #[test]
    fn every_client_holds_the_state_of_the_revision_it_has_read_to(
        steps in prop::collection::vec(step(), 1..200),
        history_events_max in 1..24_usize,
    ) {
        let store = Store::new(Limits { history_events_max, ..Limits::default() });
        let mut history = History::default();
        let mut clients = [
            Client::new("", None, false),
            Client::new("", None, true),
            Client::new("a", None, false),
            Client::new("a-b", None, true),
            Client::new("b", Some("n1"), false),
            Client::new("a", Some("n2"), true),
        ];
        for step in steps {
            match step {
                Step::Put(ns, name, value) => {
                    let key = key(ns, name);
                    let revision = commit(&store, &key, Change::Put(draft(value))).unwrap();
                    let mut state = history.at(revision);
                    state.insert(key, value);
                    history.0.insert(revision, state);
                }
                Step::Delete(ns, name) => {
                    let key = key(ns, name);
                    if let Some(object) = store.read(TABLE, &key) {
                        let revision = commit(&store, &key, Change::Delete(object.draft())).unwrap();
                        let mut state = history.at(revision);
                        state.remove(&key);
                        history.0.insert(revision, state);
                    }
                }
                Step::Compact(share) => {
                    store.compact(store.revision() * u64::from(share) / 255);
                }
                Step::Disconnect(client) => clients[client].watcher = None,
                Step::Read(client) => {
                    let client = &mut clients[client];
                    client.step(&store);
                    prop_assert_eq!(&client.cache, &client.expected(&history, client.seen));
                }
            }
        }
        for client in &mut clients {
            client.step(&store);
            prop_assert_eq!(client.seen, store.revision());
            prop_assert_eq!(&client.cache, &client.expected(&history, client.seen));
        }
        for revision in 1..=store.revision() {
            let range = Range { at: Some(revision), ..Range::default() };
            if let Ok(listing) = store.list(TABLE, &range, &|_| true) {
                let listed: BTreeMap<_, _> =
                    listing.objects.iter().map(|o| (o.key().clone(), value(o))).collect();
                prop_assert_eq!(listed, history.at(revision), "listed at {}", revision);
            }
        }
    }
}

// === tables ===

#[test]
fn a_write_is_refused_unless_the_object_is_what_it_was_decided_on() {
    let store = Store::default();
    let key = Key::new("a", "one");
    let attempt = |expected, change| {
        let write = Write {
            table: table(),
            key: key.clone(),
            expected,
            change,
        };
        store
            .commit(write)
            .now_or_never()
            .unwrap()
            .map(|object| object.revision())
    };
    assert_eq!(
        attempt(Some(7), Change::Put(draft(1))),
        Err(Refused::Missing)
    );
    let first = attempt(None, Change::Put(draft(1))).unwrap();
    assert_eq!(attempt(None, Change::Put(draft(2))), Err(Refused::Exists));
    assert_eq!(
        attempt(Some(first + 1), Change::Put(draft(2))),
        Err(Refused::Modified(first))
    );
    let second = attempt(Some(first), Change::Put(draft(2))).unwrap();
    assert_eq!(second, first + 1);
    assert_eq!(
        attempt(Some(first), Change::Delete(draft(2))),
        Err(Refused::Modified(second))
    );
    let third = attempt(Some(second), Change::Delete(draft(2))).unwrap();
    assert_eq!(third, second + 1);
    assert!(store.read(TABLE, &key).is_none());
    assert_eq!(store.table_revision(TABLE), third);
}

#[test]
fn keys_are_listed_in_the_order_of_their_bytes() {
    let store = Store::default();
    for (namespace, name) in [("b", "x"), ("a", "y"), ("a-b", "x"), ("a", "x")] {
        commit(&store, &Key::new(namespace, name), Change::Put(draft(0))).unwrap();
    }
    let names = |range: &Range| -> Vec<String> {
        let listing = store.list(TABLE, range, &|_| true).unwrap();
        listing
            .objects
            .iter()
            .map(|object| object.key().as_str().to_owned())
            .collect()
    };
    assert_eq!(names(&Range::default()), ["a-b/x", "a/x", "a/y", "b/x"]);
    let of = |namespace: &str| Range {
        namespace: Some(namespace.to_owned()),
        ..Range::default()
    };
    assert_eq!(names(&of("a")), ["a/x", "a/y"]);
    let after = Range {
        after: Some(Key::new("a", "x")),
        ..of("a")
    };
    assert_eq!(names(&after), ["a/y"]);
    let page = Range {
        limit: Some(2),
        ..Range::default()
    };
    let listing = store.list(TABLE, &page, &|_| true).unwrap();
    assert_eq!((listing.objects.len(), listing.remaining), (2, 2));
}

#[test]
fn history_before_a_compaction_is_gone() {
    let store = Store::default();
    let first = put(&store, "one", 1);
    let second = put(&store, "one", 2);
    let watch = |from| store.watch(&table(), Scope::All, from).map(|_| ());
    assert_eq!(watch(first), Ok(()));
    store.compact(second);
    assert_eq!(
        watch(first),
        Err(Lost {
            asked: first,
            floor: second
        })
    );
    assert_eq!(watch(second), Ok(()));
    let at = |at| {
        store.list(
            TABLE,
            &Range {
                at: Some(at),
                ..Range::default()
            },
            &|_| true,
        )
    };
    assert!(at(first).is_err());
    assert_eq!(at(second).unwrap().objects.len(), 1);
    // A table without a change of its own has lost its history too.
    assert!(
        store
            .watch(&Arc::from("others"), Scope::All, first)
            .is_err()
    );
}

#[test]
fn a_watcher_is_lost_only_by_changes_of_its_own_scope() {
    let limits = Limits {
        history_events_max: 4,
        ..Limits::default()
    };
    let store = Store::new(limits);
    put(&store, "one", 1);
    let from = store.revision();
    let watch = |scope| store.watch(&table(), scope, from).unwrap();
    let mut all = watch(Scope::All);
    let mut one = watch(Scope::new("a", Some("one")));
    for value in 0..10 {
        commit(&store, &Key::new("b", "busy"), Change::Put(draft(value))).unwrap();
    }
    assert!(all.take().is_err());
    assert_eq!(store.lost_watchers(), 1);
    put(&store, "one", 3);
    let batch = one.take().unwrap();
    assert_eq!(batch.events.len(), 1);
    assert_eq!(batch.through, store.revision());
}

#[tokio::test]
async fn a_waiting_watcher_is_woken_by_its_scope_and_no_other() {
    let store = Store::default();
    let mut watcher = store.watch(&table(), Scope::new("a", None), 0).unwrap();
    let mut next = polled(async move { watcher.next().await.unwrap().events.len() });
    assert!(next.poll_once().is_none());
    commit(&store, &Key::new("b", "x"), Change::Put(draft(0))).unwrap();
    assert!(!next.is_woken(), "another namespace's change");
    put(&store, "x", 1);
    assert!(next.is_woken());
    assert_eq!(next.poll_once(), Some(1));
}

#[test]
fn a_reader_far_behind_gets_each_change_once_in_several_batches() {
    let store = Store::default();
    let start = store.revision();
    let mut watcher = store.watch(&table(), Scope::All, start).unwrap();
    let mut feed = store.feed(start);
    let written: Vec<u64> = (0..600)
        .map(|at| put(&store, &format!("n{at}"), 1))
        .collect();
    let mut heard = Vec::new();
    loop {
        let batch = watcher.take().unwrap();
        if batch.events.is_empty() {
            break;
        }
        assert!(batch.events.last().unwrap().revision <= batch.through);
        heard.extend(batch.events.iter().map(|event| event.revision));
    }
    assert_eq!(heard, written);
    let mut fed = Vec::new();
    loop {
        let events = feed.take().unwrap();
        if events.is_empty() {
            break;
        }
        fed.extend(events.iter().map(|(_, event)| event.revision));
    }
    assert_eq!(fed, written);
}

#[test]
fn history_is_bounded_in_bytes_too() {
    let limits = Limits {
        history_bytes_max: 1,
        ..Limits::default()
    };
    let store = Store::new(limits);
    let start = store.revision();
    let mut watcher = store.watch(&table(), Scope::All, start).unwrap();
    put(&store, "one", 1);
    // A creation supersedes nothing, so it takes no room.
    assert_eq!(watcher.take().unwrap().events.len(), 1);
    put(&store, "one", 2);
    assert!(
        watcher.take().is_err(),
        "what was superseded is more than a byte"
    );
}

#[test]
fn a_scope_that_nobody_watches_any_more_is_forgotten() {
    let store = Store::default();
    let scopes = || store.0.state.read().tables[TABLE].scopes();
    let one = || {
        store
            .watch(&table(), Scope::new("a", Some("one")), 0)
            .unwrap()
    };
    let (first, second) = (one(), one());
    let all = store.watch(&table(), Scope::All, 0).unwrap();
    assert_eq!(scopes(), 2);
    drop(first);
    assert_eq!(scopes(), 2);
    drop((second, all));
    assert_eq!(scopes(), 0);
}

#[test]
fn a_feed_gives_every_table_in_one_order() {
    let store = Store::default();
    let mut feed = store.feed(store.revision());
    for index in 0..3_u8 {
        put(&store, "one", index);
        let key = Key::new("", "other");
        let expected = store.read("others", &key).map(|object| object.revision());
        let change = Change::Put(draft(index));
        let write = Write {
            table: Arc::from("others"),
            key,
            expected,
            change,
        };
        store.commit(write).now_or_never().unwrap().unwrap();
    }
    let events = feed.next().now_or_never().unwrap().unwrap();
    let revisions: Vec<_> = events.iter().map(|(_, event)| event.revision).collect();
    assert_eq!(revisions, (2..=7).collect::<Vec<_>>());
    let tables: Vec<_> = events.iter().map(|(table, _)| &**table).collect();
    assert_eq!(
        tables,
        ["things", "others", "things", "others", "things", "others"]
    );
    assert!(feed.next().now_or_never().is_none());
}

#[test]
fn the_form_in_the_store_prints_as_the_object_it_came_from() {
    let object = json!({
        "kind": "Thing", "apiVersion": "v1",
        "metadata": {"name": "one", "resourceVersion": "9", "labels": {"a": "b"}},
        "spec": {"x": [1, null, "\u{1F600}"]},
    });
    let stored = Object::new(Key::new("", "one"), 12, Draft::new(&object, Vec::new()));
    let head = b"{\"kind\":\"Thing\",\"apiVersion\":\"v1\",";
    let mut expected = object;
    expected["metadata"]["resourceVersion"] = json!("12");
    assert_eq!(stored.value(head), expected);
    let bare = Object::new(Key::new("", "one"), 3, Draft::new(&json!({}), Vec::new()));
    assert_eq!(
        bare.value(b"{"),
        json!({"metadata": {"resourceVersion": "3"}})
    );
}

// === a future polled by hand ===

struct Polled<F> {
    future: std::pin::Pin<Box<F>>,
    woken: Arc<Flag>,
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn polled<F: Future>(future: F) -> Polled<F> {
    Polled {
        future: Box::pin(future),
        woken: Arc::default(),
    }
}

impl<F: Future> Polled<F> {
    fn poll_once(&mut self) -> Option<F::Output> {
        let waker = Arc::clone(&self.woken).into();
        let mut context = std::task::Context::from_waker(&waker);
        match self.future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst)
    }
}
