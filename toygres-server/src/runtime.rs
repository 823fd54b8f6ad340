//! Where everything is put together, started and stopped.

use crate::config::{Mode, PlatformKind, ServerConfig};
use crate::embedded::EmbeddedDatabase;
use crate::http;
use crate::lock::HomeLock;
use crate::service::{Access, Changes, Service};
use crate::sweeper::Sweeper;
use crate::transport::{self, Tls, TransportLimits};
use rustix::process::{Resource, getrlimit, setrlimit};
use sqlx::Connection as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use toygres_activities::{Deps, Settings};
use toygres_cms::{Cms, MasterKey};
use toygres_engine::{Engine, EngineConfig, Interceptor};
use toygres_models::{Error, ErrorKind, Result, Secret};
use toygres_platform::Platform;
use toygres_platform::kubernetes::{Duty, KubernetesConfig, KubernetesPlatform};
use toygres_platform::local::{LocalConfig, LocalPlatform};
use uuid::Uuid;

/// Connections for everything but the engine's store, which has a pool of its own.
const POOL_SIZE: u32 = 12;
/// A request waits so long for the database, then says that it is away.
const POOL_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that was idle for longer may be lost.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// What an actor may stand still beyond the longest wait it is allowed.
const STALLED_MARGIN: Duration = Duration::from_secs(300);

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// `Conflict` `already_running` if another server runs on this home, `Config` `port_in_use` if its port is taken,
/// and whatever keeps it from starting. Once it runs, it ends without an error.
pub async fn serve(config: ServerConfig) -> Result<()> {
    let _lock = HomeLock::take(&config.paths)?;
    allow_open_files();
    let listener = bind(config.listen).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_at_signal(stop.clone()));
    let result = run(config, listener, stop).await;
    signals.abort();
    result
}

/// Each connection is an open file, and what a shell allows by default is few. The system says how many may be allowed.
fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(cause) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("no more files may be open than before: {cause}");
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|cause| match cause.kind() {
            std::io::ErrorKind::AddrInUse => Error::new(
                ErrorKind::Config,
                "port_in_use",
                format!("another program listens on {address}"),
            )
            .hint("choose another port with --port, or stop that program"),
            _ => Error::new(
                ErrorKind::Config,
                "bind_failed",
                format!("can't listen on {address}: {}", cause.kind()),
            )
            .source(cause),
        })
}

async fn stop_at_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    stop.cancel();
}

/// Runs the server on `listener` until `stop` is cancelled: then it says that it is not ready and serves on for the
/// shutdown delay, takes no more work, lets go on what has begun for the grace time, and releases everything. Local instances go on without it.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(config: ServerConfig, listener: TcpListener, stop: CancellationToken) -> Result<()> {
    run_with(config, listener, stop, Parts::default()).await
}

/// What tests and benchmarks hand in.
#[derive(Default)]
pub struct Parts {
    /// The platform, in place of the configured one.
    pub platform: Option<Arc<dyn Platform>>,
    /// What stands before every activity.
    pub interceptor: Option<Arc<dyn Interceptor>>,
}

/// As [`run`], with parts that are handed in: for tests and benchmarks.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: ServerConfig,
    listener: TcpListener,
    stop: CancellationToken,
    parts: Parts,
) -> Result<()> {
    let files = config.tls.as_ref();
    let tls = files
        .map(|files| Tls::load(&files.certificate, &files.key))
        .transpose()?;
    let embedded = match &config.database_url {
        Some(_) => None,
        None => Some(EmbeddedDatabase::start(&config).await?),
    };
    let database_url = match (&config.database_url, &embedded) {
        (Some(url), _) => url.clone(),
        (None, Some(embedded)) => embedded.url(),
        (None, None) => return Err(Error::internal("no control database")),
    };
    let result = run_on(&config, &database_url, listener, tls, stop, parts).await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    result
}

async fn run_on(
    config: &ServerConfig,
    database_url: &Secret,
    listener: TcpListener,
    tls: Option<Tls>,
    stop: CancellationToken,
    parts: Parts,
) -> Result<()> {
    let started = Instant::now();
    // After the delay: from then on nothing more is taken.
    let end = CancellationToken::new();
    let address = listener
        .local_addr()
        .map_err(|cause| Error::internal("the listener has no address").source(cause))?;
    let pool = connect(database_url).await?;
    toygres_cms::migrate(&pool).await?;
    let cms = Cms::new(pool.clone(), master_key(config)?);
    cms.check_master_key().await?;
    let platform = match parts.platform {
        Some(platform) => platform,
        None => open_platform(config).await?,
    };
    let mut engine_config = EngineConfig::new(database_url.clone());
    engine_config.current_traceparent = http::current_traceparent;
    let engine = Engine::connect(engine_config, pool.clone()).await?;

    let default_version = match config
        .postgres_version
        .or_else(|| platform.versions().first().copied())
    {
        Some(version) => version,
        None => return Err(Error::internal("a platform without any version was let through")),
    };
    let service = Arc::new(Service {
        cms: cms.clone(),
        engine: engine.client(),
        platform,
        default_version,
        mode: config.mode,
        access: Access::new(
            address.ip().is_loopback(),
            config.bootstrap_token_file.clone(),
            config.paths.bootstrap_token_hash.clone(),
        ),
        changes: Changes::new(config.max_streams, end.clone()),
        default_quota: config.default_quota,
        process_id: Uuid::new_v4(),
        started,
        stopping: stop.clone(),
        settings: config.effective.clone(),
        server_log: config.paths.server_log.clone(),
        pool: pool.clone(),
    });
    service.check_reachable().await?;

    // Before the first work is taken.
    service.compare_clocks().await;
    let settings = Settings {
        health_check_interval: config.health_check_interval,
        health_check_timeout: config.health_check_timeout,
        create_deadline: config.create_deadline,
        ..Settings::default()
    };
    let workers = match config.mode {
        Mode::Api => None,
        Mode::Worker | Mode::All => {
            let deps = Arc::new(Deps::new(cms.clone(), service.platform.clone(), settings));
            let mut activities = toygres_activities::registry(deps);
            let mut orchestrations = toygres_orchestrations::registry();
            if let Some(interceptor) = parts.interceptor {
                activities = activities.intercepted_by(Arc::clone(&interceptor));
                orchestrations = orchestrations.intercepted_by(interceptor);
            }
            Some(engine.start(activities, orchestrations).await)
        }
    };
    let sweeper = workers.is_some().then(|| {
        // An actor that watches gets something done with each check.
        let stalled_after = config.create_deadline.max(config.health_check_interval) + STALLED_MARGIN;
        tokio::spawn(Sweeper::new(service.clone(), stalled_after, config.pruning).run(end.clone()))
    });

    // Before anybody can listen, so that no event is between what a listener reads and what it is told.
    let last_event = cms.latest_event_id().await?;
    let followed = service.clone();
    let changes = tokio::spawn(async move { followed.changes.run(cms, last_event).await });
    let alive = service.clone();
    let alive = tokio::spawn(async move { alive.say_alive().await });
    let watched = service.clone();
    let clock = tokio::spawn(async move { watched.watch_clock().await });

    tracing::info!(%address, "toygres {} serves", env!("CARGO_PKG_VERSION"));
    let router = http::router(service, config);
    let limits = TransportLimits {
        connections: config.max_connections,
        ..TransportLimits::default()
    };
    let delay = async {
        stop.cancelled().await;
        tokio::time::sleep(config.shutdown_delay).await;
        end.cancel();
    };
    tokio::join!(
        delay,
        transport::serve(listener, router, tls, limits, end.clone(), config.shutdown_grace),
    );

    for task in [changes, alive, clock].into_iter().chain(sweeper) {
        task.await.ok();
    }
    if let Some(workers) = workers {
        workers.shutdown(config.shutdown_grace).await;
    }
    pool.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The one pool of the process. It connects when it is first used, so a database that is still starting is waited
/// for here.
async fn connect(database_url: &Secret) -> Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(POOL_SIZE)
        .acquire_timeout(POOL_TIMEOUT)
        // A connection that was just used is there: to ask it each time would double the way of every query.
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                if metadata.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy(database_url.reveal())
        .map_err(|cause| {
            Error::new(
                ErrorKind::Config,
                "bad_database_url",
                "DATABASE_URL is not a PostgreSQL URL",
            )
            .hint("it looks like postgres://user:password@host:5432/database")
            .context(
                cause
                    .to_string()
                    .replace(database_url.reveal().as_str(), "[redacted]"),
            )
        })?;
    let first = async {
        loop {
            match sqlx::query("select 1").execute(&pool).await {
                Ok(_) => return Ok(()),
                Err(sqlx::Error::Database(cause))
                    if !matches!(cause.code().as_deref(), Some("57P03" | "53300")) =>
                {
                    return Err(unreachable_database().source(sqlx::Error::Database(cause)));
                }
                Err(cause) => {
                    tracing::warn!("the control database does not answer yet");
                    tracing::debug!("{cause}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(30), first).await {
        Ok(result) => result.map(|()| pool),
        Err(_) => Err(unreachable_database()),
    }
}

fn unreachable_database() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "database_unavailable",
        "the control database does not let the server in",
    )
    .hint("check DATABASE_URL, and that this database runs and may be connected to from here")
}

fn master_key(config: &ServerConfig) -> Result<MasterKey> {
    match &config.master_key {
        Some(key) => MasterKey::from_base64(key),
        None => MasterKey::load_or_create(&config.paths.master_key),
    }
}

async fn open_platform(config: &ServerConfig) -> Result<Arc<dyn Platform>> {
    match &config.platform {
        PlatformKind::Kubernetes(kubernetes) => {
            let duty = match config.mode {
                Mode::All => Duty::All,
                Mode::Api => Duty::Api,
                Mode::Worker => Duty::Worker,
            };
            let kubernetes = KubernetesConfig {
                duty,
                ..kubernetes.as_ref().clone()
            };
            Ok(Arc::new(KubernetesPlatform::open(kubernetes).await?))
        }
        PlatformKind::Local => Ok(Arc::new(LocalPlatform::open(local_config(config)).await?)),
    }
}

fn local_config(config: &ServerConfig) -> LocalConfig {
    LocalConfig::new(config.paths.postgres_home.clone())
        .ports(config.local_ports.clone())
        .search_path(&config.search_path)
        .host(host_name())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
