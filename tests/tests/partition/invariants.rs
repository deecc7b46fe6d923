//! What must be so, whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use fairlead_config::name::ServiceName;
use fairlead_proxy::directory::ChangeKind;
use fairlead_runtime::clock::Tick;

use crate::{
    datagrams::{SILENT, Sent},
    fleet::{Fleet, PROXIES, find, reply_of, strict},
    proxy::{self, Proxy},
    truth::addrs,
};

/// What a proxy was told before a step.
pub(crate) struct Told {
    endpoints: BTreeSet<SocketAddr>,
    /// Members that drain, by service and cluster.
    drained: BTreeSet<(ServiceName, usize)>,
}

impl Fleet {
    pub(crate) fn told(&self, proxy: &Proxy) -> Told {
        let mut drained = BTreeSet::new();
        for service in [proxy::sessions(), proxy::flows()] {
            for (number, cluster) in self.clusters.iter().enumerate() {
                let place = proxy.place(&service, &cluster.name);
                if place.is_some_and(|(_, weight)| weight.is_drain()) {
                    drained.insert((service.clone(), number));
                }
            }
        }
        Told {
            endpoints: proxy.endpoints(),
            drained,
        }
    }

    /// Nothing is taken away that lives and is exported.
    pub(crate) fn check_kept(&mut self, number: usize, proxy: &mut Proxy, before: &Told) {
        let after = proxy.endpoints();
        // Whoever finds no replica but one that is cut off from its store takes what that one knows,
        // after a while.
        let replica = proxy.follows().and_then(|at| self.replicas[at].as_ref());
        let seen = replica.map_or(self.now, |replica| replica.seen_at);
        for gone in before.endpoints.difference(&after) {
            assert!(
                !self.is_owed_as_of(*gone, seen),
                "proxy {number} lost {gone}, which lives and is exported"
            );
        }
        for change in proxy.changes() {
            let at = change.endpoint.addr;
            self.trace(&format!("{number} {at} {:?}", change.kind));
            let drains = change.kind == ChangeKind::Draining;
            if (drains || change.kind == ChangeKind::Removed) && proxy.has_sessions(at) {
                let service = &change.service.name;
                let place = self.place(proxy, service, at);
                // A change may have come with an answer to a probe, before what was told in this step, or
                // between two of its parts.
                let cluster = find(&self.clusters, at).0;
                let was = before.drained.contains(&(service.clone(), cluster));
                let asked = drains && (was || place.is_some_and(|(_, drained)| drained));
                assert!(
                    asked || !self.is_owed_as_of(at, seen),
                    "proxy {number} ends sessions of {at}, which lives and is exported: {:?}, {place:?}",
                    change.kind
                );
            }
        }
    }

    /// Whether a proxy that has this endpoint may never lose it.
    pub(crate) fn is_owed(&self, at: SocketAddr) -> bool {
        self.is_owed_as_of(at, self.now)
    }

    /// The same, as who has last seen the hub's store at this time may know.
    fn is_owed_as_of(&self, at: SocketAddr, seen: Tick) -> bool {
        let (cluster, endpoint) = find(&self.clusters, at);
        let told = endpoint.told.filter(|told| *told < seen);
        let settled = told.is_some_and(|told| self.now.since(told) > SETTLED);
        endpoint.alive && endpoint.listed && settled && !self.lost.contains(&cluster)
    }

    /// The tier of an endpoint's member at a proxy, and whether it is drained.
    fn place(&self, proxy: &Proxy, service: &ServiceName, at: SocketAddr) -> Option<(usize, bool)> {
        let cluster = find(&self.clusters, at).0;
        let (tier, weight) = proxy.place(service, &self.clusters[cluster].name)?;
        Some((tier, weight.is_drain()))
    }

    /// Whether an endpoint that a proxy knows has answered it for so long.
    fn is_good(&self, number: usize, proxy: &Proxy, at: SocketAddr, for_long: Duration) -> bool {
        let good = find(&self.clusters, at).1.good_for(number, self.now);
        let known = proxy.known.get(&at);
        good.is_some_and(|good| good > for_long)
            && known.is_some_and(|since| self.now.since(*since) > for_long)
    }

    /// Whether a proxy knows an endpoint of a service that answers and takes traffic.
    fn has_healthy(&self, number: usize, proxy: &Proxy, service: &ServiceName) -> bool {
        proxy.endpoints_of(service).any(|at| {
            let place = self.place(proxy, service, at);
            place.is_some_and(|(_, drained)| !drained) && self.is_good(number, proxy, at, RETURN)
        })
    }

    pub(crate) fn check_session(
        &mut self,
        number: usize,
        proxy: &Proxy,
        said: Option<(Vec<SocketAddr>, bool)>,
    ) {
        let service = proxy::sessions();
        let healthy = self.has_healthy(number, proxy, &service);
        self.counts.sessions += 1;
        let Some((path, served)) = said else {
            assert!(!healthy, "proxy {number} has nobody to send a session to");
            return;
        };
        let first = find(&self.clusters, path[0]).0;
        *self.picks.entry((number, first)).or_default() += 1;
        self.counts.retried += u64::from(path.len() > 1);
        self.counts.failed += u64::from(!served);
        for at in &path {
            self.check_place(number, proxy, &service, *at);
        }
        if healthy {
            let panics = self.panics(number, proxy, &service);
            let excused = path.iter().any(&panics);
            assert!(served || excused, "proxy {number} tried {path:?} in vain");
            if !panics(&path[0]) {
                self.check_alive(number, proxy, path[0]);
            }
        }
    }

    pub(crate) fn check_datagram(&mut self, number: usize, proxy: &Proxy, sent: &Sent) {
        let service = proxy::flows();
        let healthy = self.has_healthy(number, proxy, &service);
        self.counts.datagrams += 1;
        self.counts.rehomed += sent.left.len() as u64;
        for (at, _) in sent.path.iter().filter(|(_, new)| *new) {
            self.check_place(number, proxy, &service, *at);
        }
        for left in &sent.left {
            let stays = self.is_good(number, proxy, *left, SILENT) && self.is_owed(*left);
            assert!(
                !stays,
                "proxy {number} takes a flow away from {left}, which lives and is exported"
            );
        }
        if healthy {
            let Some((first, new)) = sent.path.first() else {
                panic!("proxy {number} has nobody to send a datagram to");
            };
            // One that came to a flow while nothing else was there is pardoned for a while.
            let excused = match new {
                true => self.panics(number, proxy, &service)(first),
                false => self.may_have_panicked(number, proxy, &service),
            };
            if !excused {
                self.check_alive(number, proxy, *first);
            }
        }
    }

    /// What has been dead for long gets nothing.
    fn check_alive(&self, number: usize, proxy: &Proxy, at: SocketAddr) {
        let now = self.now;
        let known = proxy.known.get(&at);
        let known = known.map_or(Duration::MAX, |since| now.since(*since));
        if let Some(dead) = find(&self.clusters, at).1.dead_for(number, now) {
            assert!(
                dead.min(known) <= DEATH,
                "proxy {number} sent something to {at}, dead for {dead:?}"
            );
        }
    }

    /// What is drained gets nothing new, nor does a later tier while the first is well.
    fn check_place(&self, number: usize, proxy: &Proxy, service: &ServiceName, at: SocketAddr) {
        let (tier, drained) = self.place(proxy, service, at).expect("it was told of it");
        assert!(
            !drained,
            "proxy {number} sent something new to {at}, which drains"
        );
        let well = self.well.get(&(number, service.clone()));
        let well = well.is_some_and(|since| self.now.since(*since) > HELD);
        assert!(
            tier == 0 || !well,
            "proxy {number} sent something to {at} of tier {tier}, while the first is well"
        );
    }

    /// Brings up to date since when the first tier has been well, as a proxy was told of it. Whom a
    /// drain takes out of it counts no more, but a tier that was short of him is held back for a
    /// while all the same.
    pub(crate) fn look_at_first_tier(&mut self, number: usize, proxy: &Proxy) {
        for service in [proxy::sessions(), proxy::flows()] {
            let mut first = proxy.endpoints_of(&service).filter(|at| {
                let place = self.place(proxy, &service, *at);
                place.is_some_and(|(tier, drained)| tier == 0 && !drained)
            });
            let mut any = false;
            let well = first.all(|at| {
                any = true;
                self.is_good(number, proxy, at, FALLBACK)
            });
            drop(first);
            match (well && any, (number, service)) {
                (true, at) => drop(self.well.entry(at).or_insert(self.now)),
                (false, at) => drop(self.well.remove(&at)),
            }
        }
    }

    /// Tells of an endpoint whether so few of its tier are healthy that all of them may be tried: half
    /// of the runs are told to.
    fn panics(
        &self,
        number: usize,
        proxy: &Proxy,
        service: &ServiceName,
    ) -> impl Fn(&SocketAddr) -> bool {
        let tiers = self.health(number, proxy, service);
        let strict = strict(self.seed);
        move |at| {
            let place = self.place(proxy, service, *at);
            let tier = place.and_then(|(tier, _)| tiers.get(&tier));
            !strict && tier.is_some_and(|(good, all)| good * 2 < *all)
        }
    }

    /// Whether any tier may have been tried as a whole until just now.
    fn may_have_panicked(&self, number: usize, proxy: &Proxy, service: &ServiceName) -> bool {
        let tiers = self.health(number, proxy, service);
        !strict(self.seed) && tiers.values().any(|(good, all)| good * 2 <= *all)
    }

    /// By tier: endpoints that are good, and all.
    fn health(
        &self,
        number: usize,
        proxy: &Proxy,
        service: &ServiceName,
    ) -> BTreeMap<usize, (usize, usize)> {
        let mut tiers: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for at in proxy.endpoints_of(service) {
            if let Some((tier, false)) = self.place(proxy, service, at) {
                let (good, all) = tiers.entry(tier).or_default();
                *good += usize::from(self.is_good(number, proxy, at, RETURN));
                *all += 1;
            }
        }
        tiers
    }

    /// Each proxy has what members export, no more and no less, and all of it takes sessions.
    pub(crate) fn check_converged(&self) {
        let truth: BTreeSet<SocketAddr> = self
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.endpoints)
            .filter(|(_, endpoint)| endpoint.listed)
            .flat_map(|(ip, _)| addrs(*ip))
            .collect();
        for (number, proxy) in self.proxies.iter().enumerate() {
            let proxy = proxy.as_ref().expect("all live");
            assert_eq!(proxy.endpoints(), truth, "proxy {number}");
            for service in [proxy::sessions(), proxy::flows()] {
                let view = proxy.view_of(&service).expect("the service is there");
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
        self.check_proxies_known();
    }

    /// Members take the shares that tiers, claims and their endpoints make.
    pub(crate) fn check_shares(&mut self) {
        let wanted = self.wanted_shares();
        for number in 0..PROXIES {
            let mut proxy = self.proxies[number].take().expect("all live");
            let mut taken = vec![[0_u32; 2]; self.clusters.len()];
            for _ in 0..SAMPLE {
                let reply = reply_of(&self.clusters, number);
                let said = proxy.session(&mut self.dice, &reply, self.now);
                let (path, _) = said.expect("all is well");
                taken[find(&self.clusters, path[0]).0][0] += 1;
            }
            for client in 0..SAMPLE {
                let client = (Ipv4Addr::from(0x0a40_0000 | client), 53).into();
                let reply = reply_of(&self.clusters, number);
                let sent = proxy.datagram(client, &reply, self.now);
                let sent = sent.expect("all is well");
                taken[find(&self.clusters, sent.path[0].0).0][1] += 1;
            }
            for (cluster, (taken, wanted)) in taken.iter().zip(&wanted).enumerate() {
                for count in taken {
                    let share = f64::from(*count) / f64::from(SAMPLE) * 100.0;
                    assert!(
                        (share - wanted).abs() <= 1.0,
                        "m{cluster} took {share} % at proxy {number}, and {wanted} % is its part"
                    );
                }
            }
            self.proxies[number] = Some(proxy);
        }
    }

    /// In percent, by cluster.
    fn wanted_shares(&self) -> Vec<f64> {
        let parts = self.clusters.iter().map(|cluster| {
            let listed = cluster.endpoints.values().any(|one| one.listed);
            let part = self.claim(&cluster.name).unwrap_or(1000);
            if listed { part } else { 0 }
        });
        let mut parts: Vec<i32> = parts.collect();
        let (first, second) = parts.split_at_mut(self.first_tier);
        match first.iter().any(|part| *part > 0) {
            true => second.fill(0),
            false => first.fill(0),
        }
        let all: i32 = parts.iter().sum();
        let percent = |part: &i32| f64::from(*part) / f64::from(all) * 100.0;
        parts.iter().map(percent).collect()
    }
}

/// News of a rolled endpoint are late by no more than this after its agent has told the hub; what was
/// said of it before may still be under way.
const SETTLED: Duration = Duration::from_secs(30);
/// Two probes good, a second apart, and the ramp of a view.
const RETURN: Duration = Duration::from_secs(6);
/// A tier that came back takes its traffic back after this: ten seconds of health, and the ramp of
/// its endpoints.
const FALLBACK: Duration = Duration::from_secs(40);
/// How long a tier is held back at the least that it could take, whoever made it so.
const HELD: Duration = Duration::from_secs(11);
/// The promise.
const DEATH: Duration = Duration::from_secs(3);
const SAMPLE: u32 = 10_000;
