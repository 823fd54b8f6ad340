//! The program `toygres`: parse the command line, resolve what it means, act, print.

mod args;
mod client;
mod commands;
mod failure;
mod printer;

use clap::Parser;
use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let printer = Printer::new(&cli.global);
    match commands::run(cli, &printer) {
        Ok(code) => code,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}
