//! `toygres completions` and `toygres man`

use crate::args::Cli;
use crate::failure::{Exit, Failure, Result};
use crate::printer::Printer;
use clap::CommandFactory;

pub(super) fn completions(shell: clap_complete::Shell, printer: &Printer) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "toygres", &mut script);
    printer.bytes(&script)
}

/// The page of the whole program, or of the command that `path` leads to.
pub(super) fn man(path: &[String], printer: &Printer) -> Result<()> {
    let mut whole = Cli::command();
    whole.build();
    let mut command = &whole;
    for word in path {
        command = command.find_subcommand(word).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("there is no command {word:?}")).next("toygres help")
        })?;
    }
    let mut page = Vec::new();
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned();
    clap_mangen::Man::new(command.clone().display_name(name))
        .render(&mut page)
        .map_err(|cause| Failure::failed("the page can't be made").why(cause))?;
    printer.bytes(&page)
}
