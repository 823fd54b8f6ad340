//! The server dies before and after every activity: what comes of it is the same as without.

use crate::{CALLED, During, PATIENCE, real_server, seen};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use std::time::{Duration, Instant};
use toygres_chaos::{Account, Effect, Fault, Moment, ServerProcess};
use toygres_models::operations::OperationState;
use toygres_testing::{TestPostgres, wait_for};

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
        died = Some(die_and_rise(&mut server).await);
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
        died = Some(die_and_rise(&mut server).await);
    }
    let checks = || async {
        server
            .get("/api/instances/survivor/health")
            .await
            .as_array()
            .map_or(0, Vec::len)
    };
    let before = checks().await;
    wait_for("two more health checks", PATIENCE, || async {
        (checks().await >= before + 2).then_some(())
    })
    .await;
    recovery = recovery.or(died.map(|died| died.elapsed()));
    let running = seen(&server, created.instance.id).await;

    server.plan(planned(During::Delete));
    let deleted = server.request_delete("survivor").await;
    if planned(During::Delete).is_some() {
        died = Some(die_and_rise(&mut server).await);
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

/// Waits until the fault has killed it, and starts it again without; when it had died.
async fn die_and_rise(server: &mut ServerProcess) -> Instant {
    let log = server.log();
    let died = tokio::time::timeout(PATIENCE, server.exited()).await;
    let signal = died.unwrap_or_else(|_| panic!("the crash point was not reached: {}", log.display()));
    assert_eq!((signal, server.hits()), (Some(9), 1), "it died of the fault");
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
