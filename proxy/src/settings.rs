//! Settings of the process: flags, then the file, then defaults.

use std::{net::SocketAddr, path::PathBuf, thread::available_parallelism, time::Duration};

use clap::{Parser, ValueEnum};
use fairlead_config::{rule, yaml};
use fairlead_runtime::drain::Limits;

mod control_plane;

pub use control_plane::ControlPlane;

/// A TCP and UDP load balancer: health-checked, weighted, tiered endpoints across clusters,
/// changed without touching live connections.
#[derive(Debug, Clone, Parser)]
#[command(name = "fairlead-proxy", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Flags {
    /// The configuration file (YAML). It is read again whenever it changes, and on SIGHUP; a bad
    /// file changes nothing and every problem in it is logged.
    #[arg(long, value_name = "FILE", required_unless_present = "xds")]
    pub config: Option<PathBuf>,

    /// Read the file, print every problem with its line, and exit: 0 when there is none, else 1.
    #[arg(long, conflicts_with = "print_config")]
    pub check: bool,

    /// Print the file as it is understood, with every default filled in, and exit.
    #[arg(long)]
    pub print_config: bool,

    /// Where metrics and the admin pages are served [default: off]. Beats `admin` in the file.
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,

    /// Let admin requests that change something (POST /drain) come from other hosts, too.
    #[arg(long)]
    pub admin_allow_remote: bool,

    /// Data threads [default: one per core]. Beats `workers` in the file.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// How long sessions may finish after SIGTERM before they are reset [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,

    /// How long to go on accepting after SIGTERM, while /readyz says no, so that whoever sends
    /// traffic here can notice [default: 0s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub shutdown_delay: Option<Duration>,

    /// Take sockets and flows over from the process that listens at this Unix socket, if there is
    /// one, and then offer them there in turn. No connection is refused or reset on the way.
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<PathBuf>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as
    /// `info,fairlead_proxy::health=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "FAIRLEAD_LOG"
    )]
    pub log_level: String,

    /// How it is logged.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Instead of a file. Comes last: its heading holds for all that follows.
    #[command(flatten)]
    pub control_plane: ControlPlane,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the process runs with; changes need a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the admin server listens.
    pub admin: Option<SocketAddr>,
    /// Whether other hosts may change things.
    pub admin_allow_remote: bool,
    /// Data threads.
    pub workers: usize,
    /// How long leaving may take.
    pub drain: Limits,
}

// === impl Settings ===

impl Settings {
    /// Flags beat the file.
    pub fn resolve(flags: &Flags, file: &yaml::Settings) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = flags.workers.or(file.workers).map(usize::from);
        Self {
            admin: flags.admin.or(file.admin),
            admin_allow_remote: flags.admin_allow_remote,
            workers: workers.unwrap_or(cores),
            drain: Limits {
                drain_timeout: flags
                    .drain_timeout
                    .or(file.drain_timeout)
                    .unwrap_or(DRAIN_TIMEOUT),
                shutdown_delay: flags
                    .shutdown_delay
                    .or(file.shutdown_delay)
                    .unwrap_or(Duration::ZERO),
            },
        }
    }

    /// What a file would have to say for these settings; `file` is the one that was read.
    pub fn in_a_file(&self, file: &yaml::Settings) -> yaml::Settings {
        yaml::Settings {
            admin: self.admin,
            workers: u16::try_from(self.workers).ok(),
            drain_timeout: Some(self.drain.drain_timeout),
            shutdown_delay: Some(self.drain.shutdown_delay),
            ..file.clone()
        }
    }

    /// The names of settings that `new` changes and that only a restart can change.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.admin != new.admin {
            names.push("admin");
        }
        if self.workers != new.workers {
            names.push("workers");
        }
        names
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    rule::parse_duration(text).ok_or_else(|| "write 500ms, 30s, 5m or 1h".to_owned())
}

const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

const AFTER_HELP: &str = "\
SIGNALS
  SIGTERM, SIGINT  leave: not ready, accept for --shutdown-delay, finish sessions for at most
                   --drain-timeout, exit 0; a second one leaves at once
  SIGHUP           read the file again, and confirm a reload that removes most services
  SIGUSR2          start the binary on disk anew and hand everything over to it

OPEN FILES
  The hard limit (ulimit -Hn, LimitNOFILE=) is used whole. Listeners have at most five eighths of
  it: one for each address, or one on each data thread while all are within a quarter. UDP flows
  have at most a quarter. So an eighth is left for sessions in any case, at two files each. What
  finds no place is refused, counted, and named where it is a frontend.

A FIRST FILE
  services:
    - name: demo/echo:tcp
      frontends: [ { protocol: tcp, address: \"127.0.0.1:9000\" } ]
      tiers: [ { members: [ { name: here, endpoints: [ { address: \"127.0.0.1:9001\" } ] } ] } ]

  --print-config shows everything else that can be set, with its default.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        let head = ["fairlead-proxy", "--config", "x.yaml"];
        Flags::try_parse_from(head.iter().chain(arguments)).unwrap()
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let file = yaml::Settings {
            workers: Some(3),
            drain_timeout: Some(Duration::from_secs(7)),
            ..yaml::Settings::default()
        };
        let resolved = Settings::resolve(&flags(&["--workers", "2"]), &file);
        assert_eq!(resolved.workers, 2);
        assert_eq!(resolved.drain.drain_timeout, Duration::from_secs(7));
        assert_eq!(resolved.drain.shutdown_delay, Duration::ZERO);
        assert_eq!(Settings::resolve(&flags(&[]), &file).workers, 3);
    }

    #[test]
    fn the_effective_file_has_flags_and_defaults_filled_in() {
        let file = yaml::Settings {
            workers: Some(3),
            shutdown_delay: Some(Duration::from_secs(4)),
            allow_mass_removal: true,
            ..yaml::Settings::default()
        };
        let flags = flags(&["--workers", "2", "--admin", "127.0.0.1:1"]);
        let expected = yaml::Settings {
            admin: flags.admin,
            workers: Some(2),
            drain_timeout: Some(DRAIN_TIMEOUT),
            ..file
        };
        assert_eq!(Settings::resolve(&flags, &file).in_a_file(&file), expected);
    }

    #[test]
    fn only_flags_of_a_control_plane_are_shown_as_such() {
        use clap::CommandFactory as _;
        let command = Flags::command();
        for flag in command.get_arguments() {
            let name = flag.get_id().as_str();
            let is_of_it = name.starts_with("xds") || name == "node" || name == "group";
            assert_eq!(flag.get_help_heading().is_some(), is_of_it, "{name}");
        }
    }

    #[test]
    fn only_admin_and_workers_need_a_restart() {
        let file = yaml::Settings::default();
        let old = Settings::resolve(&flags(&["--workers", "2"]), &file);
        let new = Settings::resolve(
            &flags(&[
                "--workers",
                "3",
                "--admin",
                "127.0.0.1:1",
                "--drain-timeout",
                "1s",
            ]),
            &file,
        );
        assert_eq!(old.restart_needed(&new), ["admin", "workers"]);
    }

    #[test]
    fn durations_are_written_as_in_the_file() {
        let flags = flags(&["--shutdown-delay", "1500ms"]);
        assert_eq!(flags.shutdown_delay, Some(Duration::from_millis(1500)));
        let wrong = ["fairlead-proxy", "--config", "x", "--drain-timeout", "soon"];
        assert!(
            Flags::try_parse_from(wrong)
                .unwrap_err()
                .to_string()
                .contains("write 500ms")
        );
    }
}
