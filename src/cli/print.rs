//! Printing answers. A reader that went away (`firn query ... | head`) ends the command quietly.

use std::io::Write;

use serde::Serialize;

use super::{Failure, Output};

impl Output {
    /// # Errors
    /// For commands whose answer is not a table.
    pub(super) fn not_csv(self) -> Result<(), Failure> {
        if self == Output::Csv {
            return Err(Failure::usage(
                "--output csv is for `firn query`, `firn table` and `firn dead-letters`; use text or json",
            ));
        }
        Ok(())
    }
}

/// Writes to standard output as it is.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    text(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Rows of text under headings, for people and as CSV.
pub(super) struct Grid {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Columns as wide as their widest cell; numbers to the right.
    pub fn to_text(&self) -> String {
        let lines = || std::iter::once(&self.headings).chain(&self.rows);
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i: usize| lines().map(|r| cell(r, i).chars().count()).max().unwrap_or(0);
        let numeric = |i: usize| {
            !self.rows.is_empty()
                && self.rows.iter().all(|r| cell(r, i).parse::<f64>().is_ok() || cell(r, i).is_empty())
        };
        let columns: Vec<(usize, bool)> = (0..self.headings.len()).map(|i| (width(i), numeric(i))).collect();
        let mut out = String::new();
        for row in lines() {
            let mut line = String::new();
            for (i, (width, right)) in columns.iter().enumerate() {
                let text = cell(row, i);
                line += &if *right { format!("{text:>width$}  ") } else { format!("{text:<width$}  ") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    pub fn to_csv(&self) -> String {
        let quoted = |cell: &str| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.to_owned(),
        };
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut out = line(self.headings.iter().map(|h| quoted(h)).collect());
        for row in &self.rows {
            out += &line(row.iter().map(|c| quoted(c)).collect());
        }
        out
    }

    /// The grid for people or as CSV, `value` as JSON.
    pub fn print(&self, output: Output, value: &impl Serialize) -> Result<(), Failure> {
        match output {
            Output::Text => text(&self.to_text()),
            Output::Csv => text(&self.to_csv()),
            Output::Json => json(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_lines_up_and_quotes_where_csv_needs_it() {
        let mut grid = Grid::new(["table", "rows"]);
        grid.row(["a.orders".to_owned(), "5".to_owned()]);
        grid.row(["b,\"c\"".to_owned(), "12".to_owned()]);
        assert_eq!(grid.to_text(), "table     rows\na.orders     5\nb,\"c\"       12\n");
        assert_eq!(grid.to_csv(), "table,rows\na.orders,5\n\"b,\"\"c\"\"\",12\n");
    }
}
