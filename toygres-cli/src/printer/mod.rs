//! All output. Data goes to standard output, everything else to standard error.

mod live;
mod progress;
mod table;
mod views;

pub(crate) use live::Live;
pub(crate) use progress::Progress;
pub(crate) use views::{Checked, ContextView, Overview, ServerStatus, Settings, Tested};

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure, Result};
use serde::Serialize;
use std::cell::RefCell;
use std::io::{ErrorKind, IsTerminal, Write};

pub(crate) struct Printer {
    format: Format,
    colour: bool,
    /// Takes the data up in place of standard output.
    captured: Option<RefCell<String>>,
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
            captured: None,
        }
    }

    /// The same with more columns.
    pub(crate) fn wide(&self) -> Self {
        let format = match self.format {
            Format::Table => Format::Wide,
            other => other,
        };
        Self {
            format,
            colour: self.colour,
            captured: None,
        }
    }

    /// Whether data is for programs.
    pub(crate) fn is_document(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    fn is_yaml(&self) -> bool {
        self.format == Format::Yaml
    }

    fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// Writes a line of data.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        if let Some(captured) = &self.captured {
            let mut captured = captured.borrow_mut();
            captured.push_str(line);
            captured.push('\n');
            return Ok(());
        }
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes data as it is.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|cause| match cause.kind() {
                ErrorKind::BrokenPipe => Failure::quiet(Exit::BrokenPipe),
                _ => Failure::failed("standard output can't be written").why(cause),
            })
    }

    /// Writes data as a document, if that is the format. Else the caller shows it.
    pub(crate) fn document(&self, value: &(impl Serialize + ?Sized)) -> Result<bool> {
        let text = match self.format {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => serde_json::to_string_pretty(value).map_err(unprintable)?,
            Format::Yaml => serde_saphyr::to_string(&value).map_err(unprintable)?,
        };
        self.line(text.trim_end())?;
        Ok(true)
    }

    /// Writes one document of many that come one after the other: a line of JSON, or a document of YAML.
    pub(crate) fn document_in_stream(&self, value: &(impl Serialize + ?Sized)) -> Result<bool> {
        match self.format {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => self.line(&serde_json::to_string(value).map_err(unprintable)?)?,
            Format::Yaml => {
                let text = serde_saphyr::to_string(&value).map_err(unprintable)?;
                self.line(&format!("---\n{}", text.trim_end()))?;
            }
        }
        Ok(true)
    }

    /// Says something to the person at the terminal. Nothing can be done if nobody can hear it.
    pub(crate) fn note(&self, text: &str) {
        match &self.captured {
            Some(captured) => captured.borrow_mut().push_str(&format!("{text}\n")),
            None => note(text),
        }
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
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

fn unprintable(cause: impl std::error::Error) -> Failure {
    Failure::failed("the answer can't be written as a document").why(cause)
}

pub(crate) fn note(text: &str) {
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
    use super::*;
    use toygres_models::problem::Problem;

    /// A line of a log, of a server's or an instance's, is one line, and steers nothing.
    fn is_one_line(text: &str) {
        for (format, instance) in [
            (Format::Table, false),
            (Format::Wide, false),
            (Format::Table, true),
            (Format::Json, true),
        ] {
            let printer = Printer {
                format,
                colour: false,
                captured: Some(RefCell::default()),
            };
            if instance {
                printer.instance_log_line(text).unwrap();
            } else {
                printer.log_line(text).unwrap();
            }
            let shown = printer.captured.as_ref().unwrap().take();
            let line = shown.strip_suffix('\n').unwrap();
            assert!(!line.contains('\n'), "{line:?}");
            // A document is for programs.
            let steers = |c: char| c.is_control() && c != '\t';
            assert!(
                printer.format == Format::Json || !line.contains(steers),
                "{line:?}"
            );
        }
    }

    /// What a server, or something else in its place, gives as the cause can be shown, each part on a line.
    fn is_a_failure(body: &[u8]) {
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            return;
        };
        let (code, status) = (problem.code.clone(), problem.status);
        let failure = Failure::from(problem);
        assert!(failure.message.contains(&code) && failure.exit == Exit::Failed);
        assert_eq!(failure.passing, status >= 500 || status == 429);
    }

    #[test]
    fn fuzz_what_others_wrote() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_one_line(&String::from_utf8_lossy(bytes));
            is_a_failure(bytes);
        });
    }

    proptest::proptest! {
        #[test]
        fn whatever_others_wrote_is_shown_on_one_line(
            any in r"(.|[\x00-\x1f]){0,30}", level in "(ERROR|INFO|\\PC{0,9})", status: u16, code in "[a-z_]{0,9}",
        ) {
            is_one_line(&any);
            let others = serde_json::json!({ "y": any });
            let line = serde_json::json!({ "timestamp": any, "level": level, "message": any, "x": others, "z": any });
            is_one_line(&line.to_string());
            let errors = [serde_json::json!({ "field": any, "message": any })];
            let problem = serde_json::json!({
                "type": "about:blank", "title": any, "status": status, "detail": any, "code": code, "trace_id": any,
                "errors": errors,
            });
            is_a_failure(problem.to_string().as_bytes());
        }
    }

    #[test]
    fn what_others_wrote_can_not_steer_the_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\r\n\u{9b}c"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c"
        );
    }
}
