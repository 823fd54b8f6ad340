//! The embedded control database: a PostgreSQL of toygres's own, for those who configured none.
//!
//! It serves one process and stops with it. If it dies meanwhile, it is started again.

use crate::config::ServerConfig;
use rand::distr::{Alphanumeric, SampleString};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use toygres_models::{Error, ErrorKind, Result, Secret};
use toygres_platform::local::{Cluster, Programs, RunAs, ServerState, StartOptions};

const PASSWORD_LENGTH: usize = 32;
/// How long it may take to start; recovery after a crash included.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to end its connections and write everything to disk.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Between two tries to start it again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The running database.
pub(crate) struct EmbeddedDatabase {
    cluster: Cluster,
    url: Secret,
    keeper: JoinHandle<()>,
    stop: CancellationToken,
}

impl EmbeddedDatabase {
    /// Makes it at the first start, starts it, or takes over one that a crashed server left running.
    pub(crate) async fn start(config: &ServerConfig) -> Result<Self> {
        let programs = Programs::find(&config.paths.postgres_home, &config.search_path);
        let directory = config.paths.postgres_home.join("control");
        // The data decides which programs can read it; new data is made by the newest.
        let version = match version_of(&directory) {
            Some(version) => version,
            None => programs.newest()?,
        };
        let cluster = Cluster::new(
            directory.clone(),
            programs.directory(version)?.to_owned(),
            RunAs::find()?,
        );
        if cluster.exists() && !config.paths.control_password.exists() {
            let (data, file) = (directory.display(), config.paths.control_password.display());
            let message =
                format!("the control database in {data} is there, but its password in {file} is not");
            return Err(Error::new(ErrorKind::Config, "control_password_missing", message)
                .hint("bring the file back from a backup, or set TOYGRES_HOME to begin anew elsewhere"));
        }
        let password = password(&config.paths.control_password)?;
        if !cluster.exists() {
            tracing::info!(directory = %directory.display(), "making the embedded control database");
        }
        cluster.create(&password).await?;
        let port = match cluster.running_port() {
            Some(port) => port,
            None => free_port()?,
        };
        let options = StartOptions {
            port,
            settings: settings(),
        };
        start(&cluster, &options).await?;
        let url = Secret::new(format!(
            "postgres://postgres:{}@127.0.0.1:{port}/postgres",
            password.reveal()
        ));
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(cluster.clone(), options, stop.clone()));
        Ok(Self {
            cluster,
            url,
            keeper,
            stop,
        })
    }

    pub(crate) fn url(&self) -> Secret {
        self.url.clone()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.keeper.await.ok();
        if !self.cluster.stop(STOP_LIMIT).await {
            tracing::warn!(
                "the embedded control database did not stop in time and is ended; it recovers at the next start"
            );
            self.cluster.stop_immediately().await;
        }
    }
}

/// Small, and tuned for many short updates of the same rows, which is what queues are.
fn settings() -> Vec<String> {
    [
        "max_connections=60",
        "shared_buffers=64MB",
        "autovacuum_naptime=15s",
        "checkpoint_timeout=15min",
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn start(cluster: &Cluster, options: &StartOptions) -> Result<()> {
    cluster.start(options).await?;
    match cluster.wait_ready(START_LIMIT).await {
        ServerState::Ready => Ok(()),
        ServerState::Starting | ServerState::Stopped => {
            let last_words = cluster.last_words(3).join(" | ");
            Err(Error::new(
                ErrorKind::Unavailable,
                "control_database",
                format!("the embedded control database did not start; its last words: {last_words}"),
            )
            .hint(format!("read {}", cluster.log().display())))
        }
    }
}

/// Starts the database again whenever its process has ended.
async fn keep(cluster: Cluster, options: StartOptions, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = cluster.wait_stopped() => {}
        }
        tracing::error!("the embedded control database has ended; starting it again");
        if let Err(error) = start(&cluster, &options).await {
            tracing::error!(code = error.code(), detail = error.detail(), "{error}");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
        }
    }
}

fn version_of(directory: &Path) -> Option<toygres_models::PostgresVersion> {
    std::fs::read_to_string(directory.join("data/PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn free_port() -> Result<u16> {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port());
    port.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "no_port", "no loopback port is free").source(cause)
    })
}

/// The database's password: made at the first start, kept where only this user can read it.
fn password(file: &Path) -> Result<Secret> {
    let failed = |cause: std::io::Error| {
        Error::new(
            ErrorKind::Config,
            "home_unusable",
            format!("{} can't be used: {}", file.display(), cause.kind()),
        )
        .source(cause)
    };
    match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(failed(cause)),
    }
    let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH);
    let new = file.with_extension("password.new");
    let write = || -> std::io::Result<()> {
        let mut open = std::fs::OpenOptions::new();
        let mut opened = open
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        opened.write_all(password.as_bytes())?;
        opened.sync_all()?;
        std::fs::rename(&new, file)
    };
    write().map_err(failed)?;
    Ok(Secret::new(password))
}
