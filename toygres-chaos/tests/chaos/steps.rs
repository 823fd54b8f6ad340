//! Every activity fails for good, fails for a while, is done but told otherwise, and runs twice.

use crate::{CALLED, During, PATIENCE, quick_server, seen};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use toygres_chaos::{Account, Effect, Fault, Faults, Moment, ServerProcess, SharedPlatform};
use toygres_models::operations::OperationState;
use toygres_testing::{TestHome, TestPostgres, TestServer, TestServerOptions, wait_for};

const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

/// Checks are far apart, so that only the operation at hand meets the fault.
fn without_checks() -> Vec<(&'static str, String)> {
    vec![("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "3600".to_owned())]
}

fn fault(activity: &str, of_operation: bool, moment: Moment, effect: Effect, times: u32) -> Fault {
    Fault {
        activity: activity.to_owned(),
        of_operation,
        moment,
        effect,
        times,
    }
}

/// What is called when a create that failed is undone.
pub(crate) const UNDO: [&str; 4] = [
    "cms-begin-operation",
    "remove-postgres",
    "verify-gone",
    "cms-record-end",
];

/// A create fails, and then its undoing by that fault.
pub(crate) fn while_undone(undo: Fault) -> Vec<Fault> {
    let create = fault("wait-for-ready", true, Moment::After, Effect::Fatal, 1);
    let first = (undo.activity == "cms-begin-operation").then(|| Fault {
        // The first time an operation is begun is that of the create.
        effect: Effect::Again,
        times: 1,
        ..undo.clone()
    });
    first.into_iter().chain([create, undo]).collect()
}

fn called(during: During) -> impl Iterator<Item = (&'static str, bool)> {
    CALLED
        .into_iter()
        .filter(move |(_, d, _)| *d == during)
        .map(|(activity, _, of_operation)| (activity, of_operation))
}

/// The steps of a create.
fn steps_of_create() -> impl Iterator<Item = &'static str> {
    called(During::Create)
        .filter(|(_, of_operation)| *of_operation)
        .map(|(activity, _)| activity)
}

/// Waits until all of that has gone wrong: what does so at the very end may do it after the end was seen.
async fn met(server: &ServerProcess, faults: impl IntoIterator<Item = &Fault>) {
    let faults: Vec<&Fault> = faults.into_iter().collect();
    let times: u32 = faults.iter().map(|fault| fault.times).sum();
    let all = || async { (server.hits() >= times as usize).then_some(()) };
    wait_for(&format!("all of {faults:?}"), PATIENCE, all).await;
}

/// What is on the platform, and what a sweep has found.
async fn slate(server: &ServerProcess) -> (usize, Value) {
    let directory = server.home().join("shared");
    let files = std::fs::read_dir(directory).unwrap().flatten();
    let objects = files.filter(|file| file.path().extension().is_some_and(|e| e == "json"));
    (objects.count(), server.get("/api/server/drift").await)
}

async fn clean(server: &ServerProcess) -> bool {
    slate(server).await == (0, Value::Array(Vec::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_for_good_fails_the_create_and_all_of_it_is_undone() {
    let postgres = TestPostgres::start().await;
    let server = quick_server(&postgres, without_checks()).await;
    let mut account = Account::new("step", "an activity of a create fails for good");
    for activity in steps_of_create() {
        for (moment, effect) in [
            (Moment::Before, Effect::Fatal),
            (Moment::After, Effect::Fatal),
            (Moment::After, Effect::Panic),
        ] {
            let what = format!("{moment:?} {activity}: {effect:?}");
            let fault = fault(activity, true, moment, effect, 1);
            server.plan(Some(&fault));
            let created = server.create("contested").await;
            let begun = Instant::now();
            let operation = server.ended(&created).await;
            met(&server, [&fault]).await;
            account.injected(1);
            let instance = server
                .get(&format!("/api/instances/{}", created.instance.id))
                .await;
            if activity == "cms-record-running" && moment == Moment::After {
                // It was recorded that it runs, and that stands whatever is said after it.
                assert_eq!(operation.state, OperationState::Succeeded, "{what}");
                assert_eq!(instance["state"], "running", "{what}");
                assert_eq!(slate(&server).await.0, 1, "{what}: what runs is left alone");
            } else {
                assert_eq!(operation.state, OperationState::Failed, "{what}: {operation:?}");
                let code = operation.error.map(|error| error.code);
                let expected = match effect {
                    Effect::Panic => "activity_panicked",
                    _ => "planned_fault",
                };
                assert_eq!(code.as_deref(), Some(expected), "{what}: the cause is named");
                assert_eq!(instance["state"], "failed", "{what}");
                assert!(clean(&server).await, "{what}: {:?}", slate(&server).await);
                account.recovered(begun.elapsed());
            }
            // The name is free after a failure, and after a deletion.
            if operation.state == OperationState::Failed {
                let again = server.create("contested").await;
                assert_eq!(
                    server.ended(&again).await.state,
                    OperationState::Succeeded,
                    "{what}"
                );
            }
            let deleted = server.request_delete("contested").await;
            assert_eq!(
                server.ended(&deleted).await.state,
                OperationState::Succeeded,
                "{what}"
            );
            let path = format!("/api/instances/{}", created.instance.id);
            let (status, body) = server.ask(Method::DELETE, &path, None).await.unwrap();
            if status == StatusCode::ACCEPTED {
                let deleted = serde_json::from_value(body).unwrap();
                server.ended(&deleted).await;
            }
            assert!(clean(&server).await, "{what}: {:?}", slate(&server).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_an_undo_that_fails_is_repeated() {
    let postgres = TestPostgres::start().await;
    let mut account = Account::new("step", "an activity fails while a failed create is undone");
    let recoveries = join_all(UNDO.map(async |activity| {
        let server = quick_server(&postgres, without_checks()).await;
        let mut recoveries = Vec::new();
        for moment in MOMENTS {
            for (effect, times) in [(Effect::Unavailable, 2), (Effect::Fatal, 1), (Effect::Panic, 1)] {
                let what = format!("{moment:?} {activity}: {effect:?}");
                let planned = while_undone(fault(activity, true, moment, effect, times));
                server.plan_all(&planned);
                let created = server.create("undone").await;
                let begun = Instant::now();
                let operation = server.ended(&created).await;
                met(&server, &planned).await;
                recoveries.push((times as usize, begun.elapsed()));
                assert_eq!(operation.state, OperationState::Failed, "{what}: {operation:?}");
                let code = operation.error.map(|error| error.code);
                assert_eq!(
                    code.as_deref(),
                    Some("planned_fault"),
                    "{what}: the first cause is named"
                );
                assert!(clean(&server).await, "{what}: {:?}", slate(&server).await);
            }
        }
        recoveries
    }))
    .await;
    for (times, recovery) in recoveries.into_iter().flatten() {
        account.injected(times);
        account.recovered(recovery);
    }
}

/// Makes and deletes an instance while this goes wrong in one or the other; what was seen after each.
async fn life(server: &ServerProcess, during: During, fault: Option<&Fault>) -> (Value, Value) {
    let what = format!("{fault:?} during {during:?}");
    server.plan(fault.filter(|_| during == During::Create));
    let created = server.create("survivor").await;
    assert_eq!(
        server.ended(&created).await.state,
        OperationState::Succeeded,
        "{what}"
    );
    met(server, fault.filter(|_| during == During::Create)).await;
    let running = seen(server, created.instance.id).await;
    server.plan(fault.filter(|_| during == During::Delete));
    let deleted = server.request_delete("survivor").await;
    assert_eq!(
        server.ended(&deleted).await.state,
        OperationState::Succeeded,
        "{what}"
    );
    met(server, fault.filter(|_| during == During::Delete)).await;
    (running, seen(server, created.instance.id).await)
}

/// What becomes of an instance is the same whether or not that goes wrong.
async fn no_difference(account: &mut Account, effect: Effect, moments: &[Moment], times: u32) {
    let postgres = TestPostgres::start().await;
    let server = quick_server(&postgres, without_checks()).await;
    let usual = life(&server, During::Create, None).await;
    for during in [During::Create, During::Delete] {
        for (activity, of_operation) in called(during) {
            for moment in moments {
                let fault = fault(activity, of_operation, *moment, effect, times);
                let life = life(&server, during, Some(&fault)).await;
                assert_eq!(life, usual, "{fault:?} during {during:?}");
                account.injected(times as usize);
            }
        }
    }
}

/// More often than what rides out a hiccup.
const A_WHILE: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_while_makes_no_difference() {
    let mut account = Account::new("step", "an activity can't be done for a while");
    let postgres = TestPostgres::start().await;
    let usual = {
        let server = quick_server(&postgres, without_checks()).await;
        life(&server, During::Create, None).await
    };
    let called = [During::Create, During::Delete].into_iter().flat_map(|during| {
        called(during).map(move |(activity, of_operation)| (during, activity, of_operation))
    });
    join_all(called.map(async |(during, activity, of_operation)| {
        let server = quick_server(&postgres, without_checks()).await;
        let fault = fault(
            activity,
            of_operation,
            Moment::Before,
            Effect::Unavailable,
            A_WHILE,
        );
        let life = life(&server, during, Some(&fault)).await;
        assert_eq!(life, usual, "{fault:?} during {during:?}");
    }))
    .await
    .iter()
    .for_each(|()| account.injected(A_WHILE as usize));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_but_told_otherwise_makes_no_difference() {
    let mut account = Account::new("step", "an activity is done, but told to be unavailable");
    no_difference(&mut account, Effect::Unavailable, &[Moment::After], 2).await;
    let mut account = Account::new("step", "an activity is done, but told to have timed out");
    no_difference(&mut account, Effect::Timeout, &[Moment::After], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_twice_makes_no_difference() {
    let mut account = Account::new("step", "an activity is done twice");
    no_difference(&mut account, Effect::Again, &MOMENTS, 1).await;
}

/// An answer without what is another each time: how long a check took.
fn lasting(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(fields) => {
            fields.retain(|name, _| !matches!(name.as_str(), "response_time_ms" | "checked_at"));
            for value in fields.values_mut() {
                *value = lasting(value.take());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = lasting(value.take())),
        _ => {}
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_once_more_after_the_end_changes_nothing() {
    let postgres = TestPostgres::start().await;
    let home = Arc::new(TestHome::new());
    let faults = Arc::new(Faults::keeping_calls(home.path()));
    let platform = SharedPlatform::new(&home.path().join("shared"), postgres.port());
    let server = TestServer::start_with(TestServerOptions {
        home: Some(home),
        platform: Some(platform.clone()),
        interceptor: Some(faults.clone()),
        ..TestServerOptions::default()
    })
    .await;
    let mut account = Account::new(
        "step",
        "an activity of an operation is done once more after its end",
    );
    let created = server.create("survivor", "chaos-secret").await;
    server.ended(&created).await;
    let id = created.instance.id;
    // While it runs, then when it is gone.
    for deleted in [false, true] {
        if deleted {
            let deletion = server.request_delete("survivor").await;
            server.ended(&deletion).await;
        }
        let state = || async {
            let mut seen = Vec::new();
            for path in [
                format!("/api/instances/{id}"),
                format!("/api/instances/{id}/events"),
                "/api/operations".to_owned(),
            ] {
                let mut body = server.get(&path).await.1;
                // Checks go on meanwhile.
                if let Some(instance) = body.as_object_mut() {
                    instance.remove("last_checked_at");
                    instance.remove("updated_at");
                }
                seen.push(body);
            }
            (seen, platform.file(id).exists())
        };
        let before = state().await;
        let calls = faults.calls();
        let done = calls.iter().filter(|call| {
            call.scope.is_some_and(|scope| scope.operation_id.is_some()) && call.answer.is_ok()
        });
        for call in done {
            let answer = (call.work)().await;
            account.injected(1);
            match (answer, &call.answer) {
                (Ok(answer), Ok(first)) => assert_eq!(
                    lasting(answer),
                    lasting(first.clone()),
                    "{} once more",
                    call.activity
                ),
                (Ok(_), Err(_)) => {}
                (Err(error), _) => assert_eq!(
                    error.kind(),
                    toygres_models::ErrorKind::Superseded,
                    "{}: {error}",
                    call.activity
                ),
            }
            assert_eq!(state().await, before, "{} once more", call.activity);
        }
    }
    server.stop().await;
}
