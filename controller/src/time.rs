//! Wall-clock time for what is written into objects, from the one clock that tests replace.

use fairlead_runtime::clock::Clock;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};

/// Now, to the second, as objects state it.
pub fn time(clock: &Clock) -> Time {
    Time(timestamp(clock))
}

/// Now, to the microsecond, as Leases state it.
pub fn micro_time(clock: &Clock) -> MicroTime {
    MicroTime(timestamp(clock))
}

/// Now.
pub fn timestamp(clock: &Clock) -> Timestamp {
    Timestamp::try_from(clock.wall(clock.now())).unwrap_or(Timestamp::UNIX_EPOCH)
}
