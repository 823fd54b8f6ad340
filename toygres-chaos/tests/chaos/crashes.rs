//! The server dies before and after every activity: what comes of it is the same as without.

use crate::drift::{created, directory, kill_server, runs, two_checks};
use crate::steps::{UNDO, while_undone};
use crate::{CALLED, During, PATIENCE, quick_server, real_server, seen};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use toygres_chaos::{Account, Effect, Fault, Moment, ServerProcess};
use toygres_models::operations::OperationState;
use toygres_testing::TestPostgres;

/// How many servers are crashed at the same time: they mostly wait for a lock to run out.
const AT_THE_SAME_TIME: usize = 6;

/// Makes an instance, watches it and deletes it, with the fault in its time; what was seen after each, and how long it
/// took from the server's death to the end of what it was doing.
async fn life(postgres: &TestPostgres, fault: Option<(During, &Fault)>) -> (Value, Value, Option<Duration>) {
    let mut server = real_server(postgres).await;
    let mut died = None;
    let planned = |during: During| {
        fault
            .filter(|(planned, _)| *planned == during)
            .map(|(_, fault)| fault)
    };

    server.plan(planned(During::Create));
    let created = server.create("survivor").await;
    if planned(During::Create).is_some() {
        died = Some(die_and_rise(&mut server, 1).await);
    }
    let operation = server.ended(&created).await;
    let mut recovery = died.map(|died| died.elapsed());
    assert_eq!(
        operation.state,
        OperationState::Succeeded,
        "{fault:?}: {operation:?}"
    );

    server.plan(planned(During::Watch));
    if planned(During::Watch).is_some() {
        died = Some(die_and_rise(&mut server, 1).await);
    }
    two_checks(&server, created.instance.id).await;
    recovery = recovery.or(died.map(|died| died.elapsed()));
    let running = seen(&server, created.instance.id).await;

    server.plan(planned(During::Delete));
    let deleted = server.request_delete("survivor").await;
    if planned(During::Delete).is_some() {
        died = Some(die_and_rise(&mut server, 1).await);
    }
    let operation = server.ended(&deleted).await;
    recovery = recovery.or(died.map(|died| died.elapsed()));
    assert_eq!(
        operation.state,
        OperationState::Succeeded,
        "{fault:?}: {operation:?}"
    );
    let gone = seen(&server, created.instance.id).await;
    (running, gone, recovery)
}

/// Waits until the last of so many faults has killed it, and starts it again without; when it had died.
async fn die_and_rise(server: &mut ServerProcess, faults: usize) -> Instant {
    let log = server.log();
    let died = tokio::time::timeout(PATIENCE, server.exited()).await;
    let signal = died.unwrap_or_else(|_| panic!("the crash point was not reached: {}", log.display()));
    assert_eq!((signal, server.hits()), (Some(9), faults), "it died of the fault");
    let begun = Instant::now();
    server.plan(None);
    server.start_again().await;
    begun
}

#[test]
fn every_activity_is_crashed() {
    let named: std::collections::BTreeSet<&str> = CALLED.iter().map(|(name, ..)| *name).collect();
    let registered: std::collections::BTreeSet<&str> = toygres_activities::NAMES.iter().copied().collect();
    assert_eq!(named, registered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_or_after_any_activity_changes_nothing() {
    let postgres = TestPostgres::start().await;
    let (running, gone, _) = life(&postgres, None).await;
    let points: Vec<(During, Fault)> = CALLED
        .iter()
        .flat_map(|(activity, during, of_operation)| {
            [Moment::Before, Moment::After].map(|moment| {
                let fault = Fault {
                    activity: (*activity).to_owned(),
                    of_operation: *of_operation,
                    moment,
                    effect: Effect::Crash,
                    times: 1,
                };
                (*during, fault)
            })
        })
        .collect();
    let lives = stream::iter(points.iter().map(async |(during, fault)| {
        let begun = Instant::now();
        let life = life(&postgres, Some((*during, fault))).await;
        eprintln!(
            "{:?} {} during {during:?}: {:?}",
            fault.moment,
            fault.activity,
            begun.elapsed()
        );
        (during, fault, life)
    }));
    let mut account = Account::new(
        "crash",
        "SIGKILL of the server before and after each activity of create, watch and delete",
    );
    let mut lives = lives.buffer_unordered(AT_THE_SAME_TIME);
    while let Some((during, fault, (running_after, gone_after, recovery))) = lives.next().await {
        let point = format!("{:?} {} during {during:?}", fault.moment, fault.activity);
        assert_eq!(running_after, running, "{point}: as it runs");
        assert_eq!(gone_after, gone, "{point}: as it is gone");
        account.injected(1);
        account.recovered(recovery.expect("it died"));
    }
}

/// An instance that can't be made, and a server that dies of the fault while it undoes that; what was seen, and how long
/// it took from its death to the end.
async fn undone(postgres: &TestPostgres, fault: Fault) -> (Value, Option<Duration>) {
    let mut server = quick_server(postgres, Vec::new()).await;
    let crashes = fault.effect == Effect::Crash;
    let faults = while_undone(fault);
    server.plan_all(&faults);
    let created = server.create("undone").await;
    let died = match crashes {
        true => Some(die_and_rise(&mut server, faults.len()).await),
        false => None,
    };
    let operation = server.ended(&created).await;
    let recovery = died.map(|died| died.elapsed());
    assert_eq!(
        operation.state,
        OperationState::Failed,
        "{faults:?}: {operation:?}"
    );
    assert_eq!(server.get("/api/server/drift").await, json!([]), "{faults:?}");
    (seen(&server, created.instance.id).await, recovery)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_or_after_any_activity_that_undoes_a_create_changes_nothing() {
    let postgres = TestPostgres::start().await;
    let fault = |activity: &str, moment, effect| Fault {
        moment,
        ..Fault::before_step(activity, effect, 1)
    };
    // Without a crash what is done twice is the same.
    let (usual, _) = undone(&postgres, fault("remove-postgres", Moment::Before, Effect::Again)).await;
    let points = UNDO
        .iter()
        .flat_map(|activity| [Moment::Before, Moment::After].map(|moment| (activity, moment)));
    let lives = stream::iter(points.map(async |(activity, moment)| {
        let undone = undone(&postgres, fault(activity, moment, Effect::Crash)).await;
        (format!("{moment:?} {activity}"), undone)
    }));
    let mut account = Account::new(
        "crash",
        "SIGKILL of the server before and after each activity that undoes a failed create",
    );
    let mut lives = lives.buffer_unordered(AT_THE_SAME_TIME);
    while let Some((point, (seen, recovery))) = lives.next().await {
        assert_eq!(seen, usual, "{point}");
        account.injected(1);
        account.recovered(recovery.expect("it died"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_or_after_a_repair_changes_nothing() {
    let postgres = TestPostgres::start().await;
    let mut account = Account::new(
        "crash",
        "SIGKILL of the server before and after it repairs an instance",
    );
    let repaired = [Moment::Before, Moment::After].map(async |moment| {
        let mut server = real_server(&postgres).await;
        let created = created(&server, "broken").await;
        let before = seen(&server, created.instance.id).await;
        server.plan(Some(&Fault {
            of_operation: false,
            moment,
            ..Fault::before_step("deploy-postgres", Effect::Crash, 1)
        }));
        kill_server(&directory(&server, &created));
        let died = die_and_rise(&mut server, 1).await;
        runs(&server, created.instance.id).await;
        let recovery = died.elapsed();
        let after = seen(&server, created.instance.id).await;
        for same in ["operations", "objects"] {
            assert_eq!(after[same], before[same], "{moment:?}");
        }
        recovery
    });
    for recovery in join_all(repaired).await {
        account.injected(1);
        account.recovered(recovery);
    }
}
