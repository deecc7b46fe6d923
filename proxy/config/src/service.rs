//! A service: its policy, and its members in tiers of preference.

use crate::{
    name::{MemberName, ServiceName},
    policy::Policy,
};

/// One port of one exported service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Unique in a snapshot.
    pub name: ServiceName,
    /// How its clients are treated.
    pub policy: Policy,
    /// Most preferred first. A member stands in one tier only. At most [`TIERS_MAX`].
    pub tiers: Vec<Tier>,
}

/// Members of equal preference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tier {
    /// In the order given; at most [`MEMBERS_MAX`] in a service.
    pub members: Vec<Member>,
}

/// A member's share in its tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Unique in a service.
    pub name: MemberName,
    /// Its share of new sessions against the other members of the tier.
    pub weight: MemberWeight,
}

/// A member's effective weight in thousandths of a weight point: configured weight (0–1000) times
/// the smallest traffic claim (0–1000 ‰). 0 drains the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberWeight(u32);

// === impl MemberWeight ===

impl MemberWeight {
    /// The weight of a member of which nothing else is said.
    pub const DEFAULT: Self = Self(100_000);
    /// No new sessions.
    pub const DRAIN: Self = Self(0);

    /// From weight points, 0 to 1000.
    pub fn from_points(points: u16) -> Option<Self> {
        (points <= WEIGHT_POINTS_MAX).then(|| Self(u32::from(points) * 1000))
    }

    /// From thousandths of a point, 0 to 1,000,000.
    pub fn from_thousandths(thousandths: u32) -> Option<Self> {
        (thousandths <= u32::from(WEIGHT_POINTS_MAX) * 1000).then_some(Self(thousandths))
    }

    /// In thousandths of a point.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// Whether the member drains.
    pub fn is_drain(self) -> bool {
        self.0 == 0
    }
}

/// The largest configured weight.
pub const WEIGHT_POINTS_MAX: u16 = 1000;
/// Tiers in a service.
pub const TIERS_MAX: usize = 16;
/// Members in a service, over all tiers; fleets have up to 1,000.
pub const MEMBERS_MAX: usize = 1024;
/// Endpoints in a service, over all members.
pub const ENDPOINTS_MAX: usize = 100_000;
