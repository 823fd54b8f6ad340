//! What the tests of every crate share: real PostgreSQL servers that can't outlive the test, and waiters.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

mod postgres;
mod wait;

pub use postgres::{TestDatabase, TestPostgres, server_programs};
pub use wait::wait_for;
