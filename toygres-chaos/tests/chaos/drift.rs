//! What is there and what the rows say drift apart: it is found, shown, and put right where that loses nothing.

use crate::{PATIENCE, quick_server, real_server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use toygres_chaos::{Account, Effect, Fault, ServerProcess, SharedPlatform};
use toygres_models::InstanceId;
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::{Operation, OperationState};
use toygres_models::server::Drift;
use toygres_testing::{TestPostgres, server_programs, wait_for};

const ALWAYS: u32 = u32::MAX;
/// Six periods of the sweeper.
const SOON: Duration = Duration::from_secs(30);

async fn drift(server: &ServerProcess) -> Vec<Drift> {
    serde_json::from_value(server.get("/api/server/drift").await).unwrap()
}

/// Waits until there is a finding of this kind about the instance, which takes no more than a few sweeps.
async fn found(server: &ServerProcess, kind: &str, id: InstanceId) -> Drift {
    let begun = Instant::now();
    let finding = wait_for(&format!("{kind} of {id}"), PATIENCE, || async {
        let mut drift = drift(server).await.into_iter();
        drift.find(|drift| drift.kind == kind && drift.instance_id == Some(id))
    })
    .await;
    assert!(
        begun.elapsed() < SOON,
        "{kind} of {id}: found after {:?}",
        begun.elapsed()
    );
    finding
}

async fn no_drift(server: &ServerProcess) {
    wait_for("no drift", PATIENCE, || async {
        drift(server).await.is_empty().then_some(())
    })
    .await;
}

/// Waits for two more health checks.
pub(crate) async fn two_checks(server: &ServerProcess, id: InstanceId) {
    let path = format!("/api/instances/{id}/health");
    let newest = async || server.get(&path).await[0]["checked_at"].clone();
    for _ in 0..2 {
        let last = newest().await;
        wait_for("a health check", PATIENCE, || async {
            (newest().await != last).then_some(())
        })
        .await;
    }
}

/// Waits until the sweeper has gone by twice more: what it has not done by then, it does not do.
async fn two_sweeps(server: &ServerProcess) {
    let instances = server.home().join("instances");
    std::fs::create_dir_all(&instances).unwrap();
    for _ in 0..2 {
        let stranger = format!("stranger-{}", uuid::Uuid::new_v4().simple());
        std::fs::create_dir(instances.join(&stranger)).unwrap();
        wait_for("a sweep", PATIENCE, || async {
            let drift = drift(server).await;
            drift.iter().any(|drift| drift.object == stranger).then_some(())
        })
        .await;
        std::fs::remove_dir(instances.join(&stranger)).unwrap();
    }
}

async fn state(server: &ServerProcess, id: InstanceId) -> Value {
    server.get(&format!("/api/instances/{id}")).await
}

/// Waits until it runs, and answers.
pub(crate) async fn runs(server: &ServerProcess, id: InstanceId) {
    wait_for("it to run", PATIENCE, || async {
        let seen = state(server, id).await;
        (seen["state"] == "running" && seen["health_status"] == "healthy").then_some(())
    })
    .await;
}

pub(crate) async fn created(server: &ServerProcess, name: &str) -> InstanceAccepted {
    let accepted = server.create(name).await;
    let operation = server.ended(&accepted).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    accepted
}

pub(crate) fn directory(server: &ServerProcess, accepted: &InstanceAccepted) -> PathBuf {
    let instance = &accepted.instance;
    let name = format!("{}-{}", instance.name, instance.id.short());
    server.home().join("instances").join(name)
}

/// A connection to the database of an instance, whether the server knows it or not.
async fn connect(directory: &Path) -> PgConnection {
    let record = std::fs::read(directory.join("instance.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let port = &record["port"];
    let url = format!("postgres://postgres:chaos-secret@127.0.0.1:{port}/postgres?sslmode=disable");
    wait_for("a connection", PATIENCE, || async {
        PgConnection::connect(&url).await.ok()
    })
    .await
}

async fn write_row(directory: &Path) {
    let sql = "create table kept (number int); insert into kept values (42)";
    let mut connection = connect(directory).await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

async fn row_is_there(directory: &Path) -> bool {
    let mut connection = connect(directory).await;
    let row = sqlx::query_scalar("select number from kept").fetch_one(&mut connection);
    row.await.is_ok_and(|number: i32| number == 42)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_data_is_gone_is_an_alarm_until_it_is_back() {
    let mut account = Account::new(
        "drift",
        "all files of a local instance taken away, its server alive or killed",
    );
    let postgres = TestPostgres::start().await;
    let mut server = real_server(&postgres).await;
    let accepted = created(&server, "robbed").await;
    let (id, place) = (accepted.instance.id, directory(&server, &accepted));
    write_row(&place).await;
    let aside = server.home().join("aside");
    for killed in [false, true] {
        std::fs::rename(&place, &aside).unwrap();
        if killed {
            // With all that knew of it: the server of the control plane too.
            server.kill();
            kill_server(&aside);
            server.start_again().await;
        }
        account.injected(1);
        let finding = found(&server, "storage_missing", id).await;
        assert!(
            !finding.fixable && finding.remedy.contains("bring the data back"),
            "{finding:?}"
        );
        let fix = format!("/api/server/drift/{}/fix", finding.id);
        let (status, refused) = server.ask(Method::POST, &fix, None).await.unwrap();
        assert_eq!(
            (status, &refused["code"]),
            (StatusCode::CONFLICT, &json!("drift_not_fixable"))
        );
        assert_eq!(refused["hint"], finding.remedy);
        let seen = state(&server, id).await;
        assert_eq!(
            (&seen["state"], &seen["state_reason_code"]),
            (&json!("degraded"), &json!("storage_missing"))
        );
        let events = server.get(&format!("/api/instances/{id}/events")).await;
        let alarms = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["kind"] == "alarm");
        assert_eq!(alarms.count(), 1 + usize::from(killed));
        two_sweeps(&server).await;
        assert!(!place.exists(), "an empty one was made");

        std::fs::rename(&aside, &place).unwrap();
        let begun = Instant::now();
        runs(&server, id).await;
        no_drift(&server).await;
        account.recovered(begun.elapsed());
        assert!(row_is_there(&place).await);
    }
}

/// Kills the server whose files these are by now.
pub(crate) fn kill_server(directory: &Path) {
    let Ok(pid) = std::fs::read_to_string(directory.join("data/postmaster.pid")) else {
        return;
    };
    let pid = pid.lines().next().unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // Without its lock file it may have ended by itself.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    while rustix::process::test_kill_process(pid).is_ok() {
        std::thread::yield_now();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(server_programs().join(program))
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{program}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_older_backup_lose_no_data() {
    let mut account = Account::new("drift", "the control database restored from an older backup");
    let postgres = TestPostgres::start().await;
    let mut server = real_server(&postgres).await;
    let kept = created(&server, "kept").await;
    let doomed = created(&server, "doomed").await;
    let leaving = created(&server, "leaving").await;
    server.plan(Some(&Fault::before_step("deploy-postgres", Effect::Fatal, 1)));
    let failed = server.create("again").await;
    assert_eq!(server.ended(&failed).await.state, OperationState::Failed);
    // Two that are on their way when the backup is taken.
    server.plan_all(&[
        Fault::before_step("test-connection", Effect::Unavailable, ALWAYS),
        Fault::before_step("verify-gone", Effect::Unavailable, ALWAYS),
    ]);
    let coming = server.create("coming").await;
    let left = server.request_delete("leaving").await;
    wait_for("both to be on their way", PATIENCE, || async {
        (server.hits() >= 4 && directory(&server, &coming).exists() && !directory(&server, &leaving).exists())
            .then_some(())
    })
    .await;
    let backup = server.home().join("backup.sql");
    let dump = backup.to_str().unwrap();
    run("pg_dump", &["--no-owner", "-f", dump, server.database_url()]);

    // What happens since.
    server.plan(None);
    assert_eq!(server.ended(&coming).await.state, OperationState::Succeeded);
    assert_eq!(server.ended(&left).await.state, OperationState::Succeeded);
    let retry = format!("/api/operations/{}/retry", failed.operation.id);
    let (status, retried) = server.ask(Method::POST, &retry, None).await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{retried}");
    runs(&server, failed.instance.id).await;
    let since = created(&server, "since").await;
    let gone = server.request_delete("doomed").await;
    assert_eq!(server.ended(&gone).await.state, OperationState::Succeeded);
    let (status, _) = server
        .ask(
            Method::PATCH,
            "/api/instances/kept",
            Some(&json!({"tags": {"a": "b"}})),
        )
        .await
        .unwrap();
    assert_eq!(status, StatusCode::OK);
    let with_data = [&kept, &coming, &failed, &since];
    for accepted in with_data {
        write_row(&directory(&server, accepted)).await;
    }

    server.kill();
    let restored = postgres.new_database().await;
    run("psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", dump, &restored]);
    server.set("DATABASE_URL", &restored);
    let begun = Instant::now();
    server.start_again().await;

    // Made since, or made again since: reported, and left alone.
    let unknown = found(&server, "unknown_object", since.instance.id).await;
    let made_again = found(&server, "failed_with_data", failed.instance.id).await;
    // Deleted since: lost, as far as the rows know.
    found(&server, "storage_missing", doomed.instance.id).await;
    // On their way then: they come to an end.
    assert_eq!(server.ended(&coming).await.state, OperationState::Succeeded);
    assert_eq!(server.ended(&left).await.state, OperationState::Succeeded);
    account.recovered(begun.elapsed());
    for accepted in [&kept, &coming] {
        runs(&server, accepted.instance.id).await;
    }
    let fresh = created(&server, "fresh").await;
    two_sweeps(&server).await;
    for accepted in with_data {
        let lost = !row_is_there(&directory(&server, accepted)).await;
        account.lost(usize::from(lost));
        assert!(!lost, "{}", accepted.instance.name);
    }
    for accepted in [&doomed, &leaving] {
        assert!(!directory(&server, accepted).exists(), "an empty one was made");
    }
    assert!(directory(&server, &fresh).exists());
    assert!(unknown.fixable && !made_again.fixable);
    account.injected(1);

    // What each of them says is to be done.
    let (status, retried) = server.ask(Method::POST, &retry, None).await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{retried}");
    runs(&server, failed.instance.id).await;
    assert!(row_is_there(&directory(&server, &failed)).await);
    let gone = server.request_delete("doomed").await;
    assert_eq!(server.ended(&gone).await.state, OperationState::Succeeded);
    let fix = format!("/api/server/drift/{}/fix", unknown.id);
    let (status, fixed) = server.ask(Method::POST, &fix, None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{fixed}");
    assert!(!directory(&server, &since).exists());
    no_drift(&server).await;
    let audit = server.get("/api/audit?action=fix_drift").await;
    assert_eq!(audit.as_array().map(Vec::len), Some(1), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_hand_comes_right_or_is_said() {
    let mut account = Account::new(
        "drift",
        "a local instance changed by hand: its server ended, its record or setting",
    );
    let postgres = TestPostgres::start().await;
    let server = real_server(&postgres).await;
    let accepted = created(&server, "touched").await;
    let (id, place) = (accepted.instance.id, directory(&server, &accepted));
    write_row(&place).await;
    let before = state(&server, id).await;
    let record = place.join("instance.json");
    let written = std::fs::read_to_string(&record).unwrap();
    let settings = place.join("data/postgresql.conf");
    let good = std::fs::read_to_string(&settings).unwrap();
    let changes: [(&str, &dyn Fn()); 5] = [
        ("its server is ended", &|| kill_server(&place)),
        ("its record is removed", &|| {
            std::fs::remove_file(&record).unwrap()
        }),
        ("its record is overwritten", &|| {
            std::fs::write(&record, "{").unwrap()
        }),
        ("a setting is changed", &|| {
            std::fs::write(&settings, format!("{good}\nport = 1\nlisten_addresses = ''\n")).unwrap();
            kill_server(&place);
        }),
        ("a setting is nonsense", &|| {
            std::fs::write(&settings, format!("{good}\nnonsense = 1\n")).unwrap();
            kill_server(&place);
        }),
    ];
    for (what, change) in changes {
        change();
        account.injected(1);
        let begun = Instant::now();
        if what.contains("nonsense") {
            // That is somebody's own, so it is only said.
            wait_for("it to be said", PATIENCE, || async {
                let seen = state(&server, id).await;
                let why = seen["state_reason"].as_str().unwrap_or_default().to_owned();
                (seen["state"] == "degraded" && why.contains("nonsense")).then_some(())
            })
            .await;
            std::fs::write(&settings, &good).unwrap();
        }
        wait_for(what, PATIENCE, || async {
            let seen = state(&server, id).await;
            let answers = seen["state"] == "running" && seen["health_status"] == "healthy";
            let same = std::fs::read_to_string(&record).is_ok_and(|record| {
                let port = |text: &str| {
                    serde_json::from_str::<Value>(text)
                        .ok()
                        .map(|record| record["port"].clone())
                };
                port(&record) == port(&written)
            });
            (answers && same && place.join("data/postmaster.pid").exists()).then_some(())
        })
        .await;
        assert!(row_is_there(&place).await, "{what}");
        account.recovered(begun.elapsed());
        no_drift(&server).await;
        assert_eq!(state(&server, id).await["endpoint"], before["endpoint"], "{what}");
        // What started a server may make a lost record just after it is ready, before any check has seen the loss.
        two_checks(&server, id).await;
    }
    let events = server.get(&format!("/api/instances/{id}/events")).await;
    let repaired = events
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["kind"] == "repaired");
    assert_eq!(repaired.count(), 2, "of the record: {events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_fails_for_good_is_an_alarm_until_it_succeeds() {
    let postgres = TestPostgres::start().await;
    let refused = ["remove-postgres", "verify-gone", "cms-record-end"];
    let refusals = refused.map(async |activity| {
        let mut account = Account::new(
            "drift",
            format!("{activity} of a deletion and of an undo fails for good"),
        );
        let server = quick_server(&postgres, Vec::new()).await;
        created(&server, "deleted").await;
        server.plan_all(&[
            Fault::before_step("wait-for-ready", Effect::Fatal, 1),
            Fault::before_step(activity, Effect::Fatal, ALWAYS),
        ]);
        let undone = server.create("undone").await;
        let deleted = server.request_delete("deleted").await;
        for accepted in [&undone, &deleted] {
            let (id, begun) = (accepted.instance.id, Instant::now());
            let finding = found(&server, "removal_stuck", id).await;
            account.injected(1);
            assert!(
                finding.message.contains(&accepted.operation.id.to_string()),
                "{finding:?}"
            );
            assert!(finding.message.ends_with("this was to go wrong"), "{finding:?}");
            let operation = server
                .get(&format!("/api/operations/{}", accepted.operation.id))
                .await;
            let operation: Operation = serde_json::from_value(operation).unwrap();
            assert_eq!(operation.state, OperationState::Running);
            assert_eq!(operation.error.unwrap().code, "planned_fault");
            assert_eq!(state(&server, id).await["state_reason_code"], "removal_stuck");
            let events = server.get(&format!("/api/instances/{id}/events")).await;
            let alarms = events
                .as_array()
                .unwrap()
                .iter()
                .filter(|event| event["kind"] == "alarm");
            assert_eq!(alarms.count(), 1, "{events}");
            eprintln!("{activity}: said after {:?}", begun.elapsed());
        }
        server.plan(None);
        let begun = Instant::now();
        let undone = server.ended(&undone).await;
        assert_eq!(
            (undone.state, undone.error.unwrap().code.as_str()),
            (OperationState::Failed, "planned_fault")
        );
        let deleted = server.ended(&deleted).await;
        assert_eq!((deleted.state, deleted.error), (OperationState::Succeeded, None));
        no_drift(&server).await;
        account.recovered(begun.elapsed());
    });
    futures_util::future::join_all(refusals).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_can_not_even_begin_is_an_alarm_until_it_does() {
    let postgres = TestPostgres::start().await;
    let refused = [("cms-load-intent", false), ("cms-begin-operation", true)];
    let refusals = refused.map(async |(activity, of_operation)| {
        let mut account = Account::new("drift", format!("{activity} of a deletion fails for good"));
        let server = quick_server(&postgres, Vec::new()).await;
        created(&server, "kept-waiting").await;
        server.plan(Some(&Fault {
            of_operation,
            ..Fault::before_step(activity, Effect::Fatal, ALWAYS)
        }));
        let deleted = server.request_delete("kept-waiting").await;
        let (id, operation_id) = (deleted.instance.id, deleted.operation.id);
        wait_for("it to fail", PATIENCE, || async {
            (server.hits() >= 2).then_some(())
        })
        .await;
        assert_eq!(drift(&server).await, []);
        // As if it had been asked for long ago.
        let asked =
            "update cms.operations set requested_at = now() - interval '1 hour' where kind = 'delete'";
        let mut connection = PgConnection::connect(server.database_url()).await.unwrap();
        sqlx::raw_sql(asked).execute(&mut connection).await.unwrap();
        let finding = found(&server, "operation_overdue", id).await;
        account.injected(1);
        assert!(
            finding
                .message
                .starts_with(&format!("the delete {operation_id} was asked for at")),
            "{finding:?}"
        );
        let events = server.get(&format!("/api/instances/{id}/events")).await;
        assert_eq!(
            events.as_array().unwrap().last().unwrap()["message"],
            finding.message
        );
        server.plan(None);
        let begun = Instant::now();
        let deleted = server.ended(&deleted).await;
        assert_eq!((deleted.state, deleted.error), (OperationState::Succeeded, None));
        no_drift(&server).await;
        account.recovered(begun.elapsed());
    });
    futures_util::future::join_all(refusals).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leftover_that_cannot_be_removed_hides_nothing_else() {
    let mut account = Account::new("drift", "what is left of a deleted instance can't be removed");
    let postgres = TestPostgres::start().await;
    let server = quick_server(&postgres, Vec::new()).await;
    let accepted = created(&server, "left").await;
    let id = accepted.instance.id;
    let shared = ServerProcess::shared_directory(server.home());
    let file = shared.join(format!("{id}.json"));
    let document = std::fs::read_to_string(&file).unwrap();
    let deleted = server.request_delete("left").await;
    server.ended(&deleted).await;

    // As if a process that had stood still went on after the deletion, on a platform that holds what is there.
    SharedPlatform::hold(&shared, true);
    std::fs::write(&file, &document).unwrap();
    let stranger = InstanceId::generate();
    let foreign = document.replace(&id.to_string(), &stranger.to_string());
    std::fs::write(shared.join(format!("{stranger}.json")), foreign).unwrap();
    account.injected(1);
    let begun = Instant::now();
    let finding = found(&server, "leftover_stuck", id).await;
    assert!(
        !finding.fixable && finding.message.ends_with("a planned finalizer holds it"),
        "{finding:?}"
    );
    let unknown = found(&server, "unknown_object", stranger).await;
    assert!(unknown.fixable);

    SharedPlatform::hold(&shared, false);
    wait_for("the leftover to go", PATIENCE, || async {
        (!file.exists()).then_some(())
    })
    .await;
    account.recovered(begun.elapsed());
    let fix = format!("/api/server/drift/{}/fix", unknown.id);
    let (status, fixed) = server.ask(Method::POST, &fix, None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{fixed}");
    no_drift(&server).await;
}
