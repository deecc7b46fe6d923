//! The task that runs a server's controllers.
//!
//! Everything is judged on the store's present state, and what a change makes doubtful is looked at
//! again when the feed brings that change. A write that lost a race against another one is decided
//! anew at once: the change that won may be none that is looked at.

use super::garbage::{Graph, Place};
use super::{aggregation, garbage};
use crate::core::Core;
use crate::server::Controllers;
use crate::store::{Event, Feed, Key, Lost, Range};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

mod call;
mod collect;
mod namespace;

use call::{Caller, Raced};

/// Runs the controllers that are switched on until `stop`.
pub(crate) async fn run(
    core: Arc<Core>,
    switches: Controllers,
    ca_pem: Arc<str>,
    stop: CancellationToken,
) {
    if switches == Controllers::NONE {
        return;
    }
    let mut manager = Manager {
        caller: Caller::new(Arc::clone(&core)),
        feed: core.store.feed(core.store.revision()),
        core,
        switches,
        ca_pem,
        graph: Graph::default(),
        work: Work::default(),
        terminating: BTreeSet::new(),
        strangers: BTreeSet::new(),
    };
    stop.run_until_cancelled(manager.run()).await;
}

/// The state of one server's controllers.
struct Manager {
    core: Arc<Core>,
    caller: Caller,
    /// What the graph and the sets below have yet to be told of.
    feed: Feed,
    switches: Controllers,
    ca_pem: Arc<str>,
    graph: Graph,
    work: Work,
    /// Namespaces being deleted, looked at again whenever something in them goes.
    terminating: BTreeSet<String>,
    /// Objects with an owner whose kind isn't served, looked at again when other kinds are.
    strangers: BTreeSet<Place>,
}

/// What is to be looked at, each thing once.
#[derive(Debug, Default)]
struct Work {
    objects: VecDeque<Place>,
    queued: BTreeSet<Place>,
    namespaces: BTreeSet<String>,
    furnish: BTreeSet<String>,
    aggregate: bool,
}

/// The next thing to do.
enum Task {
    Furnish(String),
    Aggregate,
    Collect(Place),
    Empty(String),
}

// === impl Work ===

impl Work {
    fn object(&mut self, place: Place) {
        if self.queued.insert(place.clone()) {
            self.objects.push_back(place);
        }
    }

    fn next_object(&mut self) -> Option<Place> {
        let place = self.objects.pop_front()?;
        self.queued.remove(&place);
        Some(place)
    }

    /// Namespaces last: what is in them may be about to go by itself.
    fn next(&mut self) -> Option<Task> {
        if let Some(namespace) = self.furnish.pop_first() {
            return Some(Task::Furnish(namespace));
        }
        if std::mem::take(&mut self.aggregate) {
            return Some(Task::Aggregate);
        }
        if let Some(place) = self.next_object() {
            return Some(Task::Collect(place));
        }
        self.namespaces.pop_first().map(Task::Empty)
    }
}

// === impl Manager ===

impl Manager {
    async fn run(&mut self) {
        loop {
            self.feed = self.core.store.feed(self.core.store.revision());
            self.load();
            // Only a reader that was overrun has lost its place; it then lists again.
            while self.follow().await.is_ok() {}
        }
    }

    /// Does what there is to do, then waits for changes.
    async fn follow(&mut self) -> Result<(), Lost> {
        while let Some(task) = self.work.next() {
            match task {
                Task::Furnish(namespace) => self.furnish(&namespace).await,
                Task::Aggregate => self.aggregate().await,
                Task::Collect(place) => self.collect(&place).await?,
                Task::Empty(namespace) => self.empty(&namespace).await,
            }
        }
        let changes = self.feed.next().await?;
        self.observe_all(&changes);
        Ok(())
    }

    /// Takes note of all changes up to a revision, which the store has reached.
    fn catch_up(&mut self, revision: u64) -> Result<(), Lost> {
        while self.feed.position() < revision {
            let changes = self.feed.take()?;
            self.observe_all(&changes);
        }
        Ok(())
    }

    fn observe_all(&mut self, changes: &[(Arc<str>, Event)]) {
        for (table, event) in changes {
            self.observe(table, event);
        }
    }

    /// Looks at everything that is there.
    fn load(&mut self) {
        self.graph.clear();
        self.terminating.clear();
        self.strangers.clear();
        self.work.aggregate = self.switches.cluster_roles;
        for resource in self.core.registry.all() {
            let listing: Result<_, Lost> =
                self.core
                    .store
                    .list(&resource.table, &Range::default(), &|object| {
                        &*resource.table == NAMESPACES || collect::concerns(object)
                    });
            for object in listing.into_iter().flat_map(|listing| listing.objects) {
                let place = Place {
                    table: Arc::clone(&resource.table),
                    key: object.key().clone(),
                };
                let value = object.value(b"{");
                if &*place.table == NAMESPACES {
                    self.observe_namespace(place.key.name(), &value, true);
                }
                if self.switches.garbage_collection {
                    self.observe_object(place, &value);
                }
            }
        }
    }

    fn observe(&mut self, table: &Arc<str>, event: &Event) {
        let place = Place {
            table: Arc::clone(table),
            key: event.object.key().clone(),
        };
        let namespace = place.key.namespace();
        if self.concerns_namespace(namespace, event) {
            self.work.namespaces.insert(namespace.to_owned());
        }
        match &**table {
            NAMESPACES => {
                let name = place.key.name();
                if event.deleted {
                    // One last look: something may have come in just before.
                    if self.terminating.remove(name) {
                        self.work.namespaces.insert(name.to_owned());
                    }
                } else {
                    let value = event.object.value(b"{");
                    self.observe_namespace(name, &value, event.previous.is_none());
                }
            }
            "serviceaccounts" if event.deleted && place.key.name() == "default" => {
                self.work.furnish.insert(namespace.to_owned());
            }
            "configmaps"
                if event.previous.is_some() && place.key.name() == super::namespaces::ROOT_CA =>
            {
                self.work.furnish.insert(namespace.to_owned());
            }
            "clusterroles.rbac.authorization.k8s.io" => {
                self.work.aggregate = self.switches.cluster_roles
            }
            DEFINITIONS => {
                for place in std::mem::take(&mut self.strangers) {
                    self.work.object(place);
                }
            }
            _ => {}
        }
        if self.switches.garbage_collection {
            self.observe_owners(place, event);
        }
    }

    /// Whether a change is one that a namespace which is being deleted waits for: something in it
    /// goes, or came while the namespace went (a write that was admitted just before).
    fn concerns_namespace(&self, namespace: &str, event: &Event) -> bool {
        if !self.switches.namespaces || namespace.is_empty() {
            return false;
        }
        let came = event.previous.is_none() && !event.deleted;
        let going = self.terminating.contains(namespace);
        let gone = || {
            let key = Key::new("", namespace);
            self.core.store.read(NAMESPACES, &key).is_none()
        };
        (event.deleted && going) || (came && (going || gone()))
    }

    fn observe_namespace(&mut self, name: &str, value: &serde_json::Value, new: bool) {
        if garbage::is_deleting(value) {
            if self.switches.namespaces && self.terminating.insert(name.to_owned()) {
                self.work.namespaces.insert(name.to_owned());
            }
        } else if new {
            self.work.furnish.insert(name.to_owned());
        }
    }

    /// Rewrites the ClusterRoles whose aggregated rules have changed.
    async fn aggregate(&mut self) {
        use crate::kinds::Lookup as _;
        let roles = self.core.list(aggregation::GROUP, "clusterroles", "");
        for role in &roles {
            let Some(rule) = role.get("aggregationRule").filter(|rule| !rule.is_null()) else {
                continue;
            };
            let others: Vec<&serde_json::Value> = roles
                .iter()
                .filter(|other| other["metadata"]["name"] != role["metadata"]["name"])
                .collect();
            let rules = aggregation::aggregated(rule, &others);
            if role.get("rules").unwrap_or(&serde_json::Value::Null) != &rules {
                let name = role["metadata"]["name"].as_str().unwrap_or_default();
                if self.caller.aggregate(name, &rules).await == Raced::Lost {
                    self.work.aggregate = true;
                }
            }
        }
    }
}

const NAMESPACES: &str = "namespaces";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const OWNERS: &str = "\"ownerReferences\":";
