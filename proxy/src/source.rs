//! Where configuration comes from: a file, or a control plane.
//!
//! A source owns what it last said and yields [`Event`]s to the control thread over a bounded
//! channel; the control thread applies them and never looks behind them. A source checks before it
//! yields: what arrives has been decoded, and for a file also passed the [`guard`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`feed`] | the one source of a process, opened and running |
//! | [`mod@file`] | when a file is worth reading again, and what was read last |
//! | [`xds`] | what a control plane said, what is asked of it and acknowledged |
//! | [`load`] | what goes back to a control plane |
//! | [`guard`] | whether a reload removes so much that somebody must confirm it |

use std::{fmt, sync::Arc};

use fairlead_config::{problem::Problem, snapshot::Delta, yaml};

pub mod feed;
pub mod file;
pub mod guard;
pub mod load;
pub mod xds;

/// What a source says.
#[derive(Debug, Clone)]
pub enum Event {
    /// The whole state, from a file.
    Whole(Arc<yaml::File>),
    /// A batch of changes, from a control plane.
    Delta(Delta),
    /// Something was refused; what was in force stays in force.
    Refused(Refusal),
}

/// Why an update was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was wrong with it.
    pub kind: RefusalKind,
    /// The file's path or the control plane's address.
    pub origin: String,
    /// What is wrong, never empty; the first ones when there are many.
    pub problems: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

/// The kinds of refusal, which metrics tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// It has problems.
    Invalid,
    /// It couldn't be read.
    Unreadable,
    /// It would have removed too much.
    MassRemoval,
}

// === impl Refusal ===

impl Refusal {
    /// One reason.
    pub fn new(kind: RefusalKind, origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            kind,
            origin: origin.into(),
            problems: vec![reason.into()],
            more: 0,
        }
    }

    /// The problems of a file.
    pub fn of_file(path: &str, problems: &yaml::Problems) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            origin: path.to_owned(),
            problems: texts(&problems.list),
            more: problems.more,
        }
    }

    /// The problems of resources.
    pub fn of_resources(origin: &str, problems: &[Problem]) -> Self {
        let kept = &problems[..problems.len().min(PROBLEMS_MAX)];
        Self {
            kind: RefusalKind::Invalid,
            origin: origin.to_owned(),
            problems: texts(kept),
            more: problems.len() - kept.len(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_break = if index > 0 { "\n" } else { "" };
            // As compilers do it, so that an editor finds the line: path:line:column.
            let in_file = problem.starts_with(|first: char| first.is_ascii_digit());
            let space = if in_file { "" } else { " " };
            write!(out, "{line_break}{}:{space}{problem}", self.origin)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(out, "\n{}: and {more} more", self.origin),
        }
    }
}

impl std::error::Error for Refusal {}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Problems of one update that are kept.
const PROBLEMS_MAX: usize = 100;
/// Events that may wait for the control thread; a source waits when they do. Few, because each may
/// hold the rows of a whole answer: some 6 MB.
pub const EVENTS_MAX: usize = 2;
