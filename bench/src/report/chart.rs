//! The chart that a reader looks at first: what a unit of work costs, the best peer's cost being 1;
//! below it, what clients notice of changes and faults.

use std::fmt::Write as _;

use super::{PEERS, Recorded, Sample, best_peer, brief, median, ratios};
use crate::{
    peers::Contestant,
    rows::{Figure, Row},
};

/// Draws a recorded run.
pub(super) fn draw(recorded: &Recorded) -> String {
    let mut page = Page::default();
    page.text((MARGIN, 34), "title", "What a unit of work costs");
    let rounds = recorded.rows.iter().map(|(row, samples)| {
        brief(row, samples, Contestant::Fairlead).map_or(0, |brief| brief.rounds)
    });
    let rounds = rounds.max().unwrap_or(0);
    let subtitle = format!(
        "Proxies with one worker each, in turn in the same run, medians of {rounds} rounds. 1 is the best of HAProxy, nginx and Envoy; further left is cheaper."
    );
    page.text((MARGIN, 54), "soft", &subtitle);
    legend(&mut page);
    let costs = recorded
        .rows
        .iter()
        .filter(|(row, _)| row.figure != Figure::Outage);
    let costs: Vec<&(Row, Vec<Sample>)> = costs.collect();
    let mut y = HEAD;
    let bottom = HEAD + ROW * costs.len() as u32;
    axis(&mut page, bottom);
    for (row, samples) in costs {
        cost(&mut page, y + ROW / 2, row, samples);
        y += ROW;
    }
    let outages = recorded
        .rows
        .iter()
        .filter(|(row, _)| row.figure == Figure::Outage);
    let outages: Vec<&(Row, Vec<Sample>)> = outages.collect();
    if !outages.is_empty() {
        y = bottom + 58;
        page.text((MARGIN, y), "title", "What clients notice");
        page.text((MARGIN, y + 20), "soft", OUTAGE_TEXT);
        y += 46;
        for (index, contestant) in OUTAGE_COLUMNS.into_iter().enumerate() {
            page.text((column(index), y), "head", contestant.name());
        }
        for (row, samples) in outages {
            y += ROW;
            outage(&mut page, y, row, samples);
        }
    }
    y = y.max(bottom + 20) + 34;
    let machine = format!("{}; {}", recorded.machine, recorded.place);
    page.text((MARGIN, y), "soft", &machine);
    page.finish(y + 20)
}

/// One row of the upper part.
fn cost(page: &mut Page, y: u32, row: &Row, samples: &[Sample]) {
    page.line((MARGIN, y + ROW / 2), (WIDTH - MARGIN, y + ROW / 2), "rule");
    page.text((MARGIN, y + 4), "label", &row.name);
    let Some(best) = best_peer(row, samples) else {
        return;
    };
    let place = |contestant| {
        let ratios = ratios(row, samples, contestant, best)?;
        Some(median(&ratios))
    };
    if let Some(own) = place(Contestant::Fairlead) {
        let class = if own <= 1.0 { "ahead" } else { "behind" };
        page.line((scale(own), y), (scale(1.0), y), class);
    }
    if let Some(floor) = place(Contestant::Floor) {
        page.line((scale(floor), y - 8), (scale(floor), y + 8), "floor");
    }
    for peer in PEERS {
        if let Some(ratio) = place(peer) {
            mark(page, peer, (scale(ratio), y));
            if ratio > CAP {
                page.text((scale(ratio) + 10, y + 4), "far", &format!("{ratio:.1}"));
            }
        }
    }
    if let Some(own) = place(Contestant::Fairlead) {
        mark(page, Contestant::Fairlead, (scale(own), y));
    }
    let figure = |contestant| {
        let brief = brief(row, samples, contestant);
        brief.map_or_else(String::new, |brief| short(brief.values[0]))
    };
    page.text((FIGURES, y + 4), "own", &figure(Contestant::Fairlead));
    let peer = format!("{} {}", figure(best), best.name());
    page.text((FIGURES + 56, y + 4), "peer", &peer);
    page.text((FIGURES + 160, y + 4), "peer", row.figure.unit());
}

/// One row of the lower part.
fn outage(page: &mut Page, y: u32, row: &Row, samples: &[Sample]) {
    page.line((MARGIN, y + 9), (WIDTH - MARGIN, y + 9), "rule");
    page.text((MARGIN, y), "label", &row.name);
    for (index, contestant) in OUTAGE_COLUMNS.into_iter().enumerate() {
        let Some(brief) = brief(row, samples, contestant) else {
            page.text((column(index), y), "far", "–");
            continue;
        };
        let (failed, worst) = (brief.values[0], brief.values.get(1).copied());
        let worst = worst.unwrap_or_default();
        let worst = match worst {
            worst if worst >= 1000.0 => format!("{:.1} s", worst / 1e3),
            worst => format!("{worst:.0} ms"),
        };
        let class = match (contestant, failed > 0.0) {
            (Contestant::Fairlead, false) => "own",
            (_, true) => "bad",
            _ => "peer",
        };
        page.text(
            (column(index), y),
            class,
            &format!("{failed} failed, {worst}"),
        );
    }
}

fn legend(page: &mut Page) {
    let mut x = MARGIN + 6;
    for contestant in [&[Contestant::Fairlead][..], &PEERS].concat() {
        mark(page, contestant, (x, 80));
        page.text((x + 12, 84), "label", contestant.name());
        x += 100;
    }
    page.line((x, 72), (x, 88), "floor");
    let floor = "floor: a relay without any feature, what user space costs at least";
    page.text((x + 12, 84), "label", floor);
    page.text((FIGURES, HEAD - 8), "head", "fairlead");
    page.text((FIGURES + 56, HEAD - 8), "head", "best peer");
}

fn axis(page: &mut Page, bottom: u32) {
    for tick in [0.0, 0.5, 1.0, 1.5, 2.0] {
        let x = scale(tick);
        let class = if tick == 1.0 { "one" } else { "grid" };
        page.line((x, HEAD), (x, bottom), class);
        page.text((x, bottom + 16), "tick", &format!("{tick}"));
    }
}

fn mark(page: &mut Page, contestant: Contestant, (x, y): (u32, u32)) {
    let body = &mut page.body;
    let drawn = match contestant {
        Contestant::Fairlead => writeln!(
            body,
            r#"<circle class="fairlead" cx="{x}" cy="{y}" r="6.5"/>"#
        ),
        Contestant::Haproxy => {
            writeln!(body, r#"<circle class="other" cx="{x}" cy="{y}" r="4.5"/>"#)
        }
        Contestant::Nginx => {
            let (left, top) = (x - 4, y - 4);
            writeln!(
                body,
                r#"<rect class="other" x="{left}" y="{top}" width="8" height="8"/>"#
            )
        }
        _ => {
            let (left, right, top, low) = (x - 5, x + 5, y - 5, y + 5);
            writeln!(
                body,
                r#"<path class="other" d="M{left} {y}L{x} {top}L{right} {y}L{x} {low}Z"/>"#
            )
        }
    };
    drawn.expect("writing to a string");
}

/// SVG under construction.
#[derive(Default)]
struct Page {
    body: String,
}

impl Page {
    fn text(&mut self, (x, y): (u32, u32), class: &str, text: &str) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(
            self.body,
            r#"<text class="{class}" x="{x}" y="{y}">{escaped}</text>"#
        )
        .expect("writing to a string");
    }

    fn line(&mut self, (x1, y1): (u32, u32), (x2, y2): (u32, u32), class: &str) {
        writeln!(
            self.body,
            r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#
        )
        .expect("writing to a string");
    }

    fn finish(self, height: u32) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn scale(ratio: f64) -> u32 {
    // Beyond the cap a mark stays at the edge, with its figure beside it.
    let ratio = ratio.clamp(0.0, CAP + 0.08);
    LEFT + (ratio * UNIT).round() as u32
}

fn column(index: usize) -> u32 {
    LEFT - 30 + index as u32 * 170
}

fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

const OUTAGE_COLUMNS: [Contestant; 4] = [
    Contestant::Fairlead,
    Contestant::Haproxy,
    Contestant::Nginx,
    Contestant::Envoy,
];
const OUTAGE_TEXT: &str = "New connections at a steady rate (1,000/s at a reload or an upgrade, 200/s over two endpoints at a fault): failed ones, and the longest wait of the others.";
const WIDTH: u32 = 1000;
const MARGIN: u32 = 24;
const HEAD: u32 = 120;
const ROW: u32 = 26;
const LEFT: u32 = 290;
/// Pixels for the best peer's cost.
const UNIT: f64 = 196.0;
const CAP: f64 = 2.15;
const FIGURES: u32 = 762;
const STYLE: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#343a40}\
.title{font-size:18px;font-weight:600;fill:#212529}.soft{fill:#868e96}.head{fill:#868e96;font-size:11px}\
.own{fill:#0b7285;font-weight:700}.peer{fill:#495057}.far{fill:#adb5bd}.bad{fill:#c2410c}\
.tick{fill:#868e96;text-anchor:middle;font-size:11px}.rule{stroke:#f1f3f5}.grid{stroke:#dee2e6}\
.one{stroke:#868e96;stroke-dasharray:4 3}.floor{stroke:#e03131;stroke-width:2.5}\
.ahead{stroke:#66d9e8;stroke-width:5;stroke-linecap:round}.behind{stroke:#ffc078;stroke-width:5;stroke-linecap:round}\
.fairlead{fill:#0b7285;stroke:#fff;stroke-width:1.5}.other{fill:#fff;stroke:#868e96;stroke-width:1.8}";
