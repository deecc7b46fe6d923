//! The task that runs a server's controllers.

use super::garbage::{Graph, Owner, Place};
use super::{aggregation, garbage};
use crate::core::Core;
use crate::server::Controllers;
use crate::store::{Event, Lost, Range};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

mod call;
mod collect;
mod namespace;

use call::Caller;

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
        core,
        switches,
        ca_pem,
        graph: Graph::default(),
        work: Work::default(),
        terminating: BTreeSet::new(),
    };
    stop.run_until_cancelled(manager.run()).await;
}

/// The state of one server's controllers.
struct Manager {
    core: Arc<Core>,
    caller: Caller,
    switches: Controllers,
    ca_pem: Arc<str>,
    graph: Graph,
    work: Work,
    /// Namespaces being deleted, looked at again whenever something in them goes.
    terminating: BTreeSet<String>,
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
}

// === impl Manager ===

impl Manager {
    async fn run(&mut self) {
        loop {
            let from = self.core.store.revision();
            let mut feed = self.core.store.feed(from);
            self.load();
            self.work_off().await;
            // Only a reader that was overrun has lost its place; it then lists again.
            while let Ok(events) = feed.next().await {
                for (table, event) in &events {
                    self.observe(table, event);
                }
                self.work_off().await;
            }
        }
    }

    /// Looks at everything that is there.
    fn load(&mut self) {
        self.graph.clear();
        self.terminating.clear();
        self.work.aggregate = self.switches.cluster_roles;
        for resource in self.core.registry.all() {
            let listing: Result<_, Lost> =
                self.core
                    .store
                    .list(&resource.table, &Range::default(), &|object| {
                        &*resource.table == NAMESPACES || object.contains(OWNERS)
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
                if self.switches.garbage_collection
                    && self.graph.observe(&place, Owner::parse_all(&value))
                {
                    self.work.object(place);
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
        if event.deleted && self.terminating.contains(namespace) {
            self.work.namespaces.insert(namespace.to_owned());
        }
        match &**table {
            NAMESPACES => {
                let name = place.key.name();
                if event.deleted {
                    self.terminating.remove(name);
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
            _ => {}
        }
        if self.switches.garbage_collection {
            self.observe_owners(place, event);
        }
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

    async fn work_off(&mut self) {
        for namespace in std::mem::take(&mut self.work.furnish) {
            self.furnish(&namespace).await;
        }
        if std::mem::take(&mut self.work.aggregate) {
            self.aggregate().await;
        }
        while let Some(place) = self.work.next_object() {
            self.collect(&place).await;
        }
        for namespace in std::mem::take(&mut self.work.namespaces) {
            self.empty(&namespace).await;
        }
    }

    /// Rewrites the ClusterRoles whose aggregated rules have changed.
    async fn aggregate(&self) {
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
                self.caller.aggregate(name, &rules).await;
            }
        }
    }
}

const NAMESPACES: &str = "namespaces";
const OWNERS: &str = "\"ownerReferences\":";
