//! The program `toygres`: parse the command line, resolve what it means, act, print.

mod args;
mod client;
mod commands;
mod config;
mod failure;
mod printer;

use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (cli, given) = args::parse();
    let printer = Printer::new(&cli.global);
    match commands::run(cli, given, &printer) {
        Ok(code) => code,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}
