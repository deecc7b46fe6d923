//! The configuration file: YAML to [`Settings`] and [`Snapshot`], and back.
//!
//! [`parse`] accepts a file as a whole or refuses it with every problem it has, each with line,
//! column and the path of keys. [`encode`] writes a file with every default filled in, which parses
//! to the same values.
//!
//! Limits: [`FILE_BYTES_MAX`], 32 levels, 10,000 aliases, 8 million values (aliases counted as often
//! as they stand), 100 problems in full.
//!
//! Cost: one pass for the tree and one for the types, no copy of text that stands plain. 1,000
//! endpoints cost about 4 ms to read and 1 MB at the peak, 1 ms to write (the ignored test
//! `cost_of_a_thousand_endpoints` prints the figures of a machine).

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{problem::Problem, rule, snapshot::Snapshot};

mod encode;
mod field;
mod frontend;
pub(crate) mod metadata;
mod policy;
mod probe;
mod report;
mod scalar;
mod service;
mod tree;

#[cfg(test)]
mod tests;

pub use encode::encode;

use field::{At, Fields};
use report::Report;
use scalar::{duration, number, switch};
use service::Services;
use tree::Tree;

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct File {
    /// Of the process.
    pub settings: Settings,
    /// What to serve.
    pub snapshot: Snapshot,
}

/// Settings of the process; a flag of the same name beats each. `None`: not in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where the admin server listens. A reload that changes it needs a restart.
    pub admin: Option<SocketAddr>,
    /// Data threads, 1 to [`WORKERS_MAX`]. A reload that changes it needs a restart.
    pub workers: Option<u16>,
    /// How long sessions may go on after SIGTERM.
    pub drain_timeout: Option<Duration>,
    /// How long to accept after SIGTERM, while not ready.
    pub shutdown_delay: Option<Duration>,
    /// Confirms a reload that removes every service, or more than half of ten or more.
    pub allow_mass_removal: bool,
}

/// Why a file was refused. Displays one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// In the order of the file; never empty.
    pub list: Vec<Problem>,
    /// Found but not kept.
    pub more: usize,
}

/// Reads a file.
pub fn parse(bytes: &[u8]) -> Result<File, Problems> {
    let mut report = Report::default();
    let file = read(bytes, &mut report);
    match file {
        Some(file) if report.is_empty() => Ok(file),
        _ => {
            let (list, more) = report.into_parts();
            debug_assert!(!list.is_empty(), "nothing is refused without a reason");
            Err(Problems { list, more })
        }
    }
}

fn read(bytes: &[u8], report: &mut Report) -> Option<File> {
    let start = tree::Mark { line: 1, column: 1 };
    if bytes.len() > FILE_BYTES_MAX {
        let message = format!(
            "the file has {} bytes, {FILE_BYTES_MAX} is the limit; use a control plane (xDS) \
             for a fleet of this size",
            bytes.len()
        );
        report.at(start, message);
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let mark = tree::Mark {
                line: u32::try_from(line).unwrap_or(u32::MAX),
                column: 1,
            };
            report.at(mark, "is no UTF-8 text".to_owned());
            return None;
        }
    };
    let tree = Tree::read(text, report)?;
    document(At::root(&tree), report)
}

fn document(at: At<'_>, report: &mut Report) -> Option<File> {
    let known = [
        "admin",
        "workers",
        "drainTimeout",
        "shutdownDelay",
        "allowMassRemoval",
        "services",
    ];
    let fields = Fields::open(at, report, &known)?;
    let admin = fields.optional("admin", report, |at, report| {
        let text = at.text(report, "an address such as 127.0.0.1:9900")?;
        let parsed = text
            .parse::<SocketAddr>()
            .map_err(|_| "is no address with a port, such as 127.0.0.1:9900");
        at.check(report, parsed)
    });
    let workers = fields.optional("workers", report, number(1..=WORKERS_MAX));
    let drain_timeout = fields.optional("drainTimeout", report, duration(rule::WAIT));
    let shutdown_delay = fields.optional("shutdownDelay", report, duration(rule::WAIT));
    let allow_mass_removal = fields.optional("allowMassRemoval", report, switch);

    let mut services = Services::default();
    fields.required("services", report, |at, report| {
        at.list(report, |at, report| services.read(at, report))
    });
    frontend::check_overlaps(&services.frontends, report);
    frontend::check_preambles(&services.frontends, report);
    let Services {
        mut snapshot,
        frontends,
        ..
    } = services;
    for placed in frontends {
        let frontend = placed.frontend;
        snapshot
            .frontends
            .insert(frontend.name.clone(), frontend.into());
    }
    Some(File {
        settings: Settings {
            admin,
            workers,
            drain_timeout,
            shutdown_delay,
            allow_mass_removal: allow_mass_removal.unwrap_or(false),
        },
        snapshot,
    })
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            problem.fmt(out)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(out, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// The largest file; about 1.5 million endpoints in their shortest form.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// More data threads than any machine has cores.
pub const WORKERS_MAX: u16 = 1024;
