//! From the address a client connected to, to the service that it gets.
//!
//! Built by the control thread and swapped as a whole when frontends change; what changes with a
//! service is swapped inside its [`Entry`]. Looking up costs one hash of the address. A wildcard
//! address is asked after the exact one; a server name exactly, then by its longest suffix, then
//! the frontend that names none.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use fairlead_config::{
    frontend::{AcceptProxy, Frontend, Protocol, SniPattern},
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
#[derive(Debug, Default)]
pub struct RouteTable {
    groups: HashMap<SocketAddr, Arc<Group>>,
}

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
    /// The table of `protocol`. Of two frontends with the same address and server name the first
    /// counts; sources refuse such files.
    pub fn build(protocol: Protocol, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut groups: HashMap<SocketAddr, Group> = HashMap::new();
        for entry in entries {
            let route = entry.load();
            let frontend = &route.frontend;
            if frontend.protocol != protocol {
                continue;
            }
            for port in frontend.ports.clone() {
                let addr = SocketAddr::new(frontend.ip, port);
                groups.entry(addr).or_default().add(frontend, &entry);
            }
        }
        let groups = groups.into_iter().map(|(addr, mut group)| {
            group
                .suffixes
                .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
            (addr, Arc::new(group))
        });
        Self {
            groups: groups.collect(),
        }
    }

    /// The frontends at a local address.
    pub fn group(&self, local: &SocketAddr) -> Option<&Arc<Group>> {
        let key = SocketAddr::new(local.ip(), local.port());
        self.groups.get(&key).or_else(|| {
            let any = match key {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            self.groups.get(&SocketAddr::new(any, key.port()))
        })
    }
}

// === impl Group ===

impl Group {
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
