//! Questions before something is destroyed.

use crate::failure::{Exit, Failure, Result};
use std::io::{IsTerminal, Write};

/// A question whose answer lets something be destroyed.
pub(super) struct Question {
    pub(super) text: String,
    /// What has to be typed; none: yes.
    pub(super) answer: Option<String>,
    /// What is so if it is not answered so.
    pub(super) otherwise: String,
    /// The command that does it without a question.
    pub(super) forced: String,
}

impl Question {
    /// Asks, unless there is no need to.
    pub(super) fn ask(self, force: bool) -> Result<()> {
        if force {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{}: there is no terminal to ask at", self.otherwise),
            )
            .next(self.forced));
        }
        let mut stderr = std::io::stderr();
        let how = match &self.answer {
            Some(answer) => format!("Type {answer} to go on: "),
            None => "[y/N] ".to_owned(),
        };
        write!(stderr, "{} {how}", self.text)
            .and_then(|()| stderr.flush())
            .ok();
        let mut typed = String::new();
        std::io::stdin()
            .read_line(&mut typed)
            .map_err(|cause| Failure::failed("the terminal can't be read").why(cause))?;
        let is_yes = match &self.answer {
            Some(answer) => typed.trim() == answer,
            None => matches!(typed.trim(), "y" | "Y" | "yes"),
        };
        if is_yes {
            Ok(())
        } else {
            Err(Failure::failed(self.otherwise))
        }
    }
}
