//! What the commands print: tables for people, JSON or YAML for programs.

use clap::{Args, ValueEnum};
use serde::Serialize;

/// How to print.
#[derive(Args, Clone, Copy)]
pub(crate) struct Output {
    /// For programs; a table for people where absent.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

impl Output {
    /// Prints `value`, or for people what `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            None => print!("{}", text(value)),
            Some(Format::Json) => println!("{}", serde_json::to_string_pretty(value)?),
            Some(Format::Yaml) => print!("{}", serde_saphyr::to_string(value)?),
        }
        Ok(())
    }
}

/// Rows under a head, each column as wide as it must be.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let body = rows
        .iter()
        .map(|row| line(std::array::from_fn(|at| row[at].as_str())));
    line(head) + &body.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["longer".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "N"], &rows),
            "NAME    N\na       1\nlonger\n"
        );
    }
}
