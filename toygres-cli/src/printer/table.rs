//! Columns of text.

use super::{Mood, Printer, clean};
use crate::failure::Result;

/// One cell of a table.
pub(super) struct Cell(pub(super) String, pub(super) Mood);

impl Cell {
    pub(super) fn new(text: impl ToString, mood: Mood) -> Self {
        Self(clean(&text.to_string()), mood)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Mood::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Mood::Plain)
    }
}

impl Printer {
    /// Rows under headings, each column as wide as its widest cell. Empty cells show a dash, so that a row can be
    /// split at white space.
    pub(super) fn table(&self, headings: &[&str], rows: Vec<Vec<Cell>>) -> Result<()> {
        if rows.is_empty() {
            self.note("there are none");
            return Ok(());
        }
        let headings = headings.iter().map(|h| Cell::from(*h)).collect();
        let mut rows: Vec<Vec<Cell>> = std::iter::once(headings).chain(rows).collect();
        for cell in rows.iter_mut().flatten().filter(|cell| cell.0.is_empty()) {
            cell.0.push('-');
        }
        self.columns(&rows)
    }

    /// Labels and values; those without a value are left out.
    pub(super) fn fields(&self, fields: Vec<(&str, Option<Cell>)>) -> Result<()> {
        let rows: Vec<_> = fields
            .into_iter()
            .filter_map(|(label, value)| Some(vec![Cell::from(label), value.filter(|v| !v.0.is_empty())?]))
            .collect();
        self.columns(&rows)
    }

    fn columns(&self, rows: &[Vec<Cell>]) -> Result<()> {
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.0.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0))
            .map(width)
            .collect();
        for row in rows {
            let mut line = String::new();
            for (column, Cell(text, mood)) in row.iter().enumerate() {
                line.push_str(&self.paint(text, *mood));
                if column + 1 < row.len() {
                    line.push_str(&" ".repeat(widths[column] - text.chars().count() + 2));
                }
            }
            self.line(&line)?;
        }
        Ok(())
    }
}
