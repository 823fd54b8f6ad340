//! All output. Data goes to standard output, everything else to standard error.

mod progress;
mod table;
mod views;

pub(crate) use views::ServerStatus;

pub(crate) use progress::Progress;

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure, Result};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

pub(crate) struct Printer {
    format: Format,
    colour: bool,
}

/// What a word says about what it stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    Good,
    Busy,
    Bad,
}

impl Printer {
    pub(crate) fn new(global: &Global) -> Self {
        let no_color = global.no_color.as_deref().is_some_and(|value| !value.is_empty());
        Self {
            format: global.output,
            colour: !no_color && std::io::stdout().is_terminal(),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes a line of data.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|cause| match cause.kind() {
                ErrorKind::BrokenPipe => Failure::new(Exit::BrokenPipe, ""),
                _ => Failure::failed("standard output can't be written").why(cause),
            })
    }

    /// Writes data as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|cause| Failure::failed("the answer can't be written as JSON").why(cause))?;
        self.line(&text)
    }

    /// Says something to the person at the terminal. Nothing can be done if nobody can hear it.
    pub(crate) fn note(&self, text: &str) {
        note(text);
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.exit == Exit::BrokenPipe {
            return;
        }
        note(&format!("error: {}", clean(&failure.message)));
        for why in &failure.why {
            for line in why.lines() {
                note(&format!("  why:  {}", clean(line)));
            }
        }
        for next in &failure.next {
            note(&format!("  next: {}", clean(next)));
        }
    }

    fn paint(&self, text: &str, mood: Mood) -> String {
        let code = match mood {
            Mood::Good => 32,
            Mood::Busy => 33,
            Mood::Bad => 31,
            Mood::Plain => 0,
        };
        if self.colour && code != 0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn note(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// Without characters that would steer the terminal: names, tags and messages come from other people.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_others_wrote_can_not_steer_the_terminal() {
        assert_eq!(
            super::clean("a\x1b[2Jb\r\n\u{9b}c"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c"
        );
    }
}
