//! The affinity hash, specified so that a kernel program computes the same (64-bit integers only).
//!
//! `mix` is the finalizer of SplitMix64. A key is a sequence of 64-bit words `w1 … wn` and hashes to
//! `h(0) = mix(seed + 0x9e3779b97f4a7c15)`, `h(i) = mix(h(i-1) ^ wi)`. Words of
//!
//! - an address: its 16 bytes as two big-endian words; IPv4 as `::ffff:a.b.c.d`;
//! - a client: its address;
//! - a five-tuple: client address, local address, then
//!   `client port << 32 | local port << 16 | protocol number`;
//! - a name: its bytes as little-endian words, padded with zeros, then its length.
//!
//! Identities use seed 0: a member is its name; an endpoint is its member's name, its address and its
//! port. The score of an identity under a key is `mix(h ^ identity)`: the upper half ranks, the
//! lower half decides slow start. Test vectors stand in the tests and never change.

use std::net::IpAddr;

use fairlead_config::frontend::Protocol;

use super::FlowKey;

/// The hash of a client or of a flow under a service's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

/// The hash that stands for a member or an endpoint in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u64);

/// Hashes the client's address.
pub fn client(seed: u64, key: &FlowKey) -> KeyHash {
    let [high, low] = addr_words(key.client.ip());
    KeyHash(absorb(absorb(start(seed), high), low))
}

/// Hashes both addresses, both ports and the protocol.
pub fn five_tuple(seed: u64, key: &FlowKey) -> KeyHash {
    let [high, low] = addr_words(key.local.ip());
    let protocol = match key.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let ports = u64::from(key.client.port()) << 32 | u64::from(key.local.port()) << 16 | protocol;
    let KeyHash(hash) = client(seed, key);
    KeyHash(absorb(absorb(absorb(hash, high), low), ports))
}

/// The identity of a member.
pub fn member(name: &str) -> Identity {
    Identity(absorb_name(start(0), name))
}

/// The identity of an endpoint.
pub fn endpoint(member: &str, addr: std::net::SocketAddr) -> Identity {
    let [high, low] = addr_words(addr.ip());
    let hash = absorb(absorb(absorb_name(start(0), member), high), low);
    Identity(absorb(hash, u64::from(addr.port())))
}

impl KeyHash {
    /// The score of `identity` under this key; the upper half ranks.
    pub fn score(self, identity: Identity) -> u64 {
        mix(self.0 ^ identity.0)
    }

    /// Where this key stands among the tiers' shares: 0 is the most preferred.
    pub fn tier_point(self) -> u32 {
        (mix(self.0 ^ TIER_SALT) >> 32) as u32
    }
}

/// The finalizer of SplitMix64: a bijection in which every input bit moves every output bit.
pub(crate) const fn mix(mut word: u64) -> u64 {
    word ^= word >> 30;
    word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 27;
    word = word.wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn start(seed: u64) -> u64 {
    mix(seed.wrapping_add(GOLDEN))
}

fn absorb(hash: u64, word: u64) -> u64 {
    mix(hash ^ word)
}

fn absorb_name(hash: u64, name: &str) -> u64 {
    let hash = name.as_bytes().chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        absorb(hash, u64::from_le_bytes(word))
    });
    absorb(hash, name.len() as u64)
}

fn addr_words(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// 2^64 divided by the golden ratio.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps a key's place among tiers apart from its scores.
const TIER_SALT: u64 = 0x7469_6572_7469_6572;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str, local: &str, protocol: Protocol) -> FlowKey {
        FlowKey {
            client: client.parse().unwrap(),
            local: local.parse().unwrap(),
            protocol,
        }
    }

    // A change here moves every client of every service with affinity: never edit the numbers.
    #[test]
    fn hashes_match_the_published_vectors() {
        let v4 = key("192.0.2.1:40000", "198.51.100.7:443", Protocol::Tcp);
        let v6 = key("[2001:db8::1]:40000", "[2001:db8::2]:53", Protocol::Udp);
        let found = [
            mix(1),
            client(0, &v4).0,
            client(42, &v4).0,
            five_tuple(42, &v4).0,
            client(42, &v6).0,
            five_tuple(42, &v6).0,
            member("eu-1").0,
            member("a-longer-member-name").0,
            endpoint("eu-1", "10.0.0.1:8443".parse().unwrap()).0,
            endpoint("eu-1", "[fd00::1]:8443".parse().unwrap()).0,
            client(42, &v4).score(member("eu-1")),
            u64::from(client(42, &v4).tier_point()),
        ];
        assert_eq!(found, VECTORS, "{found:#x?}");
    }

    const VECTORS: [u64; 12] = [
        0x5692_161d_100b_05e5,
        0x7416_1827_8801_7bb0,
        0x1ab6_a5f4_efd2_c944,
        0x91b8_1449_9a81_c8cc,
        0xd586_e7ef_13b4_c749,
        0x72a2_767b_85ce_fa74,
        0xb836_6dde_184a_2c53,
        0x2447_4220_e62d_124d,
        0x98f4_0314_c169_cc6d,
        0x2f76_2588_df8e_f9d1,
        0x3249_5e2c_849c_daae,
        0x0000_0000_3518_c862,
    ];

    #[test]
    fn a_mapped_client_hashes_like_the_ipv4_client() {
        let v4 = key("192.0.2.1:1", "127.0.0.1:1", Protocol::Tcp);
        let mapped = key("[::ffff:192.0.2.1]:9", "127.0.0.1:1", Protocol::Tcp);
        assert_eq!(client(7, &v4), client(7, &mapped));
        assert_ne!(five_tuple(7, &v4), five_tuple(7, &mapped));
    }

    #[test]
    fn the_five_tuple_takes_every_part_into_account() {
        let base = key("192.0.2.1:1", "127.0.0.1:1", Protocol::Tcp);
        for other in [
            key("192.0.2.2:1", "127.0.0.1:1", Protocol::Tcp),
            key("192.0.2.1:2", "127.0.0.1:1", Protocol::Tcp),
            key("192.0.2.1:1", "127.0.0.2:1", Protocol::Tcp),
            key("192.0.2.1:1", "127.0.0.1:2", Protocol::Tcp),
            key("192.0.2.1:1", "127.0.0.1:1", Protocol::Udp),
        ] {
            assert_ne!(five_tuple(7, &base), five_tuple(7, &other), "{other:?}");
        }
    }
}
