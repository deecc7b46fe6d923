//! Listeners on their way out.
//!
//! Closing a TCP listener resets whoever is in its handshake or its queue, and both may believe to
//! be connected. So it first refuses new handshakes, and is looked at every [`PACE`] while its
//! thread goes on accepting: only when two looks in a row find no handshake under way, or after
//! [`PATIENCE`], which is for clients that vanished, does its thread empty the queue and close it.
//! Two looks, because a handshake that has just ended is in neither place for an instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use fairlead_runtime::clock::Tick;

use super::listeners::Bound;
use crate::{sockets::Bind, sys::handshake};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Closing {
    listeners: BTreeMap<Bind, Leaver>,
    next_look: Option<Tick>,
}

#[derive(Debug)]
struct Leaver {
    bound: Bound,
    until: Tick,
    /// The last look found nobody.
    quiet: bool,
}

// === impl Closing ===

impl Closing {
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// When [`Self::advance`] has something to do.
    pub(super) fn next_look(&self) -> Option<Tick> {
        self.next_look
    }

    /// Lets the listeners of an address begin no new handshake.
    pub(super) fn begin(&mut self, bind: Bind, bound: Bound, now: Tick) {
        for socket in bound.sockets() {
            if let Err(error) = handshake::refuse(socket) {
                tracing::debug!(%bind, %error, "closes while clients may still connect");
            }
        }
        let leaver = Leaver {
            bound,
            until: now + PATIENCE,
            quiet: false,
        };
        self.listeners.insert(bind, leaver);
        self.next_look.get_or_insert(now + PACE);
    }

    /// Takes an address back that is wanted again after all.
    pub(super) fn take(&mut self, bind: Bind) -> Option<Bound> {
        let leaver = self.listeners.remove(&bind)?;
        for socket in leaver.bound.sockets() {
            // It refuses nothing where `begin` failed.
            let _admitted = handshake::admit(socket);
        }
        Some(leaver.bound)
    }

    /// The listeners to empty and close now. `under_way` tells the local addresses of handshakes;
    /// where the kernel can't tell, each listener has all its time.
    pub(super) fn advance(
        &mut self,
        now: Tick,
        under_way: impl FnOnce() -> io::Result<Vec<SocketAddr>>,
    ) -> Vec<(Bind, Bound)> {
        if self.next_look.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let busy = under_way().ok().map(Busy::new);
        let mut done = Vec::new();
        for (bind, mut leaver) in std::mem::take(&mut self.listeners) {
            let quiet = busy.as_ref().is_some_and(|busy| !busy.has(bind.addr));
            if now >= leaver.until || (quiet && leaver.quiet) {
                done.push((bind, leaver.bound));
            } else {
                leaver.quiet = quiet;
                self.listeners.insert(bind, leaver);
            }
        }
        self.next_look = (!self.listeners.is_empty()).then(|| now + PACE);
        done
    }
}

/// Addresses with handshakes under way.
struct Busy {
    addrs: BTreeSet<SocketAddr>,
    ports: BTreeSet<(bool, u16)>,
}

impl Busy {
    fn new(addrs: Vec<SocketAddr>) -> Self {
        Self {
            ports: addrs
                .iter()
                .map(|addr| (addr.is_ipv4(), addr.port()))
                .collect(),
            addrs: addrs.into_iter().collect(),
        }
    }

    /// Whether somebody connects to what is bound to `addr`.
    fn has(&self, addr: SocketAddr) -> bool {
        match addr.ip().is_unspecified() {
            true => self.ports.contains(&(addr.is_ipv4(), addr.port())),
            false => self
                .addrs
                .contains(&SocketAddr::new(addr.ip(), addr.port())),
        }
    }
}

/// Between two looks.
const PACE: Duration = Duration::from_millis(10);
/// Long enough for a handshake whose first answer was lost.
const PATIENCE: Duration = Duration::from_millis(2500);

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::frontend::Protocol;

    fn bind(addr: &str) -> Bind {
        Bind {
            protocol: Protocol::Tcp,
            addr: addr.parse().unwrap(),
        }
    }

    fn closing(addrs: &[&str]) -> Closing {
        let mut closing = Closing::default();
        for addr in addrs {
            closing.begin(bind(addr), Bound::empty(), Tick(0));
        }
        closing
    }

    /// The time of look number `count`.
    fn look(count: u32) -> Tick {
        Tick(0) + PACE * count
    }

    fn busy(addrs: &[&str]) -> io::Result<Vec<SocketAddr>> {
        Ok(addrs.iter().map(|addr| addr.parse().unwrap()).collect())
    }

    #[test]
    fn a_listener_closes_after_two_looks_in_a_row_that_find_nobody() {
        let mut closing = closing(&["10.0.0.1:80"]);
        let somebody = ["10.0.0.1:80"];
        for (count, there) in [
            (1, &[][..]),
            (2, &somebody),
            (3, &[]),
            (4, &somebody),
            (5, &[]),
        ] {
            assert_eq!(
                closing.advance(look(count), || busy(there)).len(),
                0,
                "{count}"
            );
        }
        assert_eq!(closing.advance(look(6), || busy(&["10.0.0.2:80"])).len(), 1);
        assert_eq!(closing.next_look(), None);
    }

    #[test]
    fn nobody_is_looked_for_before_it_is_time() {
        let mut closing = closing(&["10.0.0.1:80"]);
        let never = || -> io::Result<Vec<SocketAddr>> { panic!("too early") };
        assert_eq!(closing.advance(Tick(1), never).len(), 0);
        assert_eq!(closing.next_look(), Some(look(1)));
    }

    #[test]
    fn a_wildcard_waits_for_every_address_of_its_family() {
        let mut closing = closing(&["0.0.0.0:80", "[::]:80"]);
        for count in 1..5 {
            closing.advance(look(count), || busy(&["10.9.9.9:80"]));
        }
        let left: Vec<_> = closing.listeners.keys().copied().collect();
        assert_eq!(left, [bind("0.0.0.0:80")]);
    }

    #[test]
    fn clients_that_vanished_and_a_kernel_that_cannot_tell_are_waited_for_until_a_limit() {
        for there in [Some(["10.0.0.1:80"]), None] {
            let mut closing = closing(&["10.0.0.1:80"]);
            let tell = || there.map_or(Err(io::ErrorKind::Unsupported.into()), |it| busy(&it));
            assert_eq!(closing.advance(Tick(0) + (PATIENCE - PACE), tell).len(), 0);
            assert_eq!(closing.advance(Tick(0) + PATIENCE, tell).len(), 1);
        }
    }

    #[test]
    fn an_address_that_is_wanted_again_leaves_no_more() {
        let mut closing = closing(&["10.0.0.1:80"]);
        assert!(closing.take(bind("10.0.0.1:80")).is_some());
        assert!(closing.take(bind("10.0.0.1:80")).is_none());
        assert_eq!(closing.advance(look(1), || busy(&[])).len(), 0);
    }
}
