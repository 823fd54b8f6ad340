//! Nothing is lost and nothing is doubled, whatever fails: `scripts/chaos.sh` runs these for long, and writes down what
//! they did.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

mod actors;
mod clocks;
mod crashes;
mod data;
mod database;
mod drift;
mod hostile;
mod load;
mod model;
mod servers;
mod soak;
mod steps;
mod upgrade;

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use toygres_chaos::{ServerOptions, ServerProcess};
use toygres_models::InstanceId;
use toygres_testing::{TestHome, TestPostgres};

/// Far more than anything takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(240);

/// The server that can be told to fail.
const PROGRAM: &str = env!("CARGO_BIN_EXE_chaos-server");

/// Which activities are called while an instance is made, watched and deleted, outside an operation or as a step of one.
/// Whatever is registered must be here, so that what is new can't be forgotten.
const CALLED: [(&str, During, bool); 13] = [
    ("cms-load-intent", During::Create, false),
    ("cms-begin-operation", During::Create, true),
    ("deploy-postgres", During::Create, true),
    ("wait-for-ready", During::Create, true),
    ("test-connection", During::Create, true),
    ("cms-record-running", During::Create, true),
    ("test-connection", During::Watch, false),
    ("cms-record-health-check", During::Watch, false),
    ("cms-load-intent", During::Delete, false),
    ("cms-begin-operation", During::Delete, true),
    ("remove-postgres", During::Delete, true),
    ("verify-gone", During::Delete, true),
    ("cms-record-end", During::Delete, true),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum During {
    Create,
    Watch,
    Delete,
}

/// A server of its own database and home, with real instances.
async fn real_server(postgres: &TestPostgres) -> ServerProcess {
    server(postgres, None, Vec::new()).await
}

/// A server of its own database and home, on a platform of files, with these settings.
async fn quick_server(postgres: &TestPostgres, settings: Vec<(&'static str, String)>) -> ServerProcess {
    server(postgres, Some(postgres.port()), settings).await
}

async fn server(
    postgres: &TestPostgres,
    shared: Option<u16>,
    settings: Vec<(&'static str, String)>,
) -> ServerProcess {
    ServerProcess::start(ServerOptions {
        program: PROGRAM,
        database_url: postgres.new_database().await,
        home: Arc::new(TestHome::new()),
        shared,
        settings,
    })
    .await
}

/// What can be seen of an instance that does not differ from run to run.
async fn seen(server: &ServerProcess, id: InstanceId) -> Value {
    let mut instance = server.get(&format!("/api/instances/{id}")).await;
    let operations = server.get("/api/operations").await;
    let told: Vec<Value> = operations
        .as_array()
        .unwrap()
        .iter()
        .filter(|operation| operation["instance_id"] == id.to_string())
        .map(|operation| {
            let steps = operation["steps"].as_array().unwrap().iter();
            let steps: Vec<_> = steps
                .map(|step| (step["name"].clone(), step["state"].clone()))
                .collect();
            serde_json::json!([operation["kind"], operation["state"], operation["error"], steps])
        })
        .collect();
    let events = server.get(&format!("/api/instances/{id}/events")).await;
    let events: Vec<&Value> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["kind"])
        .collect();
    serde_json::json!({
        "state": instance["state"].take(),
        "health": instance["health_status"].take(),
        "operations": told,
        "events": events,
        "objects": objects(server),
    })
}

/// The directories of instances in the server's home, and what they hold.
fn objects(server: &ServerProcess) -> Vec<String> {
    let mut found = Vec::new();
    for place in ["instances", "trash"] {
        for entry in std::fs::read_dir(server.home().join(place))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = name
                .rsplit_once('-')
                .map_or(name.as_str(), |(name, _)| name)
                .to_owned();
            let mut inside: Vec<String> = std::fs::read_dir(entry.path())
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            inside.sort();
            found.push(format!("{place}/{kind}: {}", inside.join(" ")));
        }
    }
    found.sort();
    found
}
