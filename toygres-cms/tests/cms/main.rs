//! The repository against a real PostgreSQL, a database for each test.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod creating;
mod deleting;
mod fencing;
mod health;
mod lists;
mod outages;
mod recording;
mod schema;
mod secrets;
mod support;
mod sweeping;
