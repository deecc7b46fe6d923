//! Maps, lists and scalars of a tree, read into types with every fault reported.
//!
//! A reader returns `None` after it has reported why; its caller goes on with a default, because a
//! file with any problem is refused as a whole and the remaining problems are wanted too.

use super::{
    report::{Path, Report, Step},
    tree::{Entry, Kind, Mark, NodeId, Tree},
};

/// A value of the tree and how one got there.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    tree: &'a Tree<'a>,
    id: NodeId,
    path: &'a Path<'a>,
}

/// A map with its known keys.
pub(super) struct Fields<'a> {
    at: At<'a>,
    entries: &'a [Entry<'a>],
}

// === impl At ===

impl<'a> At<'a> {
    pub(super) fn root(tree: &'a Tree<'a>) -> Self {
        Self {
            tree,
            id: tree.root(),
            path: &Path::ROOT,
        }
    }

    pub(super) fn mark(self) -> Mark {
        self.tree.node(self.id).mark
    }

    pub(super) fn path_text(self) -> String {
        self.path.text()
    }

    /// Reports a problem of this value.
    pub(super) fn fault(self, report: &mut Report, message: impl Into<String>) {
        report.add(self.mark(), self.path, message.into());
    }

    /// Unwraps `result`; a fault reads `"value" message`.
    pub(super) fn check<T>(
        self,
        report: &mut Report,
        result: Result<T, impl std::fmt::Display>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(broken) => {
                self.fault(report, format!("{} {broken}", self.quoted()));
                None
            }
        }
    }

    /// The scalar's text; `None` for lists, maps and an absent value.
    pub(super) fn raw(self) -> Option<&'a str> {
        match &self.tree.node(self.id).kind {
            Kind::Scalar { text, plain } => {
                let null = *plain && matches!(text.as_ref(), "" | "~" | "null");
                (!null).then_some(text.as_ref())
            }
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The scalar's text.
    pub(super) fn text(self, report: &mut Report, wanted: &str) -> Option<&'a str> {
        let text = self.raw();
        if text.is_none() {
            self.fault(report, format!("is {}; expected {wanted}", self.found()));
        }
        text
    }

    pub(super) fn is_map(self) -> bool {
        matches!(self.tree.node(self.id).kind, Kind::Map(_))
    }

    pub(super) fn is_empty_list(self) -> bool {
        matches!(&self.tree.node(self.id).kind, Kind::List(items) if items.is_empty())
    }

    /// Reads each item of a list; items that fail are left out.
    pub(super) fn list<T>(
        self,
        report: &mut Report,
        mut read: impl FnMut(At<'_>, &mut Report) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Kind::List(items) = &self.tree.node(self.id).kind else {
            self.fault(report, format!("is {}; expected a list", self.found()));
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, id) in items.iter().enumerate() {
            let path = self.path.child(Step::Index(index));
            let at = At {
                tree: self.tree,
                id: *id,
                path: &path,
            };
            values.extend(read(at, report));
        }
        Some(values)
    }

    /// One of the named values; a fault lists them.
    pub(super) fn choice<T: Copy>(
        self,
        report: &mut Report,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = self.text(report, &format!("one of {}", names.join(", ")))?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        if !report.is_full() {
            let hint = suggestion(text, &names);
            let message = format!("{} is not one of {}{hint}", shown(text), names.join(", "));
            self.fault(report, message);
        }
        None
    }

    fn found(self) -> &'static str {
        match &self.tree.node(self.id).kind {
            Kind::Scalar { .. } if self.raw().is_none() => "without a value",
            Kind::Scalar { .. } => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    fn quoted(self) -> String {
        shown(self.raw().unwrap_or_default())
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Opens a map whose keys must be among `known` (at most 64), each at most once.
    pub(super) fn open(at: At<'a>, report: &mut Report, known: &[&str]) -> Option<Self> {
        let Kind::Map(entries) = &at.tree.node(at.id).kind else {
            let message = format!(
                "is {}; expected a map with the keys {}",
                at.found(),
                known.join(", ")
            );
            at.fault(report, message);
            return None;
        };
        let mut seen = 0_u64;
        for entry in entries {
            let key = entry.key.as_ref();
            let path = at.path.child(Step::Key(key));
            match known.iter().position(|name| *name == key) {
                Some(index) if seen & (1 << index) == 0 => seen |= 1 << index,
                Some(_) => report.add(entry.mark, &path, "stands here twice".to_owned()),
                None if report.skips_unknown() => {}
                None if report.is_full() => report.add(entry.mark, &path, String::new()),
                None => report.add(entry.mark, &path, unknown(key, known)),
            }
        }
        Some(Self { at, entries })
    }

    /// Reads the value of `key`, if it stands there.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        report: &mut Report,
        read: impl FnOnce(At<'_>, &mut Report) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let path = self.at.path.child(Step::Key(key));
        let at = At {
            tree: self.at.tree,
            id: entry.value,
            path: &path,
        };
        read(at, report)
    }

    /// Reads the value of `key`, which must stand there.
    pub(super) fn required<T>(
        &self,
        key: &str,
        report: &mut Report,
        read: impl FnOnce(At<'_>, &mut Report) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.at.fault(report, format!("{key} is missing"));
        }
        self.optional(key, report, read)
    }

    /// Overwrites `target` with the value of `key`, if it stands there.
    pub(super) fn set<T>(
        &self,
        key: &str,
        target: &mut T,
        report: &mut Report,
        read: impl FnOnce(At<'_>, &mut Report) -> Option<T>,
    ) {
        if let Some(value) = self.optional(key, report, read) {
            *target = value;
        }
    }

    /// Changes `target` by the value of `key`, if it stands there.
    pub(super) fn edit<T>(
        &self,
        key: &str,
        target: &mut T,
        report: &mut Report,
        read: impl FnOnce(At<'_>, &mut Report, &mut T) -> Option<()>,
    ) {
        self.optional(key, report, |at, report| read(at, report, target));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }
}

/// Text from the file, quoted and cut for a message.
pub(super) fn shown(text: &str) -> String {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None if plain(text) => text.to_owned(),
        None => format!("{text:?}"),
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    if key == "<<" {
        return "merge keys are not supported; an alias as a whole value is".to_owned();
    }
    let hint = suggestion(key, known);
    if hint.is_empty() {
        format!("unknown key; known here: {}", known.join(", "))
    } else {
        format!("unknown key{hint}")
    }
}

/// `; did you mean X?`, or nothing when no name comes close.
fn suggestion(text: &str, names: &[&str]) -> String {
    if text.len() > SUGGEST_MAX {
        return String::new();
    }
    let closest = names
        .iter()
        .map(|name| (distance(text, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 2 && *distance * 2 < name.len().max(3));
    match closest {
        Some((_, name)) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// Levenshtein's distance, letters' case and separators apart.
fn distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<u8> {
        text.bytes()
            .filter(|byte| !b"-_ ".contains(byte))
            .map(|byte| byte.to_ascii_lowercase())
            .collect()
    };
    let (left, right) = (fold(left), fold(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[right.len()]
}

/// Characters of a bad value that a message repeats.
const SHOWN_MAX: usize = 80;
/// No key of ours is half as long.
const SUGGEST_MAX: usize = 48;
