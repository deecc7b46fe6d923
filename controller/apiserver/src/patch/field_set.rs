//! Sets of fields and their wire form, FieldsV1.
//!
//! On the wire a set is a tree of objects: `f:NAME` for a field, `k:{…}` for the element of a keyed list, `v:VALUE` for a set's
//! element, `i:N` for an index, and `.` where the node itself belongs to the set and has children too.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

/// A set of paths. Empty sets don't allocate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element; no node is both childless and not a member.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    element: PathElement,
    branch: Branch,
}

/// Whether a node itself is in the set, and what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Branch {
    pub(crate) member: bool,
    pub(crate) children: FieldSet,
}

/// One step from an object to a part of it.
#[derive(Debug, Clone)]
pub enum PathElement {
    Field(Box<str>),
    /// A keyed list's element by its key fields, sorted by name.
    Key(Vec<(Box<str>, Value)>),
    /// A set's element by its value.
    Value(Value),
    Index(usize),
}

// === impl FieldSet ===

impl FieldSet {
    /// The set of these paths of plain fields: `["metadata", "name"]`.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path.iter().map(|name| PathElement::Field((*name).into())));
        }
        set
    }

    /// Reads FieldsV1. None where it isn't a set of fields.
    pub fn decode(fields: &Value) -> Option<Self> {
        let map = fields.as_object()?;
        let mut nodes = Vec::with_capacity(map.len());
        for (key, value) in map {
            if key == "." {
                continue;
            }
            let children = Self::decode(value)?;
            let member = children.nodes.is_empty() || value.get(".").is_some();
            nodes.push(Node {
                element: PathElement::decode(key)?,
                branch: Branch { member, children },
            });
        }
        if !nodes.is_sorted_by(|a, b| a.element <= b.element) {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
        }
        Some(Self { nodes })
    }

    /// Writes FieldsV1.
    pub fn encode(&self) -> Value {
        Value::Object(self.encode_map(false))
    }

    fn encode_map(&self, member: bool) -> Map<String, Value> {
        let mut map = Map::with_capacity(self.nodes.len() + usize::from(member));
        if member && !self.nodes.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            let value = node.branch.children.encode_map(node.branch.member);
            map.insert(node.element.encode(), Value::Object(value));
        }
        map
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn insert(&mut self, path: impl IntoIterator<Item = PathElement>) {
        let mut set = self;
        let mut path = path.into_iter().peekable();
        while let Some(element) = path.next() {
            let branch = set.branch_mut(element);
            branch.member |= path.peek().is_none();
            set = &mut branch.children;
        }
    }

    /// Adds a branch; an empty one leaves no trace.
    pub(crate) fn put(&mut self, element: impl FnOnce() -> PathElement, branch: Branch) {
        if branch.is_empty() {
            return;
        }
        let element = element();
        match self.search(&element) {
            Ok(at) => {
                let old = std::mem::take(&mut self.nodes[at].branch);
                self.nodes[at].branch = old.union(branch);
            }
            Err(at) => self.nodes.insert(at, Node { element, branch }),
        }
    }

    fn branch_mut(&mut self, element: PathElement) -> &mut Branch {
        let at = match self.search(&element) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(
                    at,
                    Node {
                        element,
                        branch: Branch::default(),
                    },
                );
                at
            }
        };
        &mut self.nodes[at].branch
    }

    fn search(&self, element: &PathElement) -> Result<usize, usize> {
        self.nodes
            .binary_search_by(|node| node.element.cmp(element))
    }

    pub(crate) fn branch(&self, element: &PathElement) -> Option<&Branch> {
        self.search(element).ok().map(|at| &self.nodes[at].branch)
    }

    /// The branch of a plain field, without building an element.
    pub(crate) fn field(&self, name: &str) -> Option<&Branch> {
        let at = self.nodes.binary_search_by(|node| match &node.element {
            PathElement::Field(field) => (**field).cmp(name),
            _ => Ordering::Greater,
        });
        at.ok().map(|at| &self.nodes[at].branch)
    }

    pub(crate) fn branches(&self) -> impl Iterator<Item = (&PathElement, &Branch)> {
        self.nodes.iter().map(|node| (&node.element, &node.branch))
    }

    pub fn union(self, other: Self) -> Self {
        if other.nodes.is_empty() {
            return self;
        }
        if self.nodes.is_empty() {
            return other;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let mut right = other.nodes.into_iter().peekable();
        for node in self.nodes {
            while let Some(before) = right.next_if(|next| next.element < node.element) {
                nodes.push(before);
            }
            match right.next_if(|next| next.element == node.element) {
                Some(same) => nodes.push(Node {
                    element: node.element,
                    branch: node.branch.union(same.branch),
                }),
                None => nodes.push(node),
            }
        }
        nodes.extend(right);
        Self { nodes }
    }

    /// What is in this set and not in `other`, path by path: having a node takes nothing below it.
    pub fn difference(self, other: &Self) -> Self {
        self.filter(other, false)
    }

    /// As [`FieldSet::difference`], but a member of `other` takes everything below it too.
    pub fn recursive_difference(self, other: &Self) -> Self {
        self.filter(other, true)
    }

    fn filter(self, other: &Self, recursive: bool) -> Self {
        if self.nodes.is_empty() || other.nodes.is_empty() {
            return self;
        }
        let nodes = self.nodes.into_iter().filter_map(|mut node| {
            let Some(without) = other.branch(&node.element) else {
                return Some(node);
            };
            if without.member {
                if recursive {
                    return None;
                }
                node.branch.member = false;
            }
            node.branch.children = node.branch.children.filter(&without.children, recursive);
            (!node.branch.is_empty()).then_some(node)
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// What both sets have.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for node in &self.nodes {
            let Some(branch) = other.branch(&node.element) else {
                continue;
            };
            let branch = Branch {
                member: node.branch.member && branch.member,
                children: node.branch.children.intersection(&branch.children),
            };
            if !branch.is_empty() {
                both.nodes.push(Node {
                    element: node.element.clone(),
                    branch,
                });
            }
        }
        both
    }

    /// Every member is in these encoded fields.
    pub(crate) fn is_within(&self, encoded: &Value) -> bool {
        self.nodes.iter().all(|node| {
            let Some(below) = encoded.get(node.element.encode()) else {
                return false;
            };
            let is_member =
                below.as_object().is_some_and(Map::is_empty) || below.get(".").is_some();
            (!node.branch.member || is_member) && node.branch.children.is_within(below)
        })
    }

    /// Some member is in these encoded fields.
    pub(crate) fn meets(&self, encoded: &Value) -> bool {
        self.nodes.iter().any(|node| {
            let Some(below) = encoded.get(node.element.encode()) else {
                return false;
            };
            let is_member =
                below.as_object().is_some_and(Map::is_empty) || below.get(".").is_some();
            (node.branch.member && is_member) || node.branch.children.meets(below)
        })
    }

    /// Some path of this set is, or is below, a member of the other.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        self.nodes.iter().any(|node| {
            other.branch(&node.element).is_some_and(|branch| {
                branch.member || node.branch.children.touches(&branch.children)
            })
        })
    }

    /// Every member as text: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for node in &self.nodes {
            let length = prefix.len();
            prefix.push_str(&node.element.to_string());
            if node.branch.member {
                paths.push(prefix.clone());
            }
            node.branch.children.collect_paths(prefix, paths);
            prefix.truncate(length);
        }
    }
}

// === impl Branch ===

impl Branch {
    pub(crate) fn leaf() -> Self {
        Self {
            member: true,
            children: FieldSet::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    fn union(self, other: Self) -> Self {
        Self {
            member: self.member || other.member,
            children: self.children.union(other.children),
        }
    }
}

// === impl PathElement ===

impl PathElement {
    fn decode(text: &str) -> Option<Self> {
        let rest = text.get(2..)?;
        match &text[..2] {
            "f:" => Some(Self::Field(rest.into())),
            "v:" => serde_json::from_str(rest).ok().map(Self::Value),
            "i:" => rest.parse().ok().map(Self::Index),
            "k:" => {
                let map: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<(Box<str>, Value)> = map
                    .into_iter()
                    .map(|(name, value)| (name.into(), value))
                    .collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Self::Key(keys))
            }
            _ => None,
        }
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(at) => format!("i:{at}"),
            Self::Key(keys) => {
                let map: Map<String, Value> = keys
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.clone()))
                    .collect();
                format!("k:{}", Value::Object(map))
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let pairs = a.iter().zip(b);
                pairs
                    .map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare(&a.1, &b.1)))
                    .find(|order| order.is_ne())
                    .unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PathElement {}

impl fmt::Display for PathElement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Value(value) => write!(out, "[={value}]"),
            Self::Index(at) => write!(out, "[{at}]"),
            Self::Key(keys) => {
                out.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(out, "{comma}{name}={value}")?;
                }
                out.write_str("]")
            }
        }
    }
}

/// A total order of JSON values: numbers, then strings, booleans, null, lists, objects.
fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Null => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x
                .as_f64()
                .unwrap_or(0.0)
                .total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}
