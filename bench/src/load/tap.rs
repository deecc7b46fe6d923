//! Which connects are tried at an address, whether anybody answers or not: told from outside, so it is
//! the same for every proxy.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::SocketAddrV4,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;
use fairlead_runtime::clock::Clock;
use socket2::{Domain, Protocol, Socket, Type};

/// What to watch.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddrV4,
}

/// Prints `ready`, then the time of each attempt in microseconds since 1970, until it is killed. SYNs
/// that are sent again are no new attempt.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))
        .context("opening a packet socket")?;
    println!("ready");
    let mut seen = BTreeSet::new();
    let mut packet = [0; 128];
    loop {
        let len = socket.read(&mut packet)?;
        if let Some(attempt) = attempt(&packet[..len], options.to)
            && seen.insert(attempt)
        {
            println!("{}", micros(now()));
        }
    }
}

/// The time by the machine's clock, which all processes share.
pub(crate) fn now() -> SystemTime {
    let clock = Clock::system();
    clock.wall(clock.now())
}

/// As [`run`] prints it.
pub(crate) fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The source port and sequence number of a connect to `to`; none where a packet is anything else.
fn attempt(packet: &[u8], to: SocketAddrV4) -> Option<(u16, u32)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_meant = packet.get(9) == Some(&TCP) && packet.get(16..20)? == to.ip().octets();
    let segment = packet.get(header..header + 14).filter(|_| is_meant)?;
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let begins = segment[13] & (SYN | ACK) == SYN;
    let sequence = u32::from(word(4)) << 16 | u32::from(word(6));
    (begins && word(2) == to.port()).then_some((word(0), sequence))
}

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, to: SocketAddrV4) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[16..20].copy_from_slice(&to.ip().octets());
        packet[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&to.port().to_be_bytes());
        packet[24..28].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
        packet[33] = flags;
        packet
    }

    #[test]
    fn only_the_first_segment_of_a_connect_to_the_address_is_an_attempt() {
        let to = SocketAddrV4::new([10, 0, 0, 1].into(), 7001);
        let other = SocketAddrV4::new([10, 0, 0, 1].into(), 7002);
        assert_eq!(attempt(&packet(SYN, to), to), Some((40_000, 0x0102_0304)));
        assert_eq!(attempt(&packet(SYN | ACK, to), to), None);
        assert_eq!(attempt(&packet(ACK, to), to), None);
        assert_eq!(attempt(&packet(SYN, to), other), None);
        assert_eq!(attempt(&packet(SYN, to)[..30], to), None);
        assert_eq!(attempt(&[], to), None);
    }
}
