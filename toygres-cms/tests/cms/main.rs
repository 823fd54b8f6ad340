//! The repository against a real PostgreSQL, a database for each test.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod creating;
mod deleting;
mod fencing;
mod following;
mod health;
mod lists;
mod outages;
mod overview;
mod owners;
mod recording;
mod retrying;
mod schema;
mod secrets;
mod speed;
mod support;
mod sweeping;
mod tokens;
mod updating;
