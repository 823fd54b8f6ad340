//! What orchestrations may do to the world: short, idempotent activities.
//!
//! One file an activity, each with its name, input, output and `run`; [`registry`] lists them all. An activity may
//! run twice, and its answer may be lost after its work was done.

mod connection;
mod deps;
mod session;
mod step;

pub mod begin_operation;
pub mod deploy_postgres;
pub mod load_intent;
pub mod record_end;
pub mod record_health_check;
pub mod record_running;
pub mod remove_postgres;
pub mod test_connection;
pub mod verify_gone;
pub mod wait_for_ready;

pub use begin_operation::BeginOperation;
pub use deploy_postgres::DeployPostgres;
pub use deps::{Deps, Settings};
pub use load_intent::LoadIntent;
pub use record_end::RecordEnd;
pub use record_health_check::RecordHealthCheck;
pub use record_running::RecordRunning;
pub use remove_postgres::RemovePostgres;
pub use test_connection::TestConnection;
pub use verify_gone::VerifyGone;
pub use wait_for_ready::WaitForReady;

use std::sync::Arc;
use toygres_engine::{Activities, Activity};

/// The crate's name in the engine's registry, before `::activity::` and the activity's own name.
pub const CRATE: &str = "toygres-activities";

macro_rules! registry {
    ($($activity:ident),+ $(,)?) => {
        /// Every activity, ready to run.
        #[must_use]
        pub fn registry(deps: Arc<Deps>) -> Activities<Deps> {
            Activities::new(CRATE, deps)$(.register::<$activity>())+
        }

        /// The name of every activity. Running work depends on them.
        pub const NAMES: &[&str] = &[$($activity::NAME),+];
    };
}

registry! {
    BeginOperation,
    DeployPostgres,
    LoadIntent,
    RecordEnd,
    RecordHealthCheck,
    RecordRunning,
    RemovePostgres,
    TestConnection,
    VerifyGone,
    WaitForReady,
}
