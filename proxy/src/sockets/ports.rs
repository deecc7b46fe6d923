//! The ports that are listened on, and whether a further address collides with one.

use std::collections::BTreeMap;

use fairlead_config::frontend::Protocol;

use super::Bind;

/// Addresses that are listened on, counted by port. Everything is O(log n).
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// By protocol, whether it is IPv4, and port.
    held: BTreeMap<(Protocol, bool, u16), Count>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    all: usize,
    wild: usize,
}

// === impl Ports ===

impl Ports {
    pub(crate) fn hold(&mut self, bind: Bind) {
        let count = self.held.entry(port_of(bind)).or_default();
        count.all += 1;
        count.wild += usize::from(bind.addr.ip().is_unspecified());
    }

    /// Takes back one [`Self::hold`] of the same address.
    pub(crate) fn release(&mut self, bind: Bind) {
        let port = port_of(bind);
        let Some(count) = self.held.get_mut(&port) else {
            return;
        };
        count.all -= 1;
        count.wild -= usize::from(bind.addr.ip().is_unspecified());
        if count.all == 0 {
            self.held.remove(&port);
        }
    }

    /// Whether `bind` would find itself on a port that is held: by a wildcard, or, where it is one
    /// itself, at any address.
    pub(crate) fn overlaps(&self, bind: Bind) -> bool {
        let count = self.held.get(&port_of(bind)).copied().unwrap_or_default();
        match bind.addr.ip().is_unspecified() {
            true => count.all > 0,
            false => count.wild > 0,
        }
    }
}

fn port_of(bind: Bind) -> (Protocol, bool, u16) {
    (bind.protocol, bind.addr.is_ipv4(), bind.addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    /// Few enough that they collide often.
    fn binds() -> impl Strategy<Value = Bind> {
        let protocols = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
        let ips = ["0.0.0.0", "127.0.0.1", "10.0.0.1", "[::]", "[::1]"];
        (protocols, prop::sample::select(ips.to_vec()), 80_u16..83).prop_map(
            |(protocol, ip, port)| Bind {
                protocol,
                addr: format!("{ip}:{port}").parse::<SocketAddr>().unwrap(),
            },
        )
    }

    /// By looking at each.
    fn overlaps(held: &[Bind], bind: Bind) -> bool {
        held.iter().any(|other| {
            let same_port =
                other.protocol == bind.protocol && other.addr.port() == bind.addr.port();
            let same_family = other.addr.is_ipv4() == bind.addr.is_ipv4();
            let wild = other.addr.ip().is_unspecified() || bind.addr.ip().is_unspecified();
            same_port && same_family && wild
        })
    }

    proptest! {
        #[test]
        fn an_address_overlaps_exactly_those_that_a_look_at_each_finds(
            steps in prop::collection::vec((any::<bool>(), binds()), 0..60),
            asked in prop::collection::vec(binds(), 1..20),
        ) {
            let (mut ports, mut held) = (Ports::default(), Vec::new());
            for (comes, bind) in steps {
                if comes {
                    ports.hold(bind);
                    held.push(bind);
                } else if let Some(at) = held.iter().position(|other| *other == bind) {
                    held.swap_remove(at);
                    ports.release(bind);
                }
                for bind in &asked {
                    prop_assert_eq!(ports.overlaps(*bind), overlaps(&held, *bind));
                }
            }
            for bind in held {
                ports.release(bind);
            }
            prop_assert!(ports.held.is_empty(), "{:?}", ports);
        }
    }
}
