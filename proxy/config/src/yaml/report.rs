//! Problems as they are found, and the path of keys that leads to where they stand.

use super::tree::Mark;
use crate::problem::{Place, Problem};

/// Collects problems, up to a limit; the others are counted.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    more: usize,
    skips_unknown: bool,
}

/// The keys from the root to a value, innermost first. Lives on the stack; only a problem makes it
/// text.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

/// One step down.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// The document itself.
    Root,
    /// Into a map.
    Key(&'a str),
    /// Into a list.
    Index(usize),
}

// === impl Report ===

impl Report {
    /// For input of a peer that may be newer than we are: unknown keys are no problem.
    pub(super) fn skipping_unknown() -> Self {
        Self {
            skips_unknown: true,
            ..Self::default()
        }
    }

    pub(super) fn skips_unknown(&self) -> bool {
        self.skips_unknown
    }

    /// A problem of the document as such.
    pub(super) fn at(&mut self, mark: Mark, message: String) {
        self.add(mark, &Path::ROOT, message);
    }

    /// A problem of the value at `path`.
    pub(super) fn add(&mut self, mark: Mark, path: &Path<'_>, message: String) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.placed(mark, path.text(), message);
        }
    }

    /// A problem of a value whose path has been made text before.
    pub(super) fn placed(&mut self, mark: Mark, path: String, message: String) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        let place = Place::File {
            line: mark.line,
            column: mark.column,
            path,
        };
        self.problems.push(Problem { place, message });
    }

    /// Whether further problems are only counted, so that nobody needs to phrase them well.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems in the order of the file, and how many more there are.
    pub(super) fn into_parts(mut self) -> (Vec<Problem>, usize) {
        self.problems.sort();
        (self.problems, self.more)
    }
}

// === impl Path ===

impl<'a> Path<'a> {
    pub(super) const ROOT: Self = Self {
        parent: None,
        step: Step::Root,
    };

    pub(super) fn child(&'a self, step: Step<'a>) -> Self {
        Self {
            parent: Some(self),
            step,
        }
    }

    /// For example `services[0].policy.balancer`.
    pub(super) fn text(&self) -> String {
        let mut steps = Vec::new();
        let mut path = Some(self);
        while let Some(here) = path {
            steps.push(here.step);
            path = here.parent;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(&super::field::shown(key));
                }
            }
        }
        text
    }
}

/// More than a person reads at once.
pub(super) const PROBLEMS_MAX: usize = 100;
