//! What every platform must do, tested through the port alone, with real clients.
//!
//! A platform's tests implement [`Hooks`] and call [`platform_conformance!`](crate::platform_conformance), which makes
//! a test of each case here.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests panic")]

use crate::{InstanceRef, InstanceSpec, LogOptions, Observation, Platform, Storage};
use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use toygres_models::instances::{DATABASE_NAME, Endpoint, ROLE_NAME};
use toygres_models::operations::Reason;
use toygres_models::{ErrorKind, InstanceId, Secret};

/// The password of every instance that the cases make.
pub const PASSWORD: &str = "conformance-canary-7f3a";

/// What the cases need besides the port: to do things behind its back.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// The platform under test.
    fn platform(&self) -> &dyn Platform;

    /// Another object of the same platform, that knows only what is written down: as after a restart.
    async fn reopened(&self) -> Box<dyn Platform>;

    /// Ends the instance's server as a crash would; returns when it is gone.
    async fn kill_server(&self, instance: &InstanceRef);

    /// Ends the instance's server and destroys its storage.
    async fn destroy_storage(&self, instance: &InstanceRef);

    /// Everything of any instance that is still there, as the machine or the cluster sees it.
    async fn left_over(&self) -> Vec<String>;

    /// Where a test reaches this endpoint.
    fn address(&self, endpoint: &Endpoint) -> (String, u16) {
        (endpoint.host.clone(), endpoint.port)
    }

    /// How long an instance may take to become ready, on a busy machine.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

/// Makes a test of each case. The expression makes the [`Hooks`] of one test, with a platform of its own.
#[macro_export]
macro_rules! platform_conformance {
    ($hooks:expr) => {
        $crate::platform_conformance!(@ $hooks;
            an_instance_takes_connections_with_its_password_only
            ensure_is_idempotent
            each_instance_has_its_own_system_identifier
            what_is_not_there_is_absent
            remove_leaves_nothing_and_can_be_repeated
            remove_during_start_leaves_nothing
            an_instance_can_be_made_again_after_its_removal
            a_killed_server_is_seen_and_ensured_again_with_its_data
            another_platform_object_sees_what_is_there
            an_unfinished_instance_is_finished_by_another_platform_object
            missing_storage_is_an_alarm_and_makes_nothing
            foreign_storage_is_an_alarm_and_changes_nothing
            the_list_shows_what_is_there
            logs_show_what_the_server_says
            ten_instances_are_made_at_once
            a_wait_keeps_its_budget_and_says_why
            an_unknown_version_is_refused
        );
    };
    (@ $hooks:expr; $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let hooks = $hooks.await;
                $crate::conformance::$case(&hooks).await;
                for listed in $crate::conformance::Hooks::platform(&hooks).list().await.unwrap() {
                    $crate::conformance::remove(&hooks, &listed.instance).await;
                }
                assert_eq!($crate::conformance::Hooks::left_over(&hooks).await, Vec::<String>::new());
            }
        )+
    };
}

/// A new instance to ask for.
#[must_use]
pub fn new_spec(hooks: &dyn Hooks, name: &str) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::generate(),
        name: name.parse().unwrap(),
        postgres_version: hooks.platform().versions()[0],
        password: Secret::new(PASSWORD.to_owned()),
        storage_size_gb: 1,
        cpu: None,
        memory_mb: None,
        internal: true,
        namespace: None,
    }
}

/// Waits until it is ready, and gives where it is and its system identifier.
pub async fn ready_on(
    hooks: &dyn Hooks,
    platform: &dyn Platform,
    instance: &InstanceRef,
) -> (Endpoint, Option<u64>) {
    match platform.wait_ready(instance, hooks.patience()).await.unwrap() {
        Observation::Ready(serving) => (serving.endpoint, serving.system_identifier),
        other => panic!("{} is not ready: {other:?}", instance.object_name()),
    }
}

/// Makes an instance and waits until it is ready.
pub async fn made(hooks: &dyn Hooks, spec: &InstanceSpec) -> (Endpoint, Option<u64>) {
    hooks.platform().ensure(spec, Storage::Create).await.unwrap();
    ready_on(hooks, hooks.platform(), &spec.reference()).await
}

/// Removes an instance, as often as it takes: on a busy machine one call may not see the end of it.
pub async fn remove(hooks: &dyn Hooks, instance: &InstanceRef) {
    remove_on(hooks, hooks.platform(), instance).await;
}

async fn remove_on(hooks: &dyn Hooks, platform: &dyn Platform, instance: &InstanceRef) {
    let begin = Instant::now();
    while let Err(error) = platform.remove(instance).await {
        let in_time = begin.elapsed() < hooks.patience();
        assert!(error.retryable() && in_time, "{error:?}");
    }
}

/// Connects as a tenant does.
///
/// # Errors
/// As the client's.
pub async fn connect(
    hooks: &dyn Hooks,
    endpoint: &Endpoint,
    password: &str,
) -> Result<PgConnection, sqlx::Error> {
    let (host, port) = hooks.address(endpoint);
    let options = PgConnectOptions::new_without_pgpass()
        .host(&host)
        .port(port)
        .username(ROLE_NAME)
        .password(password)
        .database(DATABASE_NAME)
        .ssl_mode(PgSslMode::Prefer);
    // Packets to an address that nobody has any more may get no answer at all.
    let connected = tokio::time::timeout(Duration::from_secs(20), options.connect()).await;
    connected.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

async fn run(hooks: &dyn Hooks, endpoint: &Endpoint, statements: &[&str]) {
    let mut connection = connect(hooks, endpoint, PASSWORD).await.unwrap();
    for statement in statements {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

async fn number(hooks: &dyn Hooks, endpoint: &Endpoint, query: &str) -> i64 {
    let mut connection = connect(hooks, endpoint, PASSWORD).await.unwrap();
    let number = sqlx::query_scalar(query)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    number
}

const WRITE_A_ROW: &[&str] = &["create table kept (n bigint)", "insert into kept values (42)"];
const READ_THE_ROW: &str = "select n from kept";

/// A case.
pub async fn an_instance_takes_connections_with_its_password_only(hooks: &dyn Hooks) {
    let (endpoint, _) = made(hooks, &new_spec(hooks, "password")).await;
    assert_eq!(number(hooks, &endpoint, "select 6 * 7::bigint").await, 42);
    let stored_by_scram =
        "select count(*) from pg_authid where rolname = 'postgres' and rolpassword like 'SCRAM-SHA-256$%'";
    assert_eq!(number(hooks, &endpoint, stored_by_scram).await, 1);
    for wrong in ["wrong-password", ""] {
        let refused = connect(hooks, &endpoint, wrong).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|e| e.code().map(String::from));
        let is_refusal = matches!(code.as_deref(), Some("28P01" | "28000"));
        assert!(is_refusal || wrong.is_empty(), "{refused}");
    }
}

/// A case.
pub async fn ensure_is_idempotent(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "twice");
    let platform = hooks.platform();
    for result in [
        platform.ensure(&spec, Storage::Create).await,
        platform.ensure(&spec, Storage::Create).await,
    ] {
        result.unwrap();
    }
    let first = ready_on(hooks, platform, &spec.reference()).await;
    run(hooks, &first.0, WRITE_A_ROW).await;
    let system_identifier = first.1;
    for storage in [Storage::Create, Storage::MustExist { system_identifier }] {
        platform.ensure(&spec, storage).await.unwrap();
        let again = ready_on(hooks, platform, &spec.reference()).await;
        assert_eq!(again, first);
    }
    assert_eq!(number(hooks, &first.0, READ_THE_ROW).await, 42);
    assert_eq!(platform.list().await.unwrap().len(), 1);
}

/// A case.
pub async fn each_instance_has_its_own_system_identifier(hooks: &dyn Hooks) {
    let (one, two) = (new_spec(hooks, "same-name"), new_spec(hooks, "same-name"));
    let (one, two) = (made(hooks, &one).await, made(hooks, &two).await);
    assert_ne!(one.0, two.0);
    let query = "select system_identifier from pg_control_system()";
    for (endpoint, system_identifier) in [&one, &two] {
        let real = u64::try_from(number(hooks, endpoint, query).await).unwrap();
        if let Some(system_identifier) = system_identifier {
            assert_eq!(*system_identifier, real);
        }
    }
    assert_ne!(
        number(hooks, &one.0, query).await,
        number(hooks, &two.0, query).await
    );
}

/// A case.
pub async fn what_is_not_there_is_absent(hooks: &dyn Hooks) {
    let instance = new_spec(hooks, "absent").reference();
    let begin = Instant::now();
    let platform = hooks.platform();
    assert_eq!(platform.observe(&instance).await.unwrap(), Observation::Absent);
    let waited = platform.wait_ready(&instance, hooks.patience()).await.unwrap();
    assert_eq!(waited, Observation::Absent);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "it waited for what can't come"
    );
    let lines = platform.logs(&instance, LogOptions { tail: 10 }).await.unwrap();
    assert_eq!(lines, Vec::<String>::new());
}

/// A case.
pub async fn remove_leaves_nothing_and_can_be_repeated(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "removed");
    let instance = spec.reference();
    remove(hooks, &instance).await;
    let (endpoint, _) = made(hooks, &spec).await;
    // An open connection does not hold it up.
    let _connection = connect(hooks, &endpoint, PASSWORD).await.unwrap();
    for _ in 0..2 {
        remove(hooks, &instance).await;
        assert_eq!(hooks.left_over().await, Vec::<String>::new());
        let seen = hooks.platform().observe(&instance).await.unwrap();
        assert_eq!(seen, Observation::Absent);
    }
    assert!(connect(hooks, &endpoint, PASSWORD).await.is_err());
}

/// A case.
pub async fn remove_during_start_leaves_nothing(hooks: &dyn Hooks) {
    // At different moments of the start, among them at once.
    for wait in [0, 20, 100, 300, 600, 800] {
        let spec = new_spec(hooks, "hasty");
        let instance = spec.reference();
        hooks.platform().ensure(&spec, Storage::Create).await.unwrap();
        hooks
            .platform()
            .wait_ready(&instance, Duration::from_millis(wait))
            .await
            .unwrap();
        remove(hooks, &instance).await;
        assert_eq!(hooks.left_over().await, Vec::<String>::new(), "after {wait} ms");
        let seen = hooks.platform().observe(&instance).await.unwrap();
        assert_eq!(seen, Observation::Absent);
    }
}

/// A case.
pub async fn an_instance_can_be_made_again_after_its_removal(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "again");
    let (endpoint, _) = made(hooks, &spec).await;
    run(hooks, &endpoint, WRITE_A_ROW).await;
    remove(hooks, &spec.reference()).await;
    let (endpoint, _) = made(hooks, &spec).await;
    let tables = "select count(*) from pg_class where relname = 'kept'";
    assert_eq!(number(hooks, &endpoint, tables).await, 0, "old data came back");
}

/// A case.
pub async fn a_killed_server_is_seen_and_ensured_again_with_its_data(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "killed");
    let instance = spec.reference();
    let (endpoint, system_identifier) = made(hooks, &spec).await;
    run(hooks, &endpoint, WRITE_A_ROW).await;
    hooks.kill_server(&instance).await;
    hooks
        .platform()
        .ensure(&spec, Storage::MustExist { system_identifier })
        .await
        .unwrap();
    let (again, same) = ready_on(hooks, hooks.platform(), &instance).await;
    assert_eq!(
        (&again, same),
        (&endpoint, system_identifier),
        "clients have this address"
    );
    assert_eq!(number(hooks, &again, READ_THE_ROW).await, 42);
}

/// A case.
pub async fn another_platform_object_sees_what_is_there(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "restart");
    let instance = spec.reference();
    let first = made(hooks, &spec).await;
    run(hooks, &first.0, WRITE_A_ROW).await;
    let reopened = hooks.reopened().await;
    assert_eq!(ready_on(hooks, &*reopened, &instance).await, first);
    let system_identifier = first.1;
    reopened
        .ensure(&spec, Storage::MustExist { system_identifier })
        .await
        .unwrap();
    assert_eq!(ready_on(hooks, &*reopened, &instance).await, first);
    assert_eq!(number(hooks, &first.0, READ_THE_ROW).await, 42);
    hooks.kill_server(&instance).await;
    let reopened = hooks.reopened().await;
    reopened
        .ensure(&spec, Storage::MustExist { system_identifier })
        .await
        .unwrap();
    assert_eq!(ready_on(hooks, &*reopened, &instance).await, first);
    remove_on(hooks, &*reopened, &instance).await;
    let seen = hooks.platform().observe(&instance).await.unwrap();
    assert_eq!(seen, Observation::Absent);
}

/// A case.
pub async fn an_unfinished_instance_is_finished_by_another_platform_object(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "taken-over");
    hooks.platform().ensure(&spec, Storage::Create).await.unwrap();
    let reopened = hooks.reopened().await;
    reopened.ensure(&spec, Storage::Create).await.unwrap();
    let (endpoint, _) = ready_on(hooks, &*reopened, &spec.reference()).await;
    assert_eq!(number(hooks, &endpoint, "select 1::bigint").await, 1);
    let seen = ready_on(hooks, hooks.platform(), &spec.reference()).await;
    assert_eq!(seen.0, endpoint);
}

async fn expect_storage_lost(
    hooks: &dyn Hooks,
    spec: &InstanceSpec,
    system_identifier: Option<u64>,
    code: Reason,
) {
    let must_exist = Storage::MustExist { system_identifier };
    let error = hooks.platform().ensure(spec, must_exist).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::StorageLost, code.as_str()),
        "{error:?}"
    );
}

/// A case.
pub async fn missing_storage_is_an_alarm_and_makes_nothing(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "never-made");
    expect_storage_lost(hooks, &spec, None, Reason::StorageMissing).await;
    assert_eq!(hooks.left_over().await, Vec::<String>::new());

    let spec = new_spec(hooks, "lost");
    let (_, system_identifier) = made(hooks, &spec).await;
    hooks.destroy_storage(&spec.reference()).await;
    let before = hooks.left_over().await;
    // Twice: the first must not have made what the second then finds.
    for expected in [system_identifier, None] {
        expect_storage_lost(hooks, &spec, expected, Reason::StorageMissing).await;
    }
    assert_eq!(hooks.left_over().await, before);
}

/// A case.
pub async fn foreign_storage_is_an_alarm_and_changes_nothing(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "foreign");
    let (endpoint, system_identifier) = made(hooks, &spec).await;
    run(hooks, &endpoint, WRITE_A_ROW).await;
    if system_identifier.is_some() {
        expect_storage_lost(hooks, &spec, Some(1), Reason::StorageForeign).await;
        hooks.kill_server(&spec.reference()).await;
        expect_storage_lost(hooks, &spec, Some(1), Reason::StorageForeign).await;
        let must_exist = Storage::MustExist { system_identifier };
        hooks.platform().ensure(&spec, must_exist).await.unwrap();
        let (endpoint, _) = ready_on(hooks, hooks.platform(), &spec.reference()).await;
        assert_eq!(number(hooks, &endpoint, READ_THE_ROW).await, 42);
    }
}

/// A case.
pub async fn the_list_shows_what_is_there(hooks: &dyn Hooks) {
    assert_eq!(hooks.platform().list().await.unwrap(), []);
    let spec = new_spec(hooks, "listed");
    made(hooks, &spec).await;
    for platform in [hooks.platform(), &*hooks.reopened().await] {
        let listed = platform.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].instance, spec.reference());
        assert!(listed[0].running);
        assert_eq!(platform.unknown().await.unwrap(), []);
    }
}

/// A case.
pub async fn logs_show_what_the_server_says(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "logs");
    let (endpoint, _) = made(hooks, &spec).await;
    run(
        hooks,
        &endpoint,
        &["do $$ begin raise log 'log-canary-51'; end $$"],
    )
    .await;
    let instance = spec.reference();
    let logs = |tail| hooks.platform().logs(&instance, LogOptions { tail });
    let lines = logs(100).await.unwrap();
    assert!(
        lines.iter().any(|line| line.contains("log-canary-51")),
        "{lines:?}"
    );
    assert!(
        lines.iter().all(|line| !line.contains(PASSWORD)),
        "a password was logged"
    );
    assert_eq!(logs(1).await.unwrap().len(), 1);
}

/// A case.
pub async fn ten_instances_are_made_at_once(hooks: &dyn Hooks) {
    let specs: Vec<_> = (0..10).map(|n| new_spec(hooks, &format!("many-{n}"))).collect();
    for spec in &specs {
        hooks.platform().ensure(spec, Storage::Create).await.unwrap();
    }
    let mut endpoints = HashSet::new();
    for spec in &specs {
        let (endpoint, _) = ready_on(hooks, hooks.platform(), &spec.reference()).await;
        assert_eq!(number(hooks, &endpoint, "select 1::bigint").await, 1);
        endpoints.insert((endpoint.host, endpoint.port));
    }
    assert_eq!(endpoints.len(), specs.len());
    assert_eq!(hooks.platform().list().await.unwrap().len(), specs.len());
}

/// A case.
pub async fn a_wait_keeps_its_budget_and_says_why(hooks: &dyn Hooks) {
    let spec = new_spec(hooks, "budget");
    hooks.platform().ensure(&spec, Storage::Create).await.unwrap();
    for budget in [Duration::ZERO, Duration::from_millis(1)] {
        let begin = Instant::now();
        let seen = hooks
            .platform()
            .wait_ready(&spec.reference(), budget)
            .await
            .unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
        match seen {
            Observation::NotReady { reason, message } => {
                assert!(!message.is_empty(), "{reason}");
                assert_ne!(reason, Reason::Stopped, "it is being made");
            }
            other => panic!("nothing is ready so soon: {other:?}"),
        }
    }
    ready_on(hooks, hooks.platform(), &spec.reference()).await;
}

/// A case.
pub async fn an_unknown_version_is_refused(hooks: &dyn Hooks) {
    let mut spec = new_spec(hooks, "version");
    spec.postgres_version = "99".parse().unwrap();
    let error = hooks.platform().ensure(&spec, Storage::Create).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Config, Reason::VersionUnavailable.as_str())
    );
    let there = hooks.platform().versions()[0].to_string();
    assert!(error.message().contains(&there), "it says what there is: {error}");
    assert_eq!(hooks.left_over().await, Vec::<String>::new());
}
