//! Faults: what tests inject them with, and the account of what they did.
//!
//! - [`Faults`] stands before every activity of a server and has it fail, run twice, or be the last thing it does.
//! - [`ServerProcess`] is a server in a process of its own, that can be killed and stopped.
//! - [`SharedPlatform`] is a platform that several processes share.
//! - [`Link`] is the way between a server and its database, and what can happen on it.
//! - [`Stalls`] tells how long the machine itself stood still.
//! - [`Account`] keeps what was injected and what was lost; `scripts/chaos.sh` makes `docs/reliability.md` of it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests may panic and print, and are told by the environment how to run"
)]

mod account;
mod faults;
mod link;
mod platform;
mod process;
mod stalls;

pub use account::{Account, long, old_server, random};
pub use faults::{Call, Effect, Fault, Faults, Moment};
pub use link::{Link, Traffic};
pub use platform::SharedPlatform;
pub use process::{ServerOptions, ServerProcess, Setup};
pub use stalls::Stalls;
pub use toygres_testing::seed;
