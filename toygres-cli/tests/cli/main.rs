//! The program against an API that answers what a test says.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod answers;
mod contexts;
mod golden;
mod secrets;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod waiting;
