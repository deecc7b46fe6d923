//! Which port of a proxy group each frontend gets.
//!
//! A frontend keeps its port as long as it is wanted: allocations are read from the group's status
//! and kept wherever they still fit. TCP and UDP are apart, so a service can have one number for
//! both. New frontends are served in order: those that ask for a port first, then the others: the
//! service's own port where it is in the range and free, else a place in the range that depends on
//! the name, so that a group that lost its status comes out much the same.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::proxy::{AllocatedPort, PortRange};
use fairlead_config::frontend::Protocol;

/// A frontend that wants a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedPort {
    /// `namespace/name:port`.
    pub service: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The service's port.
    pub service_port: u16,
    /// The port asked for; none is any of the range.
    pub listen_port: Option<u16>,
    /// Several frontends may share this port: TLS server names tell them apart.
    pub shared: bool,
}

/// What every frontend got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// In order of service and protocol.
    pub ports: Vec<AllocatedPort>,
    /// Frontends without a port, and why.
    pub refused: Vec<(WantedPort, String)>,
}

/// Gives each wanted frontend a port. Costs O(n log n).
pub fn allocate(
    range: PortRange,
    mut wanted: Vec<WantedPort>,
    current: &[AllocatedPort],
) -> Allocation {
    wanted.sort();
    wanted.dedup_by(|a, b| a.service == b.service && a.protocol == b.protocol);
    let had: BTreeMap<(&str, &str), u16> = current
        .iter()
        .filter_map(|have| {
            let port = u16::try_from(have.port).ok()?;
            Some(((have.service.as_str(), have.protocol.as_str()), port))
        })
        .collect();
    let mut book = Book::new(range);
    let (kept, new): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|want| {
        let port = had.get(&(want.service.as_str(), name(want.protocol)));
        port.is_some_and(|port| fits(want, *port, range) && book.take(want, *port))
    });
    drop(kept);
    let (asking, any): (Vec<_>, Vec<_>) =
        new.into_iter().partition(|want| want.listen_port.is_some());
    for want in asking {
        let port = want.listen_port.expect("partitioned by it");
        if !book.take(&want, port) {
            let holder = book.holder(want.protocol, port);
            let why = format!(
                "{} port {port} is taken by {holder}; ask for another",
                name(want.protocol)
            );
            book.refused.push((want, why));
        }
    }
    for want in any {
        if !book.take_any(&want) {
            let why = format!(
                "no {} port of {}-{} is free; widen spec.portRange",
                name(want.protocol),
                range.first,
                range.last
            );
            book.refused.push((want, why));
        }
    }
    book.finish()
}

/// Whether an allocation is as good as a new one: then it is kept.
pub fn fits(want: &WantedPort, port: u16, range: PortRange) -> bool {
    match want.listen_port {
        Some(asked) => asked == port,
        None => (range.first..=range.last).contains(&i32::from(port)),
    }
}

/// `TCP` or `UDP`, as in Kubernetes.
pub fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

struct Book {
    range: PortRange,
    taken: BTreeMap<(Protocol, u16), (String, bool)>,
    ports: Vec<AllocatedPort>,
    refused: Vec<(WantedPort, String)>,
    full: BTreeSet<Protocol>,
}

impl Book {
    fn new(range: PortRange) -> Self {
        Self {
            range,
            taken: BTreeMap::new(),
            ports: Vec::new(),
            refused: Vec::new(),
            full: BTreeSet::new(),
        }
    }

    fn take(&mut self, want: &WantedPort, port: u16) -> bool {
        match self.taken.get(&(want.protocol, port)) {
            Some((_, shared)) if !(*shared && want.shared) => return false,
            _ => {}
        }
        self.taken
            .insert((want.protocol, port), (want.service.clone(), want.shared));
        self.ports.push(AllocatedPort {
            service: want.service.clone(),
            protocol: name(want.protocol).to_owned(),
            port: i32::from(port),
        });
        true
    }

    fn take_any(&mut self, want: &WantedPort) -> bool {
        if self.full.contains(&want.protocol) {
            return false;
        }
        let (first, last) = (self.range.first.max(1), self.range.last.min(65_535));
        let own = i32::from(want.service_port);
        let count = last - first + 1;
        if count <= 0 {
            return false;
        }
        let start = if (first..=last).contains(&own) {
            own - first
        } else {
            i32::try_from(spread(&want.service) % count.unsigned_abs()).unwrap_or(0)
        };
        for step in 0..count {
            let port = first + (start + step) % count;
            let port = u16::try_from(port).expect("the range is within 1 to 65535");
            if !self.taken.contains_key(&(want.protocol, port)) {
                return self.take(want, port);
            }
        }
        self.full.insert(want.protocol);
        false
    }

    fn holder(&self, protocol: Protocol, port: u16) -> &str {
        let holder = self.taken.get(&(protocol, port));
        holder.map_or("another frontend", |(service, _)| service)
    }

    fn finish(mut self) -> Allocation {
        self.ports.sort();
        self.refused.sort();
        Allocation {
            ports: self.ports,
            refused: self.refused,
        }
    }
}

/// FNV-1a: a place in the range that only the name decides.
fn spread(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE: PortRange = PortRange {
        first: 30_000,
        last: 30_009,
    };

    fn want(service: &str, listen_port: Option<u16>) -> WantedPort {
        WantedPort {
            service: service.to_owned(),
            protocol: Protocol::Tcp,
            service_port: 80,
            listen_port,
            shared: false,
        }
    }

    #[test]
    fn tcp_and_udp_of_one_service_get_one_number() {
        let udp = WantedPort {
            protocol: Protocol::Udp,
            ..want("a/a:x", None)
        };
        let found = allocate(RANGE, vec![want("a/a:x", None), udp], &[]);
        assert_eq!(found.ports[0].port, found.ports[1].port);
    }

    #[test]
    fn a_taken_port_is_refused_by_name_and_the_holder_keeps_it() {
        let first = allocate(RANGE, vec![want("b/b:x", Some(443))], &[]);
        let both = vec![want("a/a:x", Some(443)), want("b/b:x", Some(443))];
        let found = allocate(RANGE, both, &first.ports);
        assert_eq!(found.ports, first.ports);
        assert!(
            found.refused[0].1.contains("taken by b/b:x"),
            "{:?}",
            found.refused
        );
    }

    #[test]
    fn server_names_share_a_port() {
        let shared = |service| WantedPort {
            shared: true,
            ..want(service, Some(443))
        };
        let found = allocate(RANGE, vec![shared("a/a:x"), shared("b/b:x")], &[]);
        assert_eq!(found.ports.len(), 2);
        assert!(found.refused.is_empty());
    }

    #[test]
    fn the_eleventh_of_ten_hears_what_to_do() {
        let all = (0..11).map(|n| want(&format!("a/a:p{n}"), None)).collect();
        let found = allocate(RANGE, all, &[]);
        assert_eq!((found.ports.len(), found.refused.len()), (10, 1));
        assert!(found.refused[0].1.contains("spec.portRange"));
    }

    proptest! {
        #[test]
        fn what_is_still_wanted_keeps_its_port_and_no_port_is_given_twice(
            before in proptest::collection::btree_set(0..40u8, 0..10),
            after in proptest::collection::btree_set(0..40u8, 0..14),
        ) {
            let list = |set: &BTreeSet<u8>| set.iter().map(|n| want(&format!("a/a:p{n}"), None)).collect::<Vec<_>>();
            let first = allocate(RANGE, list(&before), &[]);
            let second = allocate(RANGE, list(&after), &first.ports);
            for port in &first.ports {
                let wanted = after.iter().any(|n| port.service == format!("a/a:p{n}"));
                prop_assert_eq!(second.ports.contains(port), wanted);
            }
            let numbers: BTreeSet<i32> = second.ports.iter().map(|port| port.port).collect();
            prop_assert_eq!(numbers.len(), second.ports.len());
            prop_assert_eq!(second.ports.len() + second.refused.len(), after.len());
            prop_assert_eq!(&allocate(RANGE, list(&after), &second.ports), &second);
        }
    }
}
