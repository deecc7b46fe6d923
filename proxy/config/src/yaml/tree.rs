//! A YAML document as a tree that remembers where each node stands.
//!
//! Nodes live in one vector and refer to each other by index; an alias is a second reference to the
//! same node, so a document's memory is linear in its bytes. What aliases multiply is counted and
//! limited, because whoever walks the tree walks it expanded.

use std::{borrow::Cow, collections::HashMap};

use prost_types::{ListValue, Struct, Value, value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::report::Report;

/// One document.
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    root: NodeId,
}

/// A node of one tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

/// A value and where it stands.
pub(super) struct Node<'t> {
    pub(super) mark: Mark,
    pub(super) kind: Kind<'t>,
    /// Nodes below and including this one, aliases expanded.
    size: u32,
}

/// A value.
pub(super) enum Kind<'t> {
    /// Text; `plain` when it stands without quotes.
    Scalar { text: Cow<'t, str>, plain: bool },
    /// In order.
    List(Vec<NodeId>),
    /// In order; keys may repeat.
    Map(Vec<Entry<'t>>),
}

/// One key of a map.
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) mark: Mark,
    pub(super) value: NodeId,
}

/// A place in the file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

// === impl Tree ===

impl<'t> Tree<'t> {
    /// Reads exactly one document; otherwise the problem is in `report`.
    pub(super) fn read(text: &'t str, report: &mut Report) -> Option<Self> {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(step) = parser.next_event() {
            let (event, span) = match step {
                Ok(step) => step,
                Err(error) => {
                    let message = format!("is no valid YAML: {}", error.info());
                    report.at(Mark::from(*error.marker()), message);
                    return None;
                }
            };
            let mark = Mark::from(span.start);
            if let Err(message) = builder.take(event, mark) {
                report.at(mark, message);
                return None;
            }
        }
        let Some(root) = builder.root else {
            report.at(Mark { line: 1, column: 1 }, "the file is empty".to_owned());
            return None;
        };
        Some(Self {
            nodes: builder.nodes,
            root,
        })
    }

    /// The tree of values that came as protobuf; they stand nowhere, so only paths tell them apart.
    pub(super) fn of_struct(values: &'t Struct) -> Self {
        let mut nodes = Vec::new();
        let root = put_struct(&mut nodes, values);
        Self { nodes, root }
    }

    /// The tree as protobuf, every scalar as text.
    pub(super) fn to_value(&self, id: NodeId) -> Value {
        let kind = match &self.node(id).kind {
            Kind::Scalar { text, .. } => value::Kind::StringValue(text.as_ref().to_owned()),
            Kind::List(items) => {
                let values = items.iter().map(|item| self.to_value(*item)).collect();
                value::Kind::ListValue(ListValue { values })
            }
            Kind::Map(entries) => {
                let pair =
                    |entry: &Entry<'_>| (entry.key.as_ref().to_owned(), self.to_value(entry.value));
                let fields = entries.iter().map(pair).collect();
                value::Kind::StructValue(Struct { fields })
            }
        };
        Value { kind: Some(kind) }
    }

    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }
}

fn put_struct<'t>(nodes: &mut Vec<Node<'t>>, values: &'t Struct) -> NodeId {
    let entries = values.fields.iter().map(|(key, value)| Entry {
        key: Cow::Borrowed(key.as_str()),
        mark: NOWHERE,
        value: put_value(nodes, value),
    });
    let kind = Kind::Map(entries.collect());
    put(nodes, kind)
}

/// Recursion is bounded by the limit that messages are decoded with.
fn put_value<'t>(nodes: &mut Vec<Node<'t>>, value: &'t Value) -> NodeId {
    let scalar = |text: Cow<'t, str>, plain| Kind::Scalar { text, plain };
    let kind = match &value.kind {
        None | Some(value::Kind::NullValue(_)) => scalar(Cow::Borrowed("null"), true),
        Some(value::Kind::BoolValue(value)) => scalar(Cow::Owned(value.to_string()), true),
        Some(value::Kind::NumberValue(value)) => scalar(Cow::Owned(value.to_string()), true),
        Some(value::Kind::StringValue(text)) => scalar(Cow::Borrowed(text), false),
        Some(value::Kind::StructValue(values)) => return put_struct(nodes, values),
        Some(value::Kind::ListValue(list)) => {
            let items = list.values.iter().map(|value| put_value(nodes, value));
            Kind::List(items.collect())
        }
    };
    put(nodes, kind)
}

fn put<'t>(nodes: &mut Vec<Node<'t>>, kind: Kind<'t>) -> NodeId {
    let id = NodeId(u32::try_from(nodes.len()).expect("a message has fewer values"));
    nodes.push(Node {
        mark: NOWHERE,
        kind,
        size: 1,
    });
    id
}

// === impl Mark ===

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            line: narrow(marker.line()).max(1),
            column: narrow(marker.col()).saturating_add(1),
        }
    }
}

/// Builds a tree from events.
#[derive(Default)]
struct Builder<'t> {
    nodes: Vec<Node<'t>>,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, NodeId>,
    aliases: usize,
    expanded: u64,
    documents: usize,
    root: Option<NodeId>,
}

/// A list or map whose end has not come yet.
struct Open<'t> {
    mark: Mark,
    anchor: usize,
    kind: Kind<'t>,
    /// The key whose value comes next.
    key: Option<(Cow<'t, str>, Mark)>,
    size: u32,
}

impl<'t> Builder<'t> {
    fn take(&mut self, event: Event<'t>, mark: Mark) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("a second document starts here; a file holds one".to_owned());
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref())?;
                self.scalar(text, style == ScalarStyle::Plain, anchor, mark)
            }
            Event::Alias(anchor) => self.alias(anchor),
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref())?;
                self.start(Kind::List(Vec::new()), anchor, mark)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref())?;
                self.start(Kind::Map(Vec::new()), anchor, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        plain: bool,
        anchor: usize,
        mark: Mark,
    ) -> Result<(), String> {
        if let Some(open) = self.open.last_mut()
            && matches!(open.kind, Kind::Map(_))
            && open.key.is_none()
        {
            open.key = Some((text, mark));
            return Ok(());
        }
        let kind = Kind::Scalar { text, plain };
        let id = self.push(mark, kind, 1)?;
        self.remember(anchor, id);
        self.attach(id)
    }

    fn alias(&mut self, anchor: usize) -> Result<(), String> {
        self.aliases += 1;
        if self.aliases > ALIASES_MAX {
            return Err(format!("more than {ALIASES_MAX} aliases"));
        }
        let id = *self
            .anchors
            .get(&anchor)
            .ok_or("an alias to something that holds the alias itself")?;
        self.expanded += u64::from(self.nodes[id.0 as usize].size);
        self.check_expanded()?;
        self.attach(id)
    }

    fn start(&mut self, kind: Kind<'t>, anchor: usize, mark: Mark) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        if let Some(open) = self.open.last()
            && matches!(open.kind, Kind::Map(_))
            && open.key.is_none()
        {
            return Err("a list or map as a key; keys are words".to_owned());
        }
        self.open.push(Open {
            mark,
            anchor,
            kind,
            key: None,
            size: 1,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let open = self.open.pop().expect("the parser pairs starts with ends");
        let id = self.push(open.mark, open.kind, open.size)?;
        self.remember(open.anchor, id);
        self.attach(id)
    }

    fn push(&mut self, mark: Mark, kind: Kind<'t>, size: u32) -> Result<NodeId, String> {
        self.expanded += 1;
        self.check_expanded()?;
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than NODES_MAX"));
        self.nodes.push(Node { mark, kind, size });
        Ok(id)
    }

    fn remember(&mut self, anchor: usize, id: NodeId) {
        // The parser numbers anchors from 1; 0 is none.
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
    }

    fn attach(&mut self, id: NodeId) -> Result<(), String> {
        let size = self.nodes[id.0 as usize].size;
        let Some(open) = self.open.last_mut() else {
            self.root = Some(id);
            return Ok(());
        };
        open.size = open.size.saturating_add(size);
        match &mut open.kind {
            Kind::List(items) => items.push(id),
            Kind::Map(entries) => {
                let Some((key, mark)) = open.key.take() else {
                    return Err("an alias as a key; keys are words".to_owned());
                };
                entries.push(Entry {
                    key,
                    mark,
                    value: id,
                });
            }
            Kind::Scalar { .. } => unreachable!("a scalar is never open"),
        }
        Ok(())
    }

    fn check_expanded(&self) -> Result<(), String> {
        if self.expanded > NODES_MAX {
            return Err(format!(
                "more than {NODES_MAX} values, aliases counted as often as they stand"
            ));
        }
        Ok(())
    }
}

fn refuse_tag(tag: Option<&Tag>) -> Result<(), String> {
    match tag {
        Some(tag) => Err(format!("has the tag {tag}; tags are not supported")),
        None => Ok(()),
    }
}

const NOWHERE: Mark = Mark { line: 0, column: 0 };

/// Our own keys nest 10 deep; the rest is for a problem to be found where it stands.
pub(super) const DEPTH_MAX: usize = 32;
/// Generous for hand-written files.
pub(super) const ALIASES_MAX: usize = 10_000;
/// 64 MiB of endpoints in their shortest form; about 700 MB of memory at worst.
pub(super) const NODES_MAX: u64 = 8_000_000;
