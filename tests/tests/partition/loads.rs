//! Load reports: from proxies to replicas, from followers to the leader, into statuses; and what
//! must be so of these.

use std::{collections::BTreeMap, time::Duration};

use fairlead_api::service::MultiClusterServiceStatus;
use fairlead_config::xds::proto::load_stats::LoadStatsRequest;
use fairlead_controller::{
    fleet::{ProxyId, Source},
    world::{Kind, Object},
};
use fairlead_runtime::clock::Tick;
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use crate::{
    fleet::{Fleet, PROXIES, REPLICAS},
    proxy::Proxy,
    store::Store,
};

/// A follower hands on what it hears to the leader.
pub(crate) struct Handing {
    from: Life,
    to: Life,
    source: Source,
    news: Receiver<LoadStatsRequest>,
}

/// A replica, and which of its lives.
type Life = (usize, u64);

/// Since when reports of a proxy arrive where statuses are written, and by which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    at: Life,
    leader: Life,
    stream: u64,
}

/// What is known of all this.
#[derive(Default)]
pub(crate) struct Loads {
    handings: Vec<Handing>,
    ways: BTreeMap<usize, (Way, Tick)>,
    next_check: Tick,
}

impl Loads {
    /// The store went back: what it says is old.
    pub(crate) fn forget(&mut self) {
        self.ways.clear();
    }
}

pub(crate) fn id(number: usize) -> ProxyId {
    ProxyId {
        group: "edge".to_owned(),
        node: format!("p{number}"),
    }
}

impl Fleet {
    /// The proxy's stream of reports: opened, heard, told what is wanted.
    pub(crate) fn hear_report(&mut self, number: usize, proxy: &mut Proxy) {
        let now = self.now;
        proxy.sample(now);
        let Some(at) = proxy.reports_to() else {
            let at = self.dice.below(REPLICAS);
            if proxy.wants_reports(now) && self.doors[number][at] && self.replicas[at].is_some() {
                let replica = self.replicas[at].as_mut().expect("looked at above");
                replica.reports.reports(&id(number));
                proxy.opens_reports(at, now);
            }
            return;
        };
        if !self.doors[number][at] {
            return;
        }
        let replica = self.replicas[at].as_mut().expect("its end was told");
        for (report, first) in proxy.take_reports() {
            replica.reports.reported(&id(number), &report, first);
        }
        proxy.is_asked(&replica.board, now);
    }

    /// Followers hand on to the leader what they hear.
    pub(crate) fn hand_on(&mut self) {
        let leader = self.leader();
        let life = |number: usize| -> Option<Life> {
            let replica = self.replicas[number].as_ref()?;
            Some((number, replica.life_number))
        };
        let lives: Vec<Life> = (0..REPLICAS).filter_map(life).collect();
        let stays = |one: &Handing| {
            lives.contains(&one.from) && lives.contains(&one.to) && leader == Some(one.to.0)
        };
        let (stay, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.loads.handings)
            .into_iter()
            .partition(stays);
        self.loads.handings = stay;
        for one in ended {
            let to = self.replicas[one.to.0].as_mut();
            if let Some(to) = to.filter(|to| to.life_number == one.to.1) {
                to.reports.end_handed(one.source);
            }
        }
        let Some(leader) = leader else {
            return;
        };
        for from in lives.iter().filter(|(number, _)| *number != leader) {
            if self.loads.handings.iter().any(|one| one.from == *from) {
                continue;
            }
            let follower = self.replicas[from.0].as_ref().expect("it lives");
            let (all, news) = follower.reports.hand_on();
            let to = self.replicas[leader].as_ref().expect("it leads");
            let mut source = Source::default();
            for message in &all {
                to.reports.take_handed(&mut source, message);
            }
            self.loads.handings.push(Handing {
                from: *from,
                to: (leader, to.life_number),
                source,
                news,
            });
        }
        for one in &mut self.loads.handings {
            let to = self.replicas[one.to.0].as_ref().expect("it leads");
            loop {
                match one.news.try_recv() {
                    Ok(message) => to.reports.take_handed(&mut one.source, &message),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                    Err(TryRecvError::Lagged(_)) => panic!("it is read at every step"),
                }
            }
        }
    }

    /// The replica that writes.
    fn leader(&self) -> Option<usize> {
        let all = self.replicas.iter().enumerate();
        let mut leading = all.filter(|(_, replica)| {
            let replica = replica.as_ref();
            replica.is_some_and(|replica| replica.leads(self.now))
        });
        leading.next().map(|(number, _)| number)
    }

    /// What the status says of live sessions is at least what is known for long; and it says
    /// something, once every proxy has been heard for long.
    pub(crate) fn check_loads(&mut self) {
        let now = self.now;
        let ways: Vec<Option<Way>> = (0..PROXIES).map(|number| self.way(number)).collect();
        for (number, way) in ways.into_iter().enumerate() {
            match (way, self.loads.ways.get(&number)) {
                (Some(way), Some((old, _))) if way == *old => {}
                (Some(way), _) => drop(self.loads.ways.insert(number, (way, now))),
                (None, _) => drop(self.loads.ways.remove(&number)),
            }
        }
        if now < self.loads.next_check {
            return;
        }
        self.loads.next_check = now.after(CHECK_EVERY);
        let heard = |number: &usize| {
            let way = self.loads.ways.get(number);
            way.is_some_and(|(_, since)| now.since(*since) > REPORTED)
        };
        let heard: Vec<usize> = (0..PROXIES).filter(heard).collect();
        if heard.is_empty() {
            return;
        }
        let status = status(&self.store);
        for (number, cluster) in self.clusters.iter().enumerate() {
            let mut members = status.members.iter();
            let Some(member) = members.find(|member| member.member == cluster.name.as_str()) else {
                continue;
            };
            let Some(said) = member.active_sessions else {
                // Endpoints that it never had need no number.
                let told = |proxy: &usize| {
                    let proxy = self.proxies[*proxy].as_ref().expect("all live");
                    proxy.knows_for(number, REPORTED, now)
                };
                let all = heard.len() == PROXIES && heard.iter().any(told);
                assert!(
                    !all,
                    "the sessions of m{number} are unknown, though every proxy reports"
                );
                continue;
            };
            let old = |proxy: &usize| {
                let proxy = self.proxies[*proxy].as_ref().expect("all live");
                proxy.old_sessions(number, REPORTED, now)
            };
            let old: usize = heard.iter().map(old).sum();
            assert!(
                usize::try_from(said).is_ok_and(|said| said >= old),
                "m{number} is said to have {said} sessions, and has {old} for long"
            );
        }
    }

    /// How reports of a proxy come to the store now, if they do.
    fn way(&self, number: usize) -> Option<Way> {
        let proxy = self.proxies[number].as_ref()?;
        let at = proxy.reports_to().filter(|at| self.doors[number][*at])?;
        let leader = self.leader()?;
        let replica = self.replicas[leader].as_ref()?;
        if !self.api[leader] || !replica.serves {
            return None;
        }
        Some(Way {
            at: (at, self.replicas[at].as_ref()?.life_number),
            leader: (leader, replica.life_number),
            stream: proxy.streams(),
        })
    }

    /// Each proxy is known, and runs on what is published.
    pub(crate) fn check_proxies_known(&self) {
        let groups = self.store.list(Kind::Group);
        let Some(Object::Group(group)) = groups.first() else {
            panic!("the group is there");
        };
        let status = group.status.clone().unwrap_or_default();
        let number = i32::try_from(PROXIES).unwrap();
        assert_eq!(
            (status.connected, status.in_sync),
            (number, number),
            "{status:?}"
        );
    }
}

fn status(store: &Store) -> MultiClusterServiceStatus {
    let all = store.list(Kind::Service);
    let Some(Object::Service(service)) = all.first() else {
        panic!("the service is there");
    };
    service.status.clone().unwrap_or_default()
}

const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Reports come every ten seconds, and are written every ten.
const REPORTED: Duration = Duration::from_secs(30);
