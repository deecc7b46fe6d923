//! A member's agent: sees its cluster, mirrors it to the hub, renews its heartbeat.

use std::time::Duration;

use fairlead_api::labels;
use fairlead_config::name::MemberName;
use fairlead_controller::{
    agent::{
        exports::{self, Member, Write},
        local::{Kind as LocalKind, Local, Object as Observed},
        restored::HubStore,
    },
    world::{Kind, Object},
};
use fairlead_runtime::clock::Tick;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::json;

use crate::{
    store::{Seen, Store},
    truth::{Cluster, from},
};

/// A process; a crash is a new one.
pub(crate) struct Agent {
    name: MemberName,
    local: Local,
    /// Whether its watch on its own cluster runs, and whether it ever did.
    sees: bool,
    known: bool,
    /// The version of the slice that it has seen.
    version: u64,
    /// How far it has seen the hub; `None`: it has to list.
    hub: Option<u64>,
    /// When it lists again.
    again: Tick,
    store: HubStore,
    /// The generation of the store that it listed last, and in which nothing was missing.
    listed: u64,
    heartbeat: Tick,
    reported: Option<String>,
}

impl Agent {
    pub(crate) fn start(cluster: &Cluster, now: Tick) -> Self {
        Self {
            name: cluster.name.clone(),
            local: Local::default(),
            sees: false,
            known: false,
            version: 0,
            hub: None,
            again: now,
            store: HubStore::default(),
            listed: 0,
            heartbeat: now,
            reported: None,
        }
    }

    /// Whether the hub has been told of its cluster as it stands.
    pub(crate) fn has_told(&self, cluster: &Cluster) -> bool {
        self.sees && cluster.link && self.version == cluster.version
    }

    /// Its watch on the hub broke; it tries again in a while.
    pub(crate) fn loses_watch(&mut self, again: Tick) {
        (self.hub, self.again) = (None, again);
    }

    pub(crate) fn step(&mut self, cluster: &Cluster, store: &mut Store, now: Tick) {
        match (cluster.api, self.sees) {
            (true, false) => self.list_cluster(cluster),
            (true, true) if self.version == cluster.version => {}
            (true, true) => {
                self.version = cluster.version;
                self.local.apply(Observed::Slice(Box::new(cluster.slice())));
            }
            (false, _) => self.sees = false,
        }
        if !cluster.link {
            // A watch that breaks begins with a list again.
            self.hub = None;
            return;
        }
        self.renew(store, now);
        if self.hub.is_some() || now >= self.again {
            self.watch_hub(store);
        }
        // What has not been seen once is not gone.
        if !self.known {
            return;
        }
        let written = self.write(store, now);
        if !written && self.listed == self.store.generation {
            self.report(store);
        }
    }

    fn list_cluster(&mut self, cluster: &Cluster) {
        (self.sees, self.known) = (true, true);
        self.version = cluster.version;
        let service = from(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "ports": [
                    { "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" },
                    { "name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP" },
                ],
                "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7"],
                "ipFamilies": ["IPv4"],
                "type": "ClusterIP",
            },
        }));
        let export = from(json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1",
            "kind": "ServiceExport",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {},
        }));
        let slice = Observed::Slice(Box::new(cluster.slice()));
        let service = Observed::Service(Box::new(service));
        let export = Observed::Export(Box::new(export));
        self.local.reset(LocalKind::Service, vec![service]);
        self.local.reset(LocalKind::Export, vec![export]);
        self.local.reset(LocalKind::Slice, vec![slice]);
    }

    fn renew(&mut self, store: &mut Store, now: Tick) {
        if now < self.heartbeat {
            return;
        }
        self.heartbeat = now.after(HEARTBEAT);
        let (version, epoch) = store.renew(&self.name);
        if self.store.heartbeat(version, epoch) {
            self.hub = None;
        }
    }

    fn watch_hub(&mut self, store: &Store) {
        let namespace = labels::member_namespace(self.name.as_str());
        let theirs = |object: &Object| *object.key().0 == *namespace;
        match self.hub {
            None => {
                let all = |kind| {
                    store
                        .list(kind)
                        .into_iter()
                        .filter(theirs)
                        .filter_map(observed)
                };
                self.local
                    .reset(LocalKind::Record, all(Kind::Export).collect());
                self.local
                    .reset(LocalKind::Mirror, all(Kind::Slice).collect());
                self.listed = self.store.generation;
            }
            Some(from) => {
                for seen in store.since(from) {
                    match seen {
                        Seen::Apply(object) if theirs(object) => {
                            observed(object.clone())
                                .into_iter()
                                .for_each(|one| self.local.apply(one));
                        }
                        Seen::Delete(object) if theirs(object) => {
                            observed(object.clone())
                                .iter()
                                .for_each(|one| self.local.delete(one));
                        }
                        _ => {}
                    }
                }
            }
        }
        // A watch never goes back: on a restored store it waits.
        self.hub = Some(self.hub.unwrap_or(0).max(store.revision));
    }

    /// Makes what is missing; whether anything was.
    fn write(&mut self, store: &mut Store, now: Tick) -> bool {
        let second = i64::try_from(now.since(Tick::ZERO).as_secs()).unwrap();
        let member = Member {
            name: self.name.to_string(),
            now: Time(Timestamp::from_second(1_800_000_000 + second).unwrap()),
        };
        let mut any = false;
        for key in self.local.take_dirty() {
            for write in exports::plan(&self.local, &member, &key) {
                any = true;
                self.carry_out(store, write);
            }
        }
        any
    }

    fn carry_out(&mut self, store: &mut Store, write: Write) {
        let namespace = labels::member_namespace(self.name.as_str());
        match write {
            Write::PutRecord(mut record) => {
                record.metadata.namespace = Some(namespace);
                let made = store.put((*record).into());
                observed(made)
                    .into_iter()
                    .for_each(|one| self.local.apply(one));
            }
            Write::PutMirror(mut mirror) => {
                mirror.metadata.namespace = Some(namespace);
                let made = store.put((*mirror).into());
                observed(made)
                    .into_iter()
                    .for_each(|one| self.local.apply(one));
            }
            Write::DeleteRecord(name) => {
                store.delete(
                    Kind::Export,
                    &(namespace.as_str().into(), name.as_str().into()),
                );
            }
            Write::DeleteMirror(name) => {
                store.delete(
                    Kind::Slice,
                    &(namespace.as_str().into(), name.as_str().into()),
                );
            }
            // The cluster's own objects say nothing that matters here.
            Write::PutExport(_) | Write::DeleteExport(_) | Write::PutService(_) => {}
            Write::Status(..) => {}
        }
    }

    fn report(&mut self, store: &mut Store) {
        let epoch = self.store.epoch.clone();
        if self.reported != epoch || store.mirrored.get(&self.name) != Some(&epoch) {
            store.revision += 1;
            store.mirrored.insert(self.name.clone(), epoch.clone());
            self.reported = epoch;
        }
    }
}

fn observed(object: Object) -> Option<Observed> {
    match object {
        Object::Export(record) => Some(Observed::Record(record)),
        Object::Slice(mirror) => Some(Observed::Mirror(mirror)),
        _ => None,
    }
}

const HEARTBEAT: Duration = Duration::from_secs(5);
