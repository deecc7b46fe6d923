//! What is tried at an address that has fallen silent.

use std::{io::Read as _, net::SocketAddrV4, process::Child, time::SystemTime};

use crate::{
    load::{client::Trouble, tap},
    peers,
    place::Place,
};

/// Counts the connects that are tried at an address, in front of it.
pub(crate) struct Tap {
    child: Child,
}

/// What became of them after the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Silence {
    /// Milliseconds until the last one of those that were tried as if nothing had happened: for half a
    /// second nothing was tried afterwards. The end of the trial where it never came to that.
    pub(crate) in_rotation: f64,
    /// So many were tried until then.
    pub(crate) affected: usize,
    /// So many to see whether it is back.
    pub(crate) later: usize,
    /// How long clients waited that were affected: the median, milliseconds. As many as were tried,
    /// those that waited longest.
    pub(crate) wait: f64,
}

impl Tap {
    pub(crate) fn start(place: &Place, to: SocketAddrV4) -> anyhow::Result<Self> {
        let child = peers::start_own(place, &["tap", "--to", &to.to_string()])?;
        Ok(Self { child })
    }

    /// When each was tried, microseconds since 1970.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<u64>> {
        self.child.kill()?;
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut text)?;
        }
        self.child.wait()?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

impl Silence {
    /// From when each connect was `tried` (in order), the fault and the end of the trial; and from
    /// what clients suffered, where `fault` is on their clock.
    pub(crate) fn of(
        tried: &[u64],
        (fault, end): (SystemTime, SystemTime),
        (trouble, fault_of_clients): (&Trouble, f64),
    ) -> Self {
        let (fault, end) = (tap::micros(fault), tap::micros(end));
        let tried: Vec<u64> = tried.iter().copied().filter(|at| *at >= fault).collect();
        let next = tried.iter().copied().skip(1).chain([end]);
        let quiet = tried.iter().zip(next);
        let last = quiet.map(|(at, next)| next.saturating_sub(*at));
        let affected = last
            .clone()
            .position(|gap| gap >= QUIET_MICROS)
            .map_or(tried.len(), |last| last + 1);
        let until = affected.checked_sub(1).map_or(fault, |last| tried[last]);
        let waits = trouble.waits.iter();
        let mut waits: Vec<f64> = waits
            .filter(|(began, took)| began + took >= fault_of_clients)
            .map(|(_, took)| *took)
            .collect();
        waits.sort_by(|one, other| other.total_cmp(one));
        waits.truncate(tried.len());
        Self {
            in_rotation: (until - fault) as f64 / 1e3,
            affected,
            later: tried.len() - affected,
            wait: crate::report::median(&waits),
        }
    }
}

const QUIET_MICROS: u64 = 500_000;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn millis(at: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(at)
    }

    #[test]
    fn an_endpoint_is_out_once_nothing_but_a_trial_reaches_it() {
        let tried = [990_000, 1_010_000, 1_300_000, 2_400_000, 4_400_000];
        let trouble = Trouble {
            waits: vec![
                (20.0, 900.0),
                (1005.0, 24.0),
                (1290.0, 30.0),
                (2395.0, 26.0),
                (2500.0, 4.0),
            ],
            ..Trouble::default()
        };
        let times = (millis(1000), millis(5000));
        let found = Silence::of(&tried, times, (&trouble, 1000.0));
        let wanted = Silence {
            in_rotation: 300.0,
            affected: 2,
            later: 2,
            wait: 25.0,
        };
        assert_eq!(found, wanted);
    }

    #[test]
    fn an_endpoint_that_is_tried_to_the_end_was_never_out() {
        let tried: Vec<u64> = (1000..5000).step_by(10).map(|at| at * 1000).collect();
        let times = (millis(1000), millis(5000));
        let found = Silence::of(&tried, times, (&Trouble::default(), 0.0));
        assert_eq!((found.in_rotation, found.later), (3990.0, 0));
        let found = Silence::of(&[], times, (&Trouble::default(), 0.0));
        assert_eq!((found.in_rotation, found.affected), (0.0, 0));
    }
}
