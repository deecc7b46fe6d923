//! A keyed hash for tables whose keys strangers choose.
//!
//! Folded multiplications, keyed before each: who doesn't know the seed can't choose keys that fall
//! together. Not the affinity hash, which must be equal everywhere; this one needn't be.

/// A hash under one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyedHash {
    seed: u64,
    other: u64,
}

impl KeyedHash {
    pub(crate) fn new(seed: u64) -> Self {
        let other = fold(seed ^ FIRST, SECOND);
        Self { seed, other }
    }

    /// About a nanosecond a word.
    pub(crate) fn hash<const N: usize>(self, words: [u64; N]) -> u64 {
        let mut state = self.seed;
        for word in words {
            state = fold(word ^ state, FIRST ^ self.other);
        }
        fold(state ^ self.other, SECOND)
    }
}

fn fold(one: u64, other: u64) -> u64 {
    let wide = u128::from(one) * u128::from(other);
    (wide as u64) ^ (wide >> 64) as u64
}

/// Odd, with as many ones as zeros: the golden ratio, and a constant of PCG.
const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xda94_2042_e4dd_58b5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_keys_spread_evenly_under_any_seed() {
        for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let hash = KeyedHash::new(seed);
            let mut buckets = [0_u32; 64];
            for key in 0..64_000 {
                buckets[(hash.hash([key, 0]) % 64) as usize] += 1;
            }
            let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
            assert!(*least > 850 && *most < 1150, "seed {seed}: {least}..{most}");
        }
    }

    #[test]
    fn the_seed_decides_what_falls_together() {
        let (one, other) = (KeyedHash::new(1), KeyedHash::new(2));
        let together = |hash: KeyedHash, key| hash.hash([key]) % 1024 == hash.hash([0]) % 1024;
        let shared = (1..100_000).filter(|key| together(one, *key) && together(other, *key));
        assert!(shared.count() < 10);
    }
}
