//! Trials: a reload, an upgrade or a fault under a steady load of new connections. What is measured
//! is what clients notice.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddrV4,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{
    load::{
        client::{Outcome, Trouble},
        server::ECHO_PORT,
        tap,
    },
    peers::{self, Contestant, FRONT_ECHO, Running, Setup},
    place::{Place, Role},
};

mod silence;

pub(crate) use silence::Silence;
use silence::Tap;

/// What happens under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trial {
    /// The file changes, four times.
    Reload,
    /// The program replaces itself, twice.
    Upgrade,
    /// One of two endpoints refuses from the start.
    Refused,
    /// One of two endpoints is killed.
    Killed,
    /// One of two endpoints falls silent: nothing answers for its address any more.
    BlackHole,
}

/// What clients noticed, and when the last disturbance was: from the first connection on, and by the
/// clock.
struct Suffered {
    trouble: Trouble,
    disturbed: Duration,
    fault: SystemTime,
}

impl Trial {
    /// Whether this contestant can be put to it here.
    pub(crate) fn suits(self, contestant: Contestant, place: &Place) -> bool {
        use Contestant::{Envoy, Fairlead, Haproxy, Nginx};
        let contestants: &[Contestant] = match self {
            Self::Reload => &[Fairlead, Haproxy, Nginx],
            Self::Upgrade => &[Fairlead],
            Self::Refused | Self::Killed => &[Fairlead, Haproxy, Nginx, Envoy],
            Self::BlackHole if place.can_cut() => &[Fairlead, Haproxy, Nginx, Envoy],
            Self::BlackHole => &[],
        };
        contestants.contains(&contestant)
    }

    /// Runs it; see [`crate::rows::Figure::Outage`] for the values.
    pub(crate) fn run(self, place: &Place, contestant: Contestant) -> anyhow::Result<Vec<f64>> {
        let ip = place.second_ip();
        let setup = Setup {
            second: (!self.is_change()).then_some(SocketAddrV4::new(ip, ECHO_PORT)),
            reloads: self == Self::Reload,
        };
        if !self.is_change() {
            place.add_second()?;
        }
        let mut server = match self {
            Self::Killed | Self::BlackHole => Some(peers::start_server(place, ip)?),
            _ => None,
        };
        let mut running = contestant.start(place, setup)?;
        let tap = match self {
            Self::BlackHole => Some(Tap::start(place, SocketAddrV4::new(ip, ECHO_PORT))?),
            _ => None,
        };
        let suffered = self.under_load(place, &mut running, &mut server);
        let end = tap::now();
        let tried = tap.map(Tap::stop).transpose()?;
        running.stop(place)?;
        if let Some(mut server) = server {
            server.kill()?;
            server.wait()?;
        }
        if !self.is_change() {
            place.cut_second();
        }
        let suffered = suffered?;
        let mut values = self.values(&suffered.trouble, suffered.disturbed);
        if let Some(tried) = tried {
            let Suffered {
                trouble,
                disturbed,
                fault,
            } = &suffered;
            let clients = (trouble, disturbed.as_secs_f64() * 1e3);
            let silence = Silence::of(&tried, (*fault, end), clients);
            let counts = [silence.affected, silence.later].map(|count| count as f64);
            values.extend([silence.in_rotation, counts[0], counts[1], silence.wait]);
        }
        Ok(values)
    }

    fn is_change(self) -> bool {
        matches!(self, Self::Reload | Self::Upgrade)
    }

    fn under_load(
        self,
        place: &Place,
        running: &mut Running,
        server: &mut Option<Child>,
    ) -> anyhow::Result<Suffered> {
        let (rate, seconds, at): (_, _, &[f64]) = match self {
            Self::Reload => (1000, 3, &[0.5, 1.0, 1.5, 2.0]),
            Self::Upgrade => (1000, 4, &[0.5, 2.0]),
            Self::Refused => (200, 2, &[]),
            Self::Killed | Self::BlackHole => (200, 5, &[1.0]),
        };
        let mut client = client(place, rate, seconds)?.spawn()?;
        let stdout = client.stdout.take().context("the client's output")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let started = Instant::now();
        let mut disturbed = Duration::ZERO;
        let mut fault = tap::now();
        for at in at {
            let due = Duration::from_secs_f64(*at);
            while let Some(left) = due.checked_sub(started.elapsed()) {
                std::thread::park_timeout(left);
            }
            self.disturb(place, running, server)?;
            (disturbed, fault) = (started.elapsed(), tap::now());
        }
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        client.wait()?;
        let outcome: Outcome =
            serde_json::from_str(&text).with_context(|| format!("the client said {text:?}"))?;
        let trouble = outcome.trouble.unwrap_or_default();
        if outcome.units == 0 {
            bail!("nothing went through: {} errors", outcome.errors);
        }
        Ok(Suffered {
            trouble,
            disturbed,
            fault,
        })
    }

    fn disturb(
        self,
        place: &Place,
        running: &mut Running,
        server: &mut Option<Child>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Reload => running.reload(),
            Self::Upgrade => running.upgrade(),
            Self::Refused => Ok(()),
            Self::Killed => {
                let server = server.as_mut().context("a second server")?;
                server.kill()?;
                // Its sockets are closed when it can be reaped.
                server.wait()?;
                Ok(())
            }
            Self::BlackHole => {
                place.cut_second();
                Ok(())
            }
        }
    }

    /// See [`crate::rows::Figure::Outage`].
    fn values(self, trouble: &Trouble, disturbed: Duration) -> Vec<f64> {
        let fault = disturbed.as_secs_f64() * 1e3;
        let since = |at: Option<f64>| at.map_or(0.0, |at| (at - fault).max(0.0));
        // Whoever had begun was with the endpoint that failed, or went past it.
        let is_cut = |began: &&f64| self.breaks_endpoint() && **began <= fault;
        let cut = trouble.failed.iter().filter(is_cut).count();
        let last_failed = trouble.failed.iter().copied().reduce(f64::max);
        vec![
            (trouble.failed.len() - cut) as f64,
            trouble.worst,
            since(last_failed),
            since(trouble.last_affected),
            cut as f64,
        ]
    }

    /// Requests that are with an endpoint then can't be saved.
    fn breaks_endpoint(self) -> bool {
        matches!(self, Self::Killed | Self::BlackHole)
    }
}

fn client(place: &Place, rate: u32, seconds: u32) -> anyhow::Result<Command> {
    let target = SocketAddrV4::new(place.ip(Role::Proxy), FRONT_ECHO).to_string();
    let mut command = place.command(Role::Client, &std::env::current_exe()?);
    command.args(["client", "--kind", "connect", "--announce"]);
    // Enough at a time that those who wait hold nobody up.
    command.args(["--parallel", "1024", "--target", &target]);
    command.args([
        "--rate",
        &rate.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]);
    command.stdout(Stdio::piped());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> Trouble {
        let mut trouble = Trouble::default();
        let mut note = |start, took: Option<u64>| {
            let start = Duration::from_millis(start);
            trouble.note(start, start, took.map(Duration::from_millis));
        };
        note(100, Some(2));
        note(999, None);
        note(1100, None);
        note(1250, Some(120));
        trouble
    }

    #[test]
    fn times_count_from_the_fault() {
        let found = Trial::Killed.values(&trouble(), Duration::from_secs(1));
        assert_eq!(found, [1.0, 120.0, 100.0, 250.0, 1.0]);
    }

    #[test]
    fn a_request_may_be_cut_by_a_fault_but_by_no_change() {
        let killed = Trial::Killed.values(&trouble(), Duration::from_secs(1));
        assert_eq!((killed[0], killed[4]), (1.0, 1.0));
        let reload = Trial::Reload.values(&trouble(), Duration::from_secs(1));
        assert_eq!((reload[0], reload[4]), (2.0, 0.0));
    }
}
