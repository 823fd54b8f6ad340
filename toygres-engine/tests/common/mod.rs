//! What the engine's tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

pub(crate) mod faulty;
pub(crate) mod recorded;
pub(crate) mod work;

use duroxide::providers::Provider;
use duroxide_pg::{PostgresProvider, ProviderConfig};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use toygres_engine::store::Guards;
use toygres_engine::{Engine, EngineConfig, Failure, Running};
use toygres_models::Secret;
use toygres_testing::TestDatabase;

/// The schema of every test.
pub(crate) const SCHEMA: &str = "duroxide";

/// A pool for the engine's own SQL, and for looking.
pub(crate) fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(url)
        .unwrap()
}

/// The URL as configuration takes it.
pub(crate) fn secret(url: &str) -> Secret {
    Secret::new(url.to_owned())
}

/// duroxide's own store, without guards.
pub(crate) async fn bare_provider(url: &str) -> Arc<dyn Provider> {
    let mut config = ProviderConfig::url(url);
    config.schema_name = Some(SCHEMA.to_owned());
    Arc::new(PostgresProvider::new_with_config(config).await.unwrap())
}

/// The URL of a new database with duroxide's tables: a copy, since making them takes a while.
pub(crate) async fn fresh_database() -> String {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let template = TEMPLATE
        .get_or_init(|| async {
            let url = TestDatabase::new().await.url;
            let mut config = ProviderConfig::url(&url);
            config.schema_name = Some(SCHEMA.to_owned());
            PostgresProvider::new_with_config(config)
                .await
                .unwrap()
                .pool()
                .close()
                .await;
            url
        })
        .await;
    let name = format!("copy_{}", uuid::Uuid::new_v4().simple());
    let original = database_of(template);
    let mut connection = PgConnection::connect(&template.replace(original, "postgres"))
        .await
        .unwrap();
    let create = format!("create database {name} template {original}");
    sqlx::query(&create).execute(&mut connection).await.unwrap();
    template.replace(original, &name)
}

fn database_of(url: &str) -> &str {
    let path = url.rsplit('/').next().unwrap();
    path.split('?').next().unwrap()
}

/// Where the sources of a dependency are.
pub(crate) fn source_of(package: &str) -> PathBuf {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline"])
        // Those of other systems need not be there.
        .arg(format!(
            "--filter-platform={}-unknown-linux-gnu",
            std::env::consts::ARCH
        ))
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|found| found["name"] == package).unwrap();
    PathBuf::from(found["manifest_path"].as_str().unwrap())
        .parent()
        .unwrap()
        .to_owned()
}

/// An engine at work on a database of its own.
pub(crate) struct Bench {
    pub(crate) url: String,
    pub(crate) store: Arc<faulty::Faulty>,
    pub(crate) world: Arc<work::World>,
    pub(crate) engine: Engine,
    pub(crate) running: Running,
}

/// A configuration for tests: slots look for work on their own account only once a minute.
pub(crate) fn config(url: &str, guards: Guards) -> EngineConfig {
    EngineConfig {
        fallback_poll: Duration::from_secs(60),
        guards,
        ..EngineConfig::new(secret(url))
    }
}

impl Bench {
    pub(crate) async fn new(guards: Guards) -> Self {
        Self::with(guards, |_| ()).await
    }

    pub(crate) async fn with(guards: Guards, change: impl FnOnce(&mut EngineConfig)) -> Self {
        let url = fresh_database().await;
        let store = faulty::Faulty::new(bare_provider(&url).await);
        let mut config = config(&url, guards);
        change(&mut config);
        let world = work::World::new(config.worker_concurrency);
        let engine = Engine::with_provider(config, pool(&url), Arc::clone(&store) as Arc<dyn Provider>);
        let running = engine
            .start(work::activities(&world), work::orchestrations())
            .await;
        Self {
            url,
            store,
            world,
            engine,
            running,
        }
    }

    /// Starts a plan.
    pub(crate) async fn start(&self, id: &str, plan: work::Plan) {
        self.engine
            .client()
            .start::<work::Planned>(id, plan)
            .await
            .unwrap();
    }

    /// Waits for the end.
    pub(crate) async fn end(&self, id: &str) -> Result<String, Failure> {
        self.engine
            .client()
            .wait::<work::Planned>(id, Duration::from_secs(40))
            .await
            .unwrap()
    }

    /// Runs a plan to its end.
    pub(crate) async fn run(&self, id: &str, plan: work::Plan) -> Result<String, Failure> {
        self.start(id, plan).await;
        self.end(id).await
    }

    /// Runs a plan whose output is a failure.
    pub(crate) async fn failure(&self, id: &str, plan: work::Plan) -> Failure {
        serde_json::from_str(&self.run(id, plan).await.unwrap()).unwrap()
    }

    /// Counts rows of duroxide's.
    pub(crate) async fn count(&self, from: &str) -> i64 {
        let query = format!("select count(*) from {SCHEMA}.{from}");
        sqlx::query_scalar(&query)
            .fetch_one(&pool(&self.url))
            .await
            .unwrap()
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown(Duration::from_secs(5)).await;
    }
}
