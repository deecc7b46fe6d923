//! From the address a client connected to, to the service that it gets.
//!
//! The control thread swaps the table as a whole when frontends change; a new one shares all but the
//! touched shards with the old one, so that one frontend among 10,000 costs some microseconds. What
//! changes with a service is swapped inside its [`Entry`]. Looking up costs one hash of the address. A wildcard
//! address is asked after the exact one; a server name exactly, then by its longest suffix, then
//! the frontend that names none.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use fairlead_config::{
    frontend::{AcceptProxy, Frontend, SniPattern},
    service::Service,
};
use hashbrown::HashMap;

use crate::{
    access_log::sink::Sink,
    balancer::hash::Identity,
    limits::Limiter,
    metrics::{MemberMetrics, ServiceMetrics},
    registry::{FrontendId, ServiceState},
    sys::tcp::Liveness,
    tcp::pace::Pace,
};

/// What a session of one frontend needs, resolved beforehand.
#[derive(Debug)]
pub struct Route {
    /// The frontend's number.
    pub id: FrontendId,
    /// The frontend.
    pub frontend: Arc<Frontend>,
    /// Where the current view is.
    pub state: Arc<ServiceState>,
    /// The service's row: its policy.
    pub service: Arc<Service>,
    /// Its limits and what counts against them.
    pub limiter: Arc<Limiter>,
    /// What is counted of the service.
    pub metrics: Arc<ServiceMetrics>,
    /// What is counted of its members, ordered by identity.
    pub members: Box<[(Identity, Arc<MemberMetrics>)]>,
    /// Where its sessions are logged.
    pub log: Option<Arc<Sink>>,
    /// How fast its sessions may be reset.
    pub pace: Arc<Pace>,
}

/// A route whose service may change.
pub type Entry = Arc<ArcSwap<Route>>;

/// All routes of one protocol, by local address.
#[derive(Debug)]
pub struct RouteTable {
    shards: Box<[Arc<Shard>]>,
}

type Shard = HashMap<SocketAddr, Arc<Group>>;

/// The frontends of one local address.
#[derive(Debug, Default)]
pub struct Group {
    plain: Option<Entry>,
    exact: HashMap<Box<str>, Entry>,
    /// Longest first.
    suffixes: Vec<(Box<str>, Entry)>,
    /// Common to all of them, since the header comes before the name.
    header: Option<AcceptProxy>,
}

// === impl Route ===

impl Route {
    /// Whether clients from `ip` may connect.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let allow = &self.frontend.allow;
        allow.is_empty() || allow.iter().any(|net| net.contains(&ip))
    }

    /// The counters of a member.
    pub fn member(&self, identity: Identity) -> Option<&Arc<MemberMetrics>> {
        let place = self.members.binary_search_by_key(&identity, |(id, _)| *id);
        place.ok().map(|place| &self.members[place].1)
    }

    /// How dead peers of its sessions are noticed.
    pub fn liveness(&self) -> Liveness {
        liveness(&self.service)
    }
}

/// How dead peers of a service's sessions are noticed.
pub fn liveness(service: &Service) -> Liveness {
    let keepalive = service.policy.keepalive;
    Liveness {
        keepalive: (!keepalive.idle.is_zero()).then_some((
            keepalive.idle,
            keepalive.interval,
            keepalive.probes,
        )),
        user_timeout: service.policy.timeouts.user,
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// This table with other groups at some addresses; none takes the address out.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (SocketAddr, Option<Arc<Group>>)>,
    ) -> Self {
        let mut shards = self.shards.clone();
        for (addr, group) in changes {
            let shard = Arc::make_mut(&mut shards[shard_of(&addr)]);
            match group {
                Some(group) => shard.insert(addr, group),
                None => shard.remove(&addr),
            };
        }
        Self { shards }
    }

    /// The frontends at a local address.
    pub fn group(&self, local: &SocketAddr) -> Option<&Arc<Group>> {
        let key = SocketAddr::new(local.ip(), local.port());
        self.exactly(&key).or_else(|| {
            let any = match key {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            self.exactly(&SocketAddr::new(any, key.port()))
        })
    }

    fn exactly(&self, addr: &SocketAddr) -> Option<&Arc<Group>> {
        self.shards[shard_of(addr)].get(addr)
    }
}

impl Default for RouteTable {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        Self {
            shards: vec![empty; SHARDS].into(),
        }
    }
}

/// Frontends differ by port as a rule, and by address where they share one.
fn shard_of(addr: &SocketAddr) -> usize {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    };
    let mixed = (ip ^ u32::from(addr.port()) << 8).wrapping_mul(0x9e37_79b1);
    (mixed >> 16) as usize % SHARDS
}

// === impl Group ===

impl Group {
    /// The group of these frontends. Of two with the same server name the first counts; sources
    /// refuse such files.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut group = Self::default();
        for entry in entries {
            group.add(&entry.load().frontend, entry);
        }
        let by_length = |(suffix, _): &(Box<str>, Entry)| std::cmp::Reverse(suffix.len());
        group.suffixes.sort_by_key(by_length);
        group
    }

    /// The route, where the server name doesn't matter.
    pub fn only(&self) -> Option<&Entry> {
        let named = !self.exact.is_empty() || !self.suffixes.is_empty();
        if named { None } else { self.plain.as_ref() }
    }

    /// Any of its frontends, for what they share.
    pub fn any(&self) -> Option<&Entry> {
        let named = self.exact.values().next();
        let named = named.or_else(|| self.suffixes.first().map(|(_, entry)| entry));
        self.plain.as_ref().or(named)
    }

    /// Who sends PROXY headers here: what the first of its frontends that takes any says.
    pub fn header(&self) -> Option<&AcceptProxy> {
        self.header.as_ref()
    }

    /// The route for a server name (lower case), or for none.
    pub fn named(&self, host: Option<&str>) -> Option<&Entry> {
        let by_name = host.and_then(|host| {
            self.exact.get(host).or_else(|| {
                let suffixes = self.suffixes.iter();
                let mut matching = suffixes
                    .filter(|(suffix, _)| SniPattern::Suffix(suffix.to_string()).matches(host));
                matching.next().map(|(_, entry)| entry)
            })
        });
        by_name.or(self.plain.as_ref())
    }

    fn add(&mut self, frontend: &Frontend, entry: &Entry) {
        if self.header.is_none() {
            self.header = frontend.proxy_protocol.clone();
        }
        if frontend.sni.is_empty() {
            self.plain.get_or_insert_with(|| entry.clone());
        }
        for pattern in &frontend.sni {
            match pattern {
                SniPattern::Exact(name) => {
                    let name = name.as_str().into();
                    self.exact.entry(name).or_insert_with(|| entry.clone());
                }
                SniPattern::Suffix(suffix) => {
                    self.suffixes.push((suffix.as_str().into(), entry.clone()));
                }
            }
        }
    }
}

/// With 10,000 frontends a shard has 40.
const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn addr(number: u16) -> SocketAddr {
        let wild = number.is_multiple_of(7);
        let ip = if wild {
            [0, 0, 0, 0]
        } else {
            [10, 0, 0, (number % 3) as u8]
        };
        SocketAddr::from((ip, 80 + number % 50))
    }

    proptest! {
        /// A table after any changes equals one made of what is left, and the one before is as it
        /// was.
        #[test]
        fn a_changed_table_knows_what_was_put_and_not_taken(
            steps in prop::collection::vec(prop::collection::vec((0..200_u16, any::<bool>()), 0..20), 0..20)
        ) {
            let mut table = RouteTable::default();
            let mut model: BTreeMap<SocketAddr, Arc<Group>> = BTreeMap::new();
            for step in steps {
                let before = model.clone();
                let mut changes = Vec::new();
                for (number, there) in step {
                    let group = there.then(Arc::<Group>::default);
                    match &group {
                        Some(group) => model.insert(addr(number), group.clone()),
                        None => model.remove(&addr(number)),
                    };
                    changes.push((addr(number), group));
                }
                let next = table.with(changes);
                for (table, model) in [(&table, &before), (&next, &model)] {
                    for number in 0..200 {
                        let found = table.exactly(&addr(number)).map(Arc::as_ptr);
                        prop_assert_eq!(found, model.get(&addr(number)).map(Arc::as_ptr));
                    }
                }
                table = next;
            }
        }
    }
}
