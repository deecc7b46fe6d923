//! The whole fleet, step by step: faults, everybody's turn, and what must be so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fairlead_api::{
    labels, member::MemberCluster, proxy::ProxyGroup, service::MultiClusterService,
};
use fairlead_config::name::ServiceName;
use fairlead_runtime::clock::{Clock, Tick};
use serde_json::json;

use crate::{
    agent::Agent,
    dice::Dice,
    loads::{Loads, id},
    proxy::{Proxy, Reply},
    replica::Replica,
    store::Store,
    truth::{Cluster, from},
};

/// A run.
pub(crate) struct Fleet {
    pub(crate) now: Tick,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) seed: u64,
    verbose: bool,
    /// Clusters of the first tier; the others take what it can't.
    pub(crate) first_tier: usize,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) agents: Vec<Option<Agent>>,
    pub(crate) store: Store,
    pub(crate) backup: Option<Store>,
    /// Whether each replica of the hub reaches the store.
    pub(crate) api: Vec<bool>,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) proxies: Vec<Option<Proxy>>,
    /// Whether each proxy reaches each replica.
    pub(crate) doors: Vec<Vec<bool>>,
    /// Members whose writes a restore has lost, until they have mirrored anew.
    pub(crate) lost: BTreeSet<usize>,
    /// Since when the first tier has been well, by proxy and service.
    pub(crate) well: BTreeMap<(usize, ServiceName), Tick>,
    pub(crate) counts: Counts,
    pub(crate) loads: Loads,
    /// Ports that new clients come from.
    clients: u16,
    /// Sessions by proxy and cluster.
    pub(crate) picks: BTreeMap<(usize, usize), usize>,
    trace: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sessions: u64,
    pub(crate) retried: u64,
    pub(crate) failed: u64,
    pub(crate) datagrams: u64,
    pub(crate) rehomed: u64,
    pub(crate) faults: u64,
    pub(crate) restores: u64,
}

impl Fleet {
    /// Three or four clusters, two replicas, two proxies, all well.
    pub(crate) fn calm(seed: u64) -> Self {
        Self::new(seed, false, 3, 3)
    }

    /// The same, to be run through faults.
    pub(crate) fn random(seed: u64, verbose: bool) -> Self {
        let clusters = 3 + (seed % 3) as u8;
        // Of four clusters two are preferred.
        let first_tier = if clusters == 4 { 2 } else { clusters };
        Self::new(seed, verbose, clusters, usize::from(first_tier))
    }

    fn new(seed: u64, verbose: bool, clusters: u8, first_tier: usize) -> Self {
        let mut dice = Dice::new(seed);
        let now = Tick::from_start(Duration::from_secs(1));
        let clock = Clock::manual(now);
        let clusters: Vec<Cluster> = (0..clusters)
            .map(|number| Cluster::new(number, 2 + dice.below(3) as u8, PROXIES))
            .collect();
        let mut store = Store::default();
        furnish(&mut store, &clusters, first_tier, strict(seed));
        let agents = clusters.iter().map(|one| Some(Agent::start(one, now)));
        let agents = agents.collect();
        let replicas =
            (0..REPLICAS).map(|number| Some(Replica::start(&name(number), &mut store, &clock)));
        let replicas = replicas.collect();
        let proxies = (0..PROXIES)
            .map(|number| Some(Proxy::start(number, seed ^ number as u64, Vec::new(), now)));
        let proxies = proxies.collect();
        let mut fleet = Self {
            now,
            clock,
            first_tier,
            loads: Loads::default(),
            clients: 1024,
            dice,
            seed,
            verbose,
            clusters,
            agents,
            store,
            backup: None,
            api: vec![true; REPLICAS],
            replicas,
            proxies,
            doors: vec![vec![true; REPLICAS]; PROXIES],
            lost: BTreeSet::new(),
            well: BTreeMap::new(),
            counts: Counts::default(),
            picks: BTreeMap::new(),
            trace: 0,
        };
        fleet.run_for(Duration::from_secs(8));
        fleet.check_converged();
        fleet
    }

    /// Faults for a minute and a half, then all heals, and after a while everything is right.
    pub(crate) fn run(mut self) -> String {
        let end = self.now.after(FAULTS_LAST);
        while self.now < end {
            let pause = Duration::from_millis(200 + self.dice.below(4000) as u64);
            self.run_for(pause);
            self.fault();
        }
        self.heal();
        self.run_for(QUIET);
        self.check_converged();
        self.check_shares();
        format!(
            "seed {}: {:?} trace {:016x}",
            self.seed, self.counts, self.trace
        )
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(STEP);
            self.clock.advance(STEP);
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for cluster in &mut self.clusters {
            cluster.look(now);
        }
        for (agent, cluster) in self.agents.iter_mut().zip(&mut self.clusters) {
            if let Some(agent) = agent {
                agent.step(cluster, &mut self.store, now);
                if agent.has_told(cluster) {
                    let endpoints = cluster.endpoints.values_mut();
                    endpoints.for_each(|one| one.told = one.told.or(Some(now)));
                }
            }
        }
        let remirroring = self.store.epoch.remirroring;
        for (number, replica) in self.replicas.iter_mut().enumerate() {
            // Watches are late at times.
            let late = self.dice.one_in(4);
            if let Some(replica) = replica
                && !late
            {
                let store = self.api[number].then_some(&mut self.store);
                replica.step(store, now);
            }
        }
        if remirroring && !self.store.epoch.remirroring {
            self.note_lost();
        }
        self.find_again();
        self.hand_on();
        for number in 0..PROXIES {
            self.step_proxy(number);
        }
        self.check_loads();
    }

    /// Those that had not mirrored anew when the hub went on.
    fn note_lost(&mut self) {
        let id = Some(self.store.epoch.id.clone());
        for (number, cluster) in self.clusters.iter().enumerate() {
            if self.store.mirrored.get(&cluster.name) != Some(&id) {
                self.lost.insert(number);
            }
        }
    }

    fn find_again(&mut self) {
        let id = Some(self.store.epoch.id.clone());
        let (clusters, mirrored) = (&self.clusters, &self.store.mirrored);
        self.lost
            .retain(|number| mirrored.get(&clusters[*number].name) != Some(&id));
    }

    fn step_proxy(&mut self, number: usize) {
        let Some(mut proxy) = self.proxies[number].take() else {
            return;
        };
        let now = self.now;
        let before = self.told(&proxy);
        self.follow(number, &mut proxy);
        self.hear_report(number, &mut proxy);
        let clusters = &self.clusters;
        let reply = |at: SocketAddr| reply(clusters, number, at);
        proxy.step(&reply, now);
        self.check_kept(number, &mut proxy, &before);
        self.look_at_first_tier(number, &proxy);
        for _ in 0..1 + self.dice.below(2) {
            let said = proxy.session(&mut self.dice, &reply_of(&self.clusters, number), now);
            self.check_session(number, &proxy, said);
        }
        if self.dice.one_in(3) {
            let client = self.client();
            let sent = proxy.datagram(client, &reply_of(&self.clusters, number), now);
            self.check_datagram(number, &proxy, &sent.unwrap_or_default());
        }
        self.proxies[number] = Some(proxy);
    }

    /// Some clients send again and again, others once.
    fn client(&mut self) -> SocketAddr {
        let one = self.dice.below(8) as u8;
        let port = match one {
            0 | 1 => {
                self.clients = self.clients.checked_add(1).unwrap_or(1024);
                self.clients
            }
            _ => 53,
        };
        (Ipv4Addr::new(198, 51, 100, one), port).into()
    }

    /// Streams: broken ones are noticed, new ones opened, open ones heard.
    fn follow(&mut self, number: usize, proxy: &mut Proxy) {
        let now = self.now;
        if let Some(at) = proxy.follows() {
            let replica = self.replicas[at].as_ref().expect("its end was told");
            if !replica.serves {
                replica.reports.disconnected(&id(number));
                proxy.loses_stream(now);
            } else if self.doors[number][at] {
                let replica = self.replicas[at].as_ref().expect("it serves");
                proxy.hear(replica, now);
                if let Some((applied, settled)) = proxy.answered() {
                    let reports = &replica.reports;
                    reports.answered(&id(number), applied, settled, Vec::new());
                }
            }
            return;
        }
        if !proxy.wants_stream(now) {
            return;
        }
        let at = self.dice.below(REPLICAS);
        let stamp = proxy.ads.stamp();
        let Some(replica) = self.replicas[at]
            .as_mut()
            .filter(|one| self.doors[number][at] && one.serves)
        else {
            proxy.loses_stream(now);
            return;
        };
        let store = self.api[at].then_some(&mut self.store);
        replica.show(&stamp.epoch, stamp.as_of, store, now);
        if replica.serves {
            replica.reports.connected(&id(number), "1");
            proxy.connect(at);
        } else {
            proxy.loses_stream(now);
        }
    }

    pub(crate) fn trace(&mut self, line: &str) {
        for byte in line.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            println!("{:?} {line}", self.now);
        }
    }
}

/// What users and the hub's installation wrote.
fn furnish(store: &mut Store, clusters: &[Cluster], first_tier: usize, strict: bool) {
    for cluster in clusters {
        store.put(MemberCluster::new(cluster.name.as_str(), Default::default()).into());
    }
    let mut group: ProxyGroup = from(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ProxyGroup", "metadata": { "name": "edge" },
        "spec": { "addresses": ["192.0.2.1"] },
    }));
    group.metadata.uid = Some("group".to_owned());
    store.put(group.into());
    let panic_below = if strict { 0 } else { 50 };
    let names = |clusters: &[Cluster]| -> Vec<String> {
        let names = clusters.iter();
        names.map(|cluster| cluster.name.to_string()).collect()
    };
    let (first, second) = clusters.split_at(first_tier);
    let tiers = match second.is_empty() {
        true => json!([]),
        false => json!([{ "members": names(first) }, { "members": names(second) }]),
    };
    let service: MultiClusterService = from(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "MultiClusterService",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "serviceImport": { "name": "web" },
            "frontends": [{ "proxyGroup": "edge" }],
            "tiers": tiers,
            "failover": { "panicBelow": panic_below },
        },
    }));
    store.put(service.into());
    assert!(!labels::is_reserved_namespace("shop"));
}

pub(crate) fn find(clusters: &[Cluster], at: SocketAddr) -> (usize, &crate::truth::Endpoint) {
    let SocketAddr::V4(v4) = at else {
        panic!("all are IPv4");
    };
    let ip: Ipv4Addr = *v4.ip();
    let cluster = usize::from(ip.octets()[2]);
    (cluster, &clusters[cluster].endpoints[&ip])
}

fn reply(clusters: &[Cluster], proxy: usize, at: SocketAddr) -> Reply {
    let (cluster, endpoint) = find(clusters, at);
    match (clusters[cluster].reachable[proxy], endpoint.alive) {
        (false, _) => Reply::Silence,
        (true, false) => Reply::Refuses,
        (true, true) => Reply::Answers,
    }
}

pub(crate) fn reply_of(
    clusters: &[Cluster],
    proxy: usize,
) -> impl Fn(SocketAddr) -> Reply + use<'_> {
    move |at| reply(clusters, proxy, at)
}

/// Whether a run is told never to try what is dead.
pub(crate) fn strict(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

pub(crate) fn name(replica: usize) -> String {
    format!("hub-{replica}")
}

pub(crate) const REPLICAS: usize = 2;
pub(crate) const PROXIES: usize = 2;
const STEP: Duration = Duration::from_millis(20);
const FAULTS_LAST: Duration = Duration::from_secs(90);
/// Patience after a restore, a lease, an election, a return.
const QUIET: Duration = Duration::from_secs(150);
