//! Data that is shown again and again: drawn anew on a terminal, else what has changed.

use super::{Printer, note};
use crate::args::Format;
use crate::failure::{Failure, Result};
use serde::Serialize;
use serde_json::Value;
use std::cell::RefCell;
use std::io::IsTerminal;

pub(crate) struct Live<'a> {
    printer: &'a Printer,
    on_terminal: bool,
    /// What was last shown, by its key; none before the first time.
    shown: Option<Vec<(String, Value)>>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self {
            printer,
            on_terminal: std::io::stdout().is_terminal() && !printer.is_document(),
            shown: None,
        }
    }

    /// Shows a list. `view` prints one line an item, after a line of headings.
    pub(crate) fn rows<T: Serialize>(
        &mut self,
        items: &[T],
        key: impl Fn(&T) -> String,
        view: impl Fn(&Printer, &[T]) -> Result<()>,
    ) -> Result<()> {
        let now = items
            .iter()
            .map(|item| Ok((key(item), value(item)?)))
            .collect::<Result<Vec<_>>>()?;
        let first = self.shown.is_none();
        let before = self.shown.replace(now.clone()).unwrap_or_default();
        if self.on_terminal {
            return self.draw(&self.capture(|printer| view(printer, items))?);
        }
        let changed: Vec<usize> = (0..now.len())
            .filter(|index| !before.contains(&now[*index]))
            .collect();
        for (key, _) in &before {
            if !now.iter().any(|(other, _)| other == key) {
                note(&format!("{key} is gone"));
            }
        }
        if self.printer.is_document() {
            return changed
                .iter()
                .try_for_each(|index| self.printer.document_in_stream(&items[*index]).map(|_| ()));
        }
        if first && items.is_empty() {
            return view(self.printer, items);
        }
        if changed.is_empty() {
            return Ok(());
        }
        let text = self.capture(|printer| view(printer, items))?;
        let mut lines = text.lines();
        let headings = lines.next();
        if before.is_empty() {
            headings.map_or(Ok(()), |line| self.printer.line(line))?;
        }
        for (index, line) in lines.enumerate() {
            if changed.contains(&index) {
                self.printer.line(line)?;
            }
        }
        Ok(())
    }

    /// Shows one thing.
    pub(crate) fn whole<T: Serialize>(
        &mut self,
        item: &T,
        view: impl Fn(&Printer, &T) -> Result<()>,
    ) -> Result<()> {
        let now = vec![(String::new(), value(item)?)];
        let changed = self.shown.as_ref() != Some(&now);
        let first = self.shown.replace(now).is_none();
        if self.on_terminal {
            return self.draw(&self.capture(|printer| view(printer, item))?);
        }
        if !changed || self.printer.document_in_stream(item)? {
            return Ok(());
        }
        if !first {
            self.printer.line("")?;
        }
        view(self.printer, item)
    }

    fn capture(&self, view: impl FnOnce(&Printer) -> Result<()>) -> Result<String> {
        let printer = Printer {
            // What is captured is for people: documents go out one by one.
            format: match self.printer.format {
                Format::Wide => Format::Wide,
                _ => Format::Table,
            },
            colour: self.printer.colour,
            captured: Some(RefCell::default()),
        };
        view(&printer)?;
        Ok(printer.captured.map(RefCell::into_inner).unwrap_or_default())
    }

    /// Draws over what was drawn before, from the upper left corner on, as much as there is room for.
    fn draw(&self, text: &str) -> Result<()> {
        let height = rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .map(|size| usize::from(size.ws_row))
            // Some terminals do not know.
            .filter(|height| *height > 0)
            .unwrap_or(24);
        let room = height.saturating_sub(2).max(1);
        let mut frame = String::from("\x1b[H");
        for line in text.lines().take(room) {
            frame.push_str(line);
            frame.push_str("\x1b[K\n");
        }
        if let Some(more) = text.lines().count().checked_sub(room).filter(|more| *more > 0) {
            frame.push_str(&format!("and {more} lines more\x1b[K\n"));
        }
        frame.push_str("\x1b[J");
        self.printer.bytes(frame.as_bytes())
    }
}

fn value(item: &impl Serialize) -> Result<Value> {
    serde_json::to_value(item).map_err(|cause| Failure::failed("the answer can't be compared").why(cause))
}
