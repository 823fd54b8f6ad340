//! Nothing is lost and nothing is doubled, whatever fails: `scripts/chaos.sh` runs these for long, and writes down what
//! they did.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

mod crashes;

use std::sync::Arc;
use std::time::Duration;
use toygres_chaos::{ServerOptions, ServerProcess};
use toygres_testing::{TestHome, TestPostgres};

/// Far more than anything takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(240);

/// The server that can be told to fail.
const PROGRAM: &str = env!("CARGO_BIN_EXE_chaos-server");

/// A server of its own database and home, with real instances.
async fn real_server(postgres: &TestPostgres) -> ServerProcess {
    ServerProcess::start(ServerOptions {
        program: PROGRAM,
        database_url: postgres.new_database().await,
        home: Arc::new(TestHome::new()),
        shared: None,
        settings: Vec::new(),
    })
    .await
}
