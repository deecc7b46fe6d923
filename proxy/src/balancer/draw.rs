//! What a data thread draws from: one low-discrepancy sequence per service, and random bits.
//!
//! The sequence is Weyl's with the golden ratio, in 32 bits: after n draws each interval was hit its
//! length times n, give or take about log n. So shares hold to a percentage point over 10,000
//! connections, where independent draws would miss by twice that now and then. The sequence is kept
//! per service, because services that take turns on one sequence would thin it out at random. Each
//! thread starts at its own offset. It survives snapshots: it belongs to the thread, not to a view.

use super::hash::{GOLDEN, mix};
use crate::registry::ServiceId;

/// The draws of one data thread. Costs 8 bytes a service.
#[derive(Debug, Clone)]
pub struct Draw {
    seed: u64,
    random: u64,
    services: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    point: u32,
    /// Picks since the last ten.
    picks: u8,
}

impl Draw {
    /// Draws of a thread; equal seeds draw alike, so give each thread its own.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            random: mix(seed ^ GOLDEN),
            services: Vec::new(),
        }
    }

    /// The next point of the service's sequence, as a fraction of 2^32.
    pub fn next_point(&mut self, service: ServiceId) -> u32 {
        let place = self.place(service);
        place.point = place.point.wrapping_add(STEP);
        place.point
    }

    /// Counts a pick of the service; true at every tenth.
    pub fn is_tenth(&mut self, service: ServiceId) -> bool {
        let place = self.place(service);
        place.picks = (place.picks + 1) % 10;
        place.picks == 0
    }

    /// Random bits (SplitMix64's upper half).
    pub fn next_random(&mut self) -> u32 {
        self.random = self.random.wrapping_add(GOLDEN);
        (mix(self.random) >> 32) as u32
    }

    /// A random number below `bound`, which is not 0; biased by less than `bound` / 2^32.
    pub fn below(&mut self, bound: u32) -> u32 {
        scale(self.next_random(), bound)
    }

    fn place(&mut self, ServiceId(service): ServiceId) -> &mut Place {
        let index = service as usize;
        if index >= self.services.len() {
            self.grow(index);
        }
        &mut self.services[index]
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        for service in self.services.len()..=index {
            let point = (mix(self.seed ^ mix(service as u64)) >> 32) as u32;
            self.services.push(Place { point, picks: 0 });
        }
    }
}

/// Maps a fraction of 2^32 to `0..bound`.
pub(crate) fn scale(point: u32, bound: u32) -> u32 {
    ((u64::from(point) * u64::from(bound)) >> 32) as u32
}

/// 2^32 divided by the golden ratio, odd: every 2^32 draws visit each point once.
const STEP: u32 = 0x9e37_79b9;
