//! What happens to the fleet: faults, and what people do.

use std::time::Duration;

use fairlead_api::member::TrafficClaim;
use fairlead_config::name::MemberName;
use fairlead_controller::world::{Kind, Object};
use fairlead_runtime::clock::Tick;
use kube::ResourceExt;

use crate::{
    agent::Agent,
    fleet::{Fleet, PROXIES, REPLICAS, name},
    loads::id,
    proxy::Proxy,
    replica::Replica,
    truth::Cluster,
};

impl Fleet {
    pub(crate) fn fault(&mut self) {
        self.counts.faults += 1;
        let cluster = self.dice.below(self.clusters.len());
        let replica = self.dice.below(REPLICAS);
        let proxy = self.dice.below(PROXIES);
        let up = self.dice.one_in(2);
        let what = self.dice.below(18);
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
                let again = self.soon();
                if let Some(agent) = &mut self.agents[cluster] {
                    agent.loses_watch(again);
                }
            }
            13 => self.back_up(),
            14 => self.restore(up),
            15 => self.make_claim(cluster, None),
            16 => self.make_claim(cluster, Some(0)),
            _ => self.make_claim(cluster, Some(500)),
        }
    }

    /// What a cluster keeps of its weight, as users say.
    pub(crate) fn claim(&self, name: &MemberName) -> Option<i32> {
        let members = self.store.list(Kind::Member).into_iter();
        let mut claims = members.filter_map(|object| match object {
            Object::Member(member) if member.name_any() == name.as_str() => {
                let claims = member.spec.traffic_claims.iter();
                claims.map(|claim| claim.permille).min()
            }
            _ => None,
        });
        claims.next()
    }

    /// A user drains a cluster, or takes that back. The last one is never drained.
    pub(crate) fn make_claim(&mut self, number: usize, permille: Option<i32>) {
        let name = self.clusters[number].name.clone();
        let mut others = self.clusters.iter().filter(|other| other.name != name);
        if permille == Some(0) && others.all(|other| self.claim(&other.name) == Some(0)) {
            return;
        }
        for object in self.store.list(Kind::Member) {
            let Object::Member(mut member) = object else {
                continue;
            };
            if member.name_any() == name.as_str() {
                let claim = permille.map(|permille| TrafficClaim {
                    owner: "user".to_owned(),
                    permille,
                    reason: "a try".to_owned(),
                    since: None,
                    services: None,
                });
                member.spec.traffic_claims = claim.into_iter().collect();
                self.store.put(Object::Member(member));
            }
        }
    }

    pub(crate) fn crash_replica(&mut self, number: usize, up: bool) {
        let (now, store) = (self.now, &mut self.store);
        for proxy in self.proxies.iter_mut().flatten() {
            if proxy.follows() == Some(number) {
                proxy.loses_stream(now);
            }
            if proxy.reports_to() == Some(number) {
                proxy.loses_reports(now);
            }
        }
        // One that cannot ask its store does not start.
        let starts = up && self.api[number];
        self.replicas[number] = starts.then(|| Replica::start(&name(number), store, &self.clock));
    }

    pub(crate) fn crash_agent(&mut self, number: usize, up: bool) {
        self.agents[number] = up.then(|| Agent::start(&self.clusters[number], self.now));
    }

    fn restart_proxy(&mut self, number: usize) {
        let proxy = self.proxies[number].as_ref().expect("all live");
        let disk = proxy.disk();
        if let Some(at) = proxy.follows() {
            let replica = self.replicas[at].as_ref().expect("it serves");
            replica.reports.disconnected(&id(number));
        }
        if let Some(at) = proxy.reports_to() {
            let replica = self.replicas[at].as_ref().expect("its end would be told");
            replica.reports.reports_no_more(&id(number));
        }
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
        endpoint.told = None;
        cluster.version += 1;
    }

    /// Sessions that a proxy has sent to a cluster first.
    pub(crate) fn picks(&self, proxy: usize, cluster: usize) -> usize {
        self.picks.get(&(proxy, cluster)).copied().unwrap_or(0)
    }

    /// A cluster gets one endpoint more.
    pub(crate) fn grow(&mut self, number: usize) {
        let more = Cluster::new(number as u8, 9, PROXIES).endpoints;
        self.clusters[number].version += 1;
        let endpoints = &mut self.clusters[number].endpoints;
        let (ip, mut endpoint) = more
            .into_iter()
            .find(|(ip, _)| !endpoints.contains_key(ip))
            .expect("it had fewer");
        endpoint.told = None;
        endpoints.insert(ip, endpoint);
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Some(self.store.clone());
    }

    /// The store goes back to its back-up, however young that is; its numbers may be raised then, beyond
    /// all that were known. As a rule its API server is stopped for that, so that watches break. Where
    /// it isn't, they may wait for ever, and numbers have to tell: not of a moment.
    pub(crate) fn restore(&mut self, raised: bool) {
        if let Some(mut backup) = self.backup.clone()
            && backup.revision < self.store.revision
        {
            self.counts.restores += 1;
            let moment = self.store.revision - backup.revision < MOMENT;
            if raised {
                backup.revision = self.store.revision + RAISED;
            }
            if raised || moment || self.dice.one_in(2) {
                let replicas = self.replicas.iter_mut().flatten();
                replicas.for_each(Replica::loses_watch);
                for number in 0..self.agents.len() {
                    let again = self.soon();
                    if let Some(agent) = &mut self.agents[number] {
                        agent.loses_watch(again);
                    }
                }
            }
            self.store = backup;
            self.loads.forget();
        }
    }

    /// When a watch that broke begins again.
    fn soon(&mut self) -> Tick {
        let pause = self.dice.below(2000) as u64;
        self.now.after(Duration::from_millis(pause))
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
}

/// Writes of some seconds.
const MOMENT: u64 = 40;
/// What numbers are raised by.
const RAISED: u64 = 1000;
