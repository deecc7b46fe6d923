//! The hundred ports of a fleet: one that is held so that no other fleet takes the block, one for
//! the proxy's admin pages, the others for clients.
//!
//! They lie below the kernel's range of ports for outgoing connections, so that nobody gets one by
//! accident.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

/// The ports; held as long as this lives.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u16,
    _held: TcpListener,
}

impl Block {
    /// The block that begins at `asked`, which an earlier process may give up only now; else the
    /// first free one.
    pub(super) async fn take(address: Ipv4Addr, asked: Option<u16>) -> anyhow::Result<Self> {
        let Some(first) = asked else {
            let mut blocks = (FIRST..LAST).step_by(usize::from(SIZE));
            let free = blocks.find_map(|first| Self::at(address, first).ok());
            return free.with_context(|| {
                format!("no {SIZE} ports from {FIRST} to {LAST} are free on {address}; name some with --port")
            });
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::at(address, first) {
                Ok(block) => return Ok(block),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Where the proxy's admin pages are.
    pub(super) fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + 1).into()
    }

    /// For clients.
    pub(super) fn frontends(&self) -> RangeInclusive<u16> {
        self.first + 2..=self.first + (SIZE - 1)
    }

    fn at(address: Ipv4Addr, first: u16) -> anyhow::Result<Self> {
        let Some(last) = first.checked_add(SIZE - 1).filter(|_| first > 0) else {
            bail!(
                "a fleet takes {SIZE} ports; begin at {} or below",
                u16::MAX - SIZE
            );
        };
        let taken = |port| {
            format!(
                "port {port} on {address} is taken (this fleet uses {first} to {last}): by another `fairlead up`, or \
                 another program; end it, or take other ports with --port"
            )
        };
        let held = TcpListener::bind((address, first)).with_context(|| taken(first))?;
        for port in first + 1..=last {
            TcpListener::bind((address, port)).with_context(|| taken(port))?;
            UdpSocket::bind((address, port)).with_context(|| taken(port))?;
        }
        let admin = first + 1;
        TcpListener::bind((Ipv4Addr::LOCALHOST, admin)).with_context(|| taken(admin))?;
        Ok(Self { first, _held: held })
    }
}

const SIZE: u16 = 100;
/// Where blocks begin.
const FIRST: u16 = 17_000;
/// Nodes' ports of Kubernetes begin here.
const LAST: u16 = 30_000;
/// A proxy that is ending gives its ports up.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_fleets_get_blocks_of_their_own() {
        let address = Ipv4Addr::new(127, 77, 0, 1);
        let (one, two) = (
            Block::take(address, None).await.unwrap(),
            Block::take(address, None).await.unwrap(),
        );
        assert_ne!(one.first, two.first);
        let error = Block::take(address, Some(one.first)).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("port {} on {address} is taken", one.first)),
            "{text}"
        );
        assert!(text.contains("--port"), "{text}");
    }

    #[tokio::test]
    async fn a_port_that_a_client_would_use_must_be_free() {
        let address = Ipv4Addr::new(127, 77, 0, 2);
        let stranger = UdpSocket::bind((address, 17_042)).unwrap();
        let text = format!(
            "{:#}",
            Block::take(address, Some(17_000)).await.unwrap_err()
        );
        assert!(text.contains("port 17042"), "{text}");
        drop(stranger);
        Block::take(address, Some(17_000)).await.unwrap();
    }

    #[tokio::test]
    async fn a_block_beyond_the_last_port_is_refused() {
        assert!(
            Block::take(Ipv4Addr::LOCALHOST, Some(65_500))
                .await
                .is_err()
        );
    }
}
