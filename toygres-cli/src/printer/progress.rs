//! Progress on standard error: a spinner on a terminal, else one line a change.

use super::{clean, note};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use toygres_models::operations::{Operation, Step, StepState};

pub(crate) struct Progress {
    title: String,
    bar: Option<ProgressBar>,
    /// What was last said of each thing that is watched.
    said: Vec<(String, String)>,
}

/// How a thing that is watched stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Going,
    Done,
    Failed,
}

impl Progress {
    /// `title` says what is being done ("creating demo").
    pub(crate) fn new(title: impl Into<String>) -> Self {
        let title = title.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            title,
            bar,
            said: Vec::new(),
        }
    }

    /// Shows how the steps of an operation stand.
    pub(crate) fn operation(&mut self, operation: &Operation) {
        for step in &operation.steps {
            let (text, mark) = describe(step);
            self.set(&step.name, text, mark);
        }
        self.spin(
            operation
                .steps
                .iter()
                .filter(|s| s.state == StepState::Running)
                .map(|s| describe(s).0),
        );
    }

    /// Shows what is going on besides the steps.
    pub(crate) fn now(&mut self, text: &str) {
        self.set("", text.to_owned(), Mark::Going);
        self.spin(std::iter::once(text.to_owned()));
    }

    /// Takes the spinner away.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn set(&mut self, key: &str, text: String, mark: Mark) {
        let text = clean(&text);
        match self.said.iter_mut().find(|(said, _)| said == key) {
            Some((_, last)) if *last == text => return,
            Some((_, last)) => last.clone_from(&text),
            None => self.said.push((key.to_owned(), text.clone())),
        }
        match (&self.bar, mark) {
            (None, _) => note(&format!("{}: {text}", self.title)),
            (Some(bar), Mark::Done) => bar.println(format!("✓ {text}")),
            (Some(bar), Mark::Failed) => bar.println(format!("✗ {text}")),
            (Some(_), Mark::Going) => {}
        }
    }

    fn spin(&self, going: impl Iterator<Item = String>) {
        if let Some(bar) = &self.bar {
            let going: Vec<String> = going.map(|text| clean(&text)).collect();
            let separator = if going.is_empty() { "" } else { ": " };
            bar.set_message(format!("{}{separator}{}", self.title, going.join("; ")));
        }
    }
}

/// A step in one line: its name, the reason it waits for, how long it took.
fn describe(step: &Step) -> (String, Mark) {
    let mut text = step.name.clone();
    if step.attempts > 1 {
        text.push_str(&format!(" (attempt {})", step.attempts));
    }
    match step.state {
        StepState::Running => {
            match (step.reason, &step.message) {
                (Some(reason), Some(message)) => text.push_str(&format!(": {reason}: {message}")),
                (Some(reason), None) => text.push_str(&format!(": {reason}")),
                (None, Some(message)) => text.push_str(&format!(": {message}")),
                (None, None) => text.push_str(" begun"),
            }
            (text, Mark::Going)
        }
        StepState::Succeeded => (format!("{text} done{}", took(step)), Mark::Done),
        StepState::Failed => {
            let why = step
                .message
                .as_deref()
                .map(|m| format!(": {m}"))
                .unwrap_or_default();
            (format!("{text} failed{}{why}", took(step)), Mark::Failed)
        }
    }
}

fn took(step: &Step) -> String {
    match step.finished_at {
        Some(end) => format!(" in {:.1} s", (end - step.started_at).as_seconds_f64().max(0.0)),
        None => String::new(),
    }
}
