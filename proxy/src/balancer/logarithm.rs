//! The logarithm that weighs a hash, in 64-bit integers.
//!
//! Weighted rendezvous gives a key to the identity with the smallest `-log2(u) / weight`, where `u` is
//! the identity's score under the key as a fraction: then identities get keys in proportion to their
//! weights, and a change of one weight moves only keys to or from that identity. `cost` is
//! `-log2(point / 2^32)` in units of 2^-32: the leading zeros, plus a table of 256 cells with linear
//! interpolation between them. Its error is below 0.2 % of the value, and it never grows with the
//! point, so equal weights rank exactly as the points do.

/// `-log2(point / 2^32)` times 2^32, at most 32 × 2^32; a point of 0 counts as 1.
pub fn cost(point: u32) -> u64 {
    let point = if point == 0 { 1 } else { point };
    let zeros = point.leading_zeros();
    let mantissa = point << zeros;
    let cell = (mantissa >> 23 & 0xff) as usize;
    let within = u64::from(mantissa & 0x7f_ffff);
    let (high, low) = (TABLE[cell], TABLE[cell + 1]);
    (u64::from(zeros) << 32) + high - (((high - low) * within) >> 23)
}

/// Whether a candidate with this point and weight beats another: smaller cost by weight, then the
/// larger point. Weights are below 2^26, so that the products fit.
pub fn beats(point: u32, weight: u32, other_point: u32, other_weight: u32) -> bool {
    if weight == other_weight {
        return point > other_point;
    }
    let mine = cost(point) * u64::from(other_weight);
    let theirs = cost(other_point) * u64::from(weight);
    mine < theirs || mine == theirs && point > other_point
}

/// `TABLE[i]` is `-log2((256 + i) / 512)` in units of 2^-32, rounded down: from 2^32 to 0.
const TABLE: [u64; 257] = {
    let mut table = [0; 257];
    let mut index = 0;
    while index <= 256 {
        table[index] = (1 << 32) - log2_fraction(256 + index as u64);
        index += 1;
    }
    table
};

/// The fractional bits of `log2(value / 256)` for values from 256 to 512, by repeated squaring.
const fn log2_fraction(value: u64) -> u64 {
    // Fixed point with 31 fractional bits in [1, 2), squared in 128 bits.
    let mut mantissa = (value as u128) << (63 - 8);
    if value == 512 {
        return 1 << 32;
    }
    let mut fraction = 0;
    let mut bit = 0;
    while bit < 32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            fraction |= 1;
            mantissa >>= 1;
        }
        bit += 1;
    }
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Clients move when a value changes: never edit them.
    #[test]
    fn costs_match_the_published_vectors() {
        let points = [
            0,
            1,
            2,
            3,
            1 << 16,
            0x7fff_ffff,
            0x8000_0000,
            0xc000_0000,
            0xdead_beef,
            0xffff_0000,
            u32::MAX,
        ];
        let found = points.map(cost);
        assert_eq!(found, VECTORS, "{found:?}");
    }

    const VECTORS: [u64; 11] = [
        137_438_953_472,
        137_438_953_472,
        133_143_986_176,
        130_631_591_367,
        68_719_476_736,
        4_294_967_299,
        4_294_967_296,
        1_782_572_487,
        864_066_306,
        94_641,
        2,
    ];

    proptest! {
        #[test]
        fn cost_is_within_a_fifth_of_a_percent_of_the_logarithm(point in 1u32..) {
            let exact = -(f64::from(point) / 2f64.powi(32)).log2() * 2f64.powi(32);
            let found = cost(point) as f64;
            prop_assert!((found - exact).abs() <= exact * 0.002 + 2.0, "{found} for {exact}");
        }

        #[test]
        fn cost_never_grows_with_the_point(point in 1u32..u32::MAX) {
            prop_assert!(cost(point) >= cost(point + 1));
        }

        #[test]
        fn one_of_two_different_candidates_wins(a: u32, b: u32, wa in 1u32..1 << 26, wb in 1u32..1 << 26) {
            prop_assume!(a != b);
            prop_assert_ne!(beats(a, wa, b, wb), beats(b, wb, a, wa));
        }
    }
}
