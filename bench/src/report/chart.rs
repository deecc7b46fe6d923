//! The chart that a reader looks at first: cost per unit of work, the floor being 1.

use std::fmt::Write as _;

use super::{Recorded, median, ratios};
use crate::peers::Contestant;

/// Bars in this order, with their colours.
const BARS: [(Contestant, &str); 4] = [
    (Contestant::Fairlead, "#0b7285"),
    (Contestant::Haproxy, "#adb5bd"),
    (Contestant::Nginx, "#868e96"),
    (Contestant::Envoy, "#495057"),
];

/// Draws all rows that the floor has a figure for.
pub(super) fn draw(recorded: &Recorded) -> String {
    let mut body = String::new();
    let mut top = HEAD;
    for (row, samples) in &recorded.rows {
        let bars: Vec<(Contestant, &str, f64)> = BARS
            .iter()
            .filter_map(|(contestant, colour)| {
                let ratios = ratios(samples, *contestant, Contestant::Floor)?;
                Some((*contestant, *colour, median(&ratios)))
            })
            .collect();
        if bars.is_empty() {
            continue;
        }
        text(
            &mut body,
            (LABEL - 12, top + 4 + bars.len() as u32 * BAR / 2),
            "end",
            &row.name,
        );
        for (index, (contestant, colour, ratio)) in bars.iter().enumerate() {
            let y = top + index as u32 * BAR;
            let width = (ratio.min(CAP) * UNIT) as u32;
            let height = BAR - 2;
            writeln!(
                body,
                r#"<rect x="{LABEL}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>"#
            )
            .expect("writing to a string");
            let label = format!("{ratio:.2}  {}", contestant.name());
            text(&mut body, (LABEL + width + 6, y + BAR - 4), "start", &label);
        }
        top += bars.len() as u32 * BAR + GAP;
    }
    let line = LABEL + UNIT as u32;
    let end = top - GAP;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"22\" font-size=\"15\">Cost per unit of work; a bare relay is 1, shorter is better</text>\n\
         {body}<line x1=\"{line}\" x2=\"{line}\" y1=\"{HEAD}\" y2=\"{end}\" stroke=\"#e03131\" stroke-dasharray=\"3 3\"/>\n</svg>\n",
        top + 8
    )
}

fn text(body: &mut String, (x, y): (u32, u32), anchor: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        body,
        r#"<text x="{x}" y="{y}" text-anchor="{anchor}">{escaped}</text>"#
    )
    .expect("writing to a string");
}

const WIDTH: u32 = 860;
const HEAD: u32 = 38;
const LABEL: u32 = 210;
const BAR: u32 = 14;
const GAP: u32 = 12;
/// Pixels for the floor's cost.
const UNIT: f64 = 150.0;
/// Bars are cut here, times the floor; their label has the figure.
const CAP: f64 = 3.4;
