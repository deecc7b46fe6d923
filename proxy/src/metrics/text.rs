//! The Prometheus text format (version 0.0.4), written straight from the cells.
//!
//! Costs about 100 bytes and 30 ns a series. It is written in parts, each when its reader has room for
//! it: of 10,000 services it has tens of megabytes. So the families are of different moments, and a
//! service that is removed meanwhile stands in the first ones only. Values of a closed label that have never counted are
//! left out, and so are histograms of nothing: of thousands of services most see none.

use std::{
    collections::VecDeque,
    fmt::{Display, Write},
    sync::Arc,
};

use bytes::Bytes;
use fairlead_config::name::{MemberName, ServiceName};

use super::{
    MemberMetrics, Metrics, ServiceMetrics,
    names::{CONTROL_PLANE, Family, Kind, MEMBER, PROCESS, SERVICE, Series, THREAD, Value},
};

/// The part of a page of metrics that is being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

/// A page in parts of [`PART_BYTES`], and a row more at most; each is written when it is asked for.
pub struct Sheets {
    sections: VecDeque<Section>,
    page: Page,
}

/// Writes rows of its families, from where it stopped before, until it is done or the page is full.
/// Holds nothing between two calls that a removal would have to wait for.
pub type Section = Box<dyn FnMut(&mut Page) -> Progress + Send>;

/// How far a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The page is full.
    Stopped,
    /// Every row is written.
    Done,
}

/// Labels that each sample of a series has.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

// === impl Metrics ===

impl Metrics {
    /// Every series that is read from cells, one family after the other.
    pub fn sections(self: &Arc<Self>) -> Vec<Section> {
        self.forget_services();
        let metrics = self.clone();
        let mut sections: Vec<Section> = vec![Box::new(move |page| {
            metrics.write_process(page);
            Progress::Done
        })];
        sections.extend(groups(SERVICE).map(|group| services(self, group)));
        sections.extend(groups(MEMBER).map(|group| members(self, group)));
        sections
    }

    fn write_process(&self, page: &mut Page) {
        for group in groups(PROCESS) {
            write_row(group, &[], &self.process, page);
        }
        for group in groups(CONTROL_PLANE) {
            write_row(group, &[], &self.control_plane, page);
        }
        for group in groups(THREAD) {
            for (index, cells) in self.threads.iter().enumerate() {
                write_row(group, &[("thread", &index.to_string())], cells, page);
            }
        }
    }
}

fn services(metrics: &Arc<Metrics>, group: &'static [Series<ServiceMetrics>]) -> Section {
    let metrics = metrics.clone();
    let mut last: Option<ServiceName> = None;
    Box::new(move |page| {
        loop {
            let rows = metrics.services_after(last.as_ref(), BATCH);
            if rows.is_empty() {
                return Progress::Done;
            }
            for (name, cells) in rows {
                if page.is_full() {
                    return Progress::Stopped;
                }
                write_row(group, &[("service", name.as_str())], &cells, page);
                last = Some(name);
            }
        }
    })
}

fn members(metrics: &Arc<Metrics>, group: &'static [Series<MemberMetrics>]) -> Section {
    let metrics = metrics.clone();
    let mut last: Option<ServiceName> = None;
    let mut begun: Option<(ServiceName, MemberName)> = None;
    Box::new(move |page| {
        loop {
            let rows = metrics.services_after(last.as_ref(), BATCH);
            if rows.is_empty() {
                return Progress::Done;
            }
            for (service, cells) in rows {
                let written = begun.take().filter(|(begun, _)| *begun == service);
                let mut written = written.map(|(_, member)| member);
                for (member, cells) in cells.members_after(written.as_ref()) {
                    if page.is_full() {
                        begun = written.map(|member| (service, member));
                        return Progress::Stopped;
                    }
                    let labels = [("service", service.as_str()), ("member", member.as_str())];
                    write_row(group, &labels, &cells, page);
                    written = Some(member);
                }
                last = Some(service);
            }
        }
    })
}

/// Series that share a family; they are neighbours in their table.
fn groups<T>(table: &'static [Series<T>]) -> impl Iterator<Item = &'static [Series<T>]> {
    table.chunk_by(|one, other| one.family.name == other.family.name)
}

fn write_row<T>(group: &[Series<T>], labels: Labels<'_>, cells: &T, page: &mut Page) {
    for series in group {
        write_value(series, labels, (series.read)(cells), page);
    }
}

fn write_value<T>(series: &Series<T>, labels: Labels<'_>, value: Value<'_>, page: &mut Page) {
    let family = &series.family;
    let label = series.label.unwrap_or_default();
    match value {
        Value::Number(number) => page.sample(family, labels, None, number),
        Value::Of(text, number) => page.sample(family, labels, Some((label, text)), number),
        Value::By(cells) => cells.visit(&mut |text, count| {
            page.sample(family, labels, Some((label, text)), count);
        }),
        Value::Histogram(cells) if cells.count() == 0 => {}
        Value::Histogram(cells) => {
            page.head(family);
            for (bound, count) in cells.cumulative() {
                page.line(family.name, "_bucket", labels, Some(("le", bound)), count);
            }
            let count = cells.count();
            page.line(family.name, "_bucket", labels, Some(("le", "+Inf")), count);
            page.line(family.name, "_sum", labels, None, cells.sum_seconds());
            page.line(family.name, "_count", labels, None, count);
        }
    }
}

// === impl Sheets ===

impl Sheets {
    /// What these sections write, in this order.
    pub fn new(sections: Vec<Section>) -> Self {
        Self {
            sections: sections.into(),
            page: Page::default(),
        }
    }
}

impl Iterator for Sheets {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while let Some(section) = self.sections.front_mut() {
            if section(&mut self.page) == Progress::Done {
                self.sections.pop_front();
            }
            if self.page.is_full() {
                break;
            }
        }
        Some(self.page.take()).filter(|part| !part.is_empty())
    }
}

// === impl Page ===

impl Page {
    /// One sample; the family's head comes before its first. All samples of a family must be
    /// written one after the other.
    pub fn sample(
        &mut self,
        family: &Family,
        labels: Labels<'_>,
        extra: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.head(family);
        self.line(family.name, "", labels, extra, value);
    }

    /// Whether it is time to send it.
    pub fn is_full(&self) -> bool {
        self.text.len() >= PART_BYTES
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.text).into()
    }

    fn head(&mut self, family: &Family) {
        if self.family == family.name {
            return;
        }
        self.family = family.name;
        let Family { name, help, .. } = family;
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.text.extend([
            "# HELP ",
            name,
            " ",
            help,
            "\n# TYPE ",
            name,
            " ",
            kind,
            "\n",
        ]);
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: Labels<'_>,
        extra: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (label, text) in labels.iter().copied().chain(extra) {
            self.text.push(open);
            open = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.push_escaped(text);
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect("writing into memory never fails");
    }

    fn push_escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}

/// From so many bytes on a part is sent: some 500 rows, which take about 20 µs.
pub const PART_BYTES: usize = 64 * 1024;
/// Services looked up at a time, so that the control thread never waits long for their table.
const BATCH: usize = 64;
/// The content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
