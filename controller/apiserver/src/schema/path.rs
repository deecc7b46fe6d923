//! Where in an object we are, as a list linked through the stack: costs nothing until somebody asks for the text.

use std::fmt;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    /// An entry of a map with free keys.
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path {
        parent: None,
        segment: Segment::Field(""),
    };

    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        Path {
            parent: Some(self),
            segment: Segment::Field(name),
        }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Path {
            parent: Some(self),
            segment: Segment::Key(key),
        }
    }

    pub(crate) fn index(&'a self, at: usize) -> Self {
        Path {
            parent: Some(self),
            segment: Segment::Index(at),
        }
    }

    /// Only the fields' names, as Go's JSON decoder reports them.
    pub(crate) fn fields_only(&self) -> String {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            if let (Segment::Field(name), true) = (path.segment, path.parent.is_some()) {
                names.push(name);
            }
            at = path.parent;
        }
        names.reverse();
        names.join(".")
    }

    fn write(&self, out: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        let Some(parent) = self.parent else {
            return Ok(false);
        };
        let started = parent.write(out)?;
        match self.segment {
            Segment::Field(name) | Segment::Key(name) if started => write!(out, ".{name}")?,
            Segment::Field(name) | Segment::Key(name) => out.write_str(name)?,
            Segment::Index(at) => write!(out, "[{at}]")?,
        }
        Ok(true)
    }
}

/// As `field.Path` prints it; the root is `<nil>` there and empty here.
impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out).map(|_| ())
    }
}
