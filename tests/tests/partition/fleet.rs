//! The whole fleet, step by step: faults, everybody's turn, and what must be so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fairlead_api::{
    labels, member::MemberCluster, proxy::ProxyGroup, service::MultiClusterService,
};
use fairlead_proxy::directory::ChangeKind;
use fairlead_runtime::clock::Tick;
use serde_json::json;

use crate::{
    agent::Agent,
    dice::Dice,
    proxy::{Proxy, Reply},
    replica::Replica,
    store::Store,
    truth::{Cluster, addr, from},
};

/// A run.
pub(crate) struct Fleet {
    pub(crate) now: Tick,
    pub(crate) dice: Dice,
    seed: u64,
    verbose: bool,
    pub(crate) clusters: Vec<Cluster>,
    agents: Vec<Option<Agent>>,
    pub(crate) store: Store,
    backup: Option<Store>,
    /// Whether each replica of the hub reaches the store.
    pub(crate) api: Vec<bool>,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) proxies: Vec<Option<Proxy>>,
    /// Whether each proxy reaches each replica.
    pub(crate) doors: Vec<Vec<bool>>,
    /// Members whose writes a restore has lost, until they have mirrored anew.
    lost: BTreeSet<usize>,
    counts: Counts,
    /// Sessions by proxy and cluster.
    picks: BTreeMap<(usize, usize), usize>,
    trace: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    sessions: u64,
    retried: u64,
    failed: u64,
    faults: u64,
    restores: u64,
}

impl Fleet {
    /// Three or four clusters, two replicas, two proxies, all well.
    pub(crate) fn calm(seed: u64) -> Self {
        Self::new(seed, false, 3)
    }

    /// The same, to be run through faults.
    pub(crate) fn random(seed: u64, verbose: bool) -> Self {
        let clusters = 3 + (seed % 3) as u8;
        Self::new(seed, verbose, clusters)
    }

    fn new(seed: u64, verbose: bool, clusters: u8) -> Self {
        let mut dice = Dice::new(seed);
        let now = Tick::from_start(Duration::from_secs(1));
        let clusters: Vec<Cluster> = (0..clusters)
            .map(|number| Cluster::new(number, 2 + dice.below(3) as u8, PROXIES))
            .collect();
        let mut store = Store::default();
        furnish(&mut store, &clusters, strict(seed));
        let agents = clusters.iter().map(|one| Some(Agent::start(one, now)));
        let agents = agents.collect();
        let replicas =
            (0..REPLICAS).map(|number| Some(Replica::start(&name(number), &mut store, now)));
        let replicas = replicas.collect();
        let proxies = (0..PROXIES)
            .map(|number| Some(Proxy::start(number, seed ^ number as u64, Vec::new(), now)));
        let proxies = proxies.collect();
        let mut fleet = Self {
            now,
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
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for cluster in &mut self.clusters {
            cluster.look(now);
        }
        for (agent, cluster) in self.agents.iter_mut().zip(&self.clusters) {
            if let Some(agent) = agent {
                agent.step(cluster, &mut self.store, now);
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
        for number in 0..PROXIES {
            self.step_proxy(number);
        }
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
        let before = proxy.endpoints();
        self.follow(number, &mut proxy);
        let clusters = &self.clusters;
        let reply = |at: SocketAddr| reply(clusters, number, at);
        proxy.step(&reply, now);
        self.check_kept(number, &mut proxy, &before);
        for _ in 0..1 + self.dice.below(2) {
            let said = proxy.session(&mut self.dice, &reply_of(&self.clusters, number), now);
            self.check_session(number, &proxy, said);
        }
        self.proxies[number] = Some(proxy);
    }

    /// Streams: broken ones are noticed, new ones opened, open ones heard.
    fn follow(&mut self, number: usize, proxy: &mut Proxy) {
        let now = self.now;
        if let Some(at) = proxy.follows() {
            let serves = self.replicas[at].as_ref().is_some_and(|one| one.serves);
            if !serves {
                proxy.loses_stream(now);
            } else if self.doors[number][at] {
                let replica = self.replicas[at].as_ref().expect("it serves");
                proxy.hear(replica, now);
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
            proxy.connect(at);
        } else {
            proxy.loses_stream(now);
        }
    }

    // --- what must be so

    /// Nothing is taken away that lives and is exported.
    fn check_kept(&mut self, number: usize, proxy: &mut Proxy, before: &BTreeSet<SocketAddr>) {
        let after = proxy.endpoints();
        for gone in before.difference(&after) {
            assert!(
                !self.is_owed(*gone),
                "proxy {number} lost {gone}, which lives and is exported"
            );
        }
        for change in proxy.changes() {
            let at = change.endpoint.addr;
            self.trace(&format!("{number} {at} {:?}", change.kind));
            if matches!(change.kind, ChangeKind::Removed | ChangeKind::Draining)
                && proxy.has_sessions(at)
            {
                assert!(
                    !self.is_owed(at),
                    "proxy {number} ends sessions of {at}, which lives and is exported"
                );
            }
        }
    }

    /// Whether a proxy that has this endpoint may never lose it.
    fn is_owed(&self, at: SocketAddr) -> bool {
        let (cluster, endpoint) = find(&self.clusters, at);
        let settled = self.now.since(endpoint.moved) > SETTLED;
        endpoint.alive && endpoint.listed && settled && !self.lost.contains(&cluster)
    }

    fn check_session(
        &mut self,
        number: usize,
        proxy: &Proxy,
        said: Option<(Vec<SocketAddr>, bool)>,
    ) {
        let now = self.now;
        let healthy = proxy.known.iter().any(|(at, since)| {
            let good = find(&self.clusters, *at).1.good_for(number, now);
            good.is_some_and(|good| good > RETURN) && now.since(*since) > RETURN
        });
        self.counts.sessions += 1;
        let Some((path, served)) = said else {
            assert!(!healthy, "proxy {number} has nobody to send a session to");
            return;
        };
        let first = find(&self.clusters, path[0]).0;
        *self.picks.entry((number, first)).or_default() += 1;
        self.counts.retried += u64::from(path.len() > 1);
        self.counts.failed += u64::from(!served);
        if !healthy || self.may_panic(number, proxy) {
            return;
        }
        assert!(served, "proxy {number} tried {path:?} in vain");
        let first = path[0];
        let dead = find(&self.clusters, first).1.dead_for(number, now);
        let known = proxy
            .known
            .get(&first)
            .map_or(Duration::MAX, |since| now.since(*since));
        if let Some(dead) = dead {
            assert!(
                dead.min(known) <= DEATH,
                "proxy {number} sent a session to {first}, dead for {dead:?}"
            );
        }
    }

    /// Whether so few of a proxy's endpoints are healthy that it may try them all: half of the runs
    /// are told to.
    fn may_panic(&self, number: usize, proxy: &Proxy) -> bool {
        let good = proxy.known.keys().filter(|at| {
            let good = find(&self.clusters, **at).1.good_for(number, self.now);
            good.is_some_and(|good| good > RETURN)
        });
        !strict(self.seed) && good.count() * 2 <= proxy.known.len()
    }

    /// Each proxy has what members export, no more and no less, and all of it takes sessions.
    pub(crate) fn check_converged(&self) {
        let truth: BTreeSet<SocketAddr> = self
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.endpoints)
            .filter(|(_, endpoint)| endpoint.listed)
            .map(|(ip, _)| addr(*ip))
            .collect();
        for (number, proxy) in self.proxies.iter().enumerate() {
            let proxy = proxy.as_ref().expect("all live");
            assert_eq!(proxy.endpoints(), truth, "proxy {number}");
            let view = proxy.view().expect("the service is there");
            for (_, entry) in view.endpoints() {
                assert!(
                    entry.state.is_usable(),
                    "{} at proxy {number}: {:?}",
                    entry.state.addr,
                    entry.state.flags()
                );
            }
        }
    }

    /// Members take equal shares.
    fn check_shares(&mut self) {
        for number in 0..PROXIES {
            let mut proxy = self.proxies[number].take().expect("all live");
            let mut taken: BTreeMap<usize, u32> = BTreeMap::new();
            for _ in 0..SAMPLE {
                let (path, _) = proxy
                    .session(&mut self.dice, &reply_of(&self.clusters, number), self.now)
                    .expect("all is well");
                *taken.entry(find(&self.clusters, path[0]).0).or_default() += 1;
            }
            let listed = |cluster: &&Cluster| cluster.endpoints.values().any(|one| one.listed);
            let members = self.clusters.iter().filter(listed).count();
            for (cluster, count) in taken {
                let share = f64::from(count) / f64::from(SAMPLE) * 100.0;
                let expected = 100.0 / members as f64;
                assert!(
                    (share - expected).abs() <= 1.0,
                    "m{cluster} took {share} % at proxy {number}"
                );
            }
            self.proxies[number] = Some(proxy);
        }
    }

    // --- faults

    fn fault(&mut self) {
        self.counts.faults += 1;
        let cluster = self.dice.below(self.clusters.len());
        let replica = self.dice.below(REPLICAS);
        let proxy = self.dice.below(PROXIES);
        let up = self.dice.one_in(2);
        let what = self.dice.below(15);
        self.trace(&format!(
            "fault {what}: cluster {cluster} replica {replica} proxy {proxy} {up}"
        ));
        match what {
            0 => self.clusters[cluster].api = up,
            1 => self.clusters[cluster].link = up,
            2 => self.clusters[cluster].reachable[proxy] = up,
            3 => self.doors[proxy][replica] = up,
            4 => self.api[replica] = up,
            5 => self.crash_replica(replica, up),
            6 => self.crash_agent(cluster, up),
            7 => self.restart_proxy(proxy),
            8 => self.live(cluster, up),
            9 | 10 => self.roll(cluster),
            11 => {
                if let Some(replica) = &mut self.replicas[replica] {
                    replica.loses_watch();
                }
            }
            12 => {
                if let Some(agent) = &mut self.agents[cluster] {
                    agent.loses_watch();
                }
            }
            13 => self.back_up(),
            _ => self.restore(),
        }
    }

    pub(crate) fn crash_replica(&mut self, number: usize, up: bool) {
        let (now, store) = (self.now, &mut self.store);
        for proxy in self.proxies.iter_mut().flatten() {
            if proxy.follows() == Some(number) {
                proxy.loses_stream(now);
            }
        }
        // One that cannot ask its store does not start.
        let starts = up && self.api[number];
        self.replicas[number] = starts.then(|| Replica::start(&name(number), store, now));
    }

    pub(crate) fn crash_agent(&mut self, number: usize, up: bool) {
        self.agents[number] = up.then(|| Agent::start(&self.clusters[number], self.now));
    }

    fn restart_proxy(&mut self, number: usize) {
        let disk = self.proxies[number].as_ref().expect("all live").disk();
        let seed = self.dice.roll();
        self.proxies[number] = Some(Proxy::start(number, seed, disk, self.now));
    }

    /// A cluster dies or comes back as a whole.
    pub(crate) fn live(&mut self, number: usize, alive: bool) {
        for endpoint in self.clusters[number].endpoints.values_mut() {
            endpoint.alive = alive;
        }
        self.crash_agent(number, alive);
    }

    /// One endpoint dies, and its cluster lists it no more; or it comes back.
    fn roll(&mut self, number: usize) {
        let cluster = &mut self.clusters[number];
        let at = self.dice.below(cluster.endpoints.len());
        let others = cluster.endpoints.values().filter(|one| one.listed).count();
        let endpoint = cluster
            .endpoints
            .values_mut()
            .nth(at)
            .expect("below the count");
        if endpoint.listed && others < 2 {
            return;
        }
        endpoint.listed = !endpoint.listed;
        endpoint.alive = endpoint.listed;
        endpoint.moved = self.now;
        cluster.version += 1;
    }

    /// Sessions that a proxy has sent to a cluster first.
    pub(crate) fn picks(&self, proxy: usize, cluster: usize) -> usize {
        self.picks.get(&(proxy, cluster)).copied().unwrap_or(0)
    }

    /// A cluster gets one endpoint more.
    pub(crate) fn grow(&mut self, number: usize) {
        let now = self.now;
        let more = Cluster::new(number as u8, 9, PROXIES).endpoints;
        self.clusters[number].version += 1;
        let endpoints = &mut self.clusters[number].endpoints;
        let (ip, mut endpoint) = more
            .into_iter()
            .find(|(ip, _)| !endpoints.contains_key(ip))
            .expect("it had fewer");
        endpoint.moved = now;
        endpoints.insert(ip, endpoint);
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Some(self.store.clone());
    }

    /// The store goes back to its back-up.
    pub(crate) fn restore(&mut self) {
        if let Some(backup) = self.backup.clone()
            && backup.revision < self.store.revision
        {
            self.counts.restores += 1;
            self.store = backup;
        }
    }

    pub(crate) fn heal(&mut self) {
        self.api = vec![true; REPLICAS];
        self.doors = vec![vec![true; REPLICAS]; PROXIES];
        for number in 0..REPLICAS {
            if self.replicas[number].is_none() {
                self.crash_replica(number, true);
            }
        }
        for number in 0..self.clusters.len() {
            let cluster = &mut self.clusters[number];
            (cluster.api, cluster.link) = (true, true);
            cluster.reachable = vec![true; PROXIES];
            for endpoint in cluster.endpoints.values_mut() {
                endpoint.alive = endpoint.listed;
            }
            if self.agents[number].is_none() {
                self.crash_agent(number, true);
            }
        }
    }

    fn trace(&mut self, line: &str) {
        for byte in line.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            println!("{:?} {line}", self.now);
        }
    }
}

/// What users and the hub's installation wrote.
fn furnish(store: &mut Store, clusters: &[Cluster], strict: bool) {
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
    let service: MultiClusterService = from(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "MultiClusterService",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "serviceImport": { "name": "web" },
            "frontends": [{ "proxyGroup": "edge" }],
            "failover": { "panicBelow": panic_below },
        },
    }));
    store.put(service.into());
    assert!(!labels::is_reserved_namespace("shop"));
}

fn find(clusters: &[Cluster], at: SocketAddr) -> (usize, &crate::truth::Endpoint) {
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

fn reply_of(clusters: &[Cluster], proxy: usize) -> impl Fn(SocketAddr) -> Reply + use<'_> {
    move |at| reply(clusters, proxy, at)
}

/// Whether a run is told never to try what is dead.
fn strict(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn name(replica: usize) -> String {
    format!("hub-{replica}")
}

const REPLICAS: usize = 2;
pub(crate) const PROXIES: usize = 2;
const STEP: Duration = Duration::from_millis(20);
const FAULTS_LAST: Duration = Duration::from_secs(90);
/// Patience after a restore, a lease, an election, a return.
const QUIET: Duration = Duration::from_secs(150);
/// News of a rolled endpoint are late by no more than this after a way is open; what was said of it
/// before may still be under way.
const SETTLED: Duration = Duration::from_secs(30);
/// Two probes good, a second apart, and the ramp of a view.
const RETURN: Duration = Duration::from_secs(6);
/// The promise.
const DEATH: Duration = Duration::from_secs(3);
const SAMPLE: u32 = 10_000;
