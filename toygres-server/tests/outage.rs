//! The control database goes away in the middle of work, and comes back.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};
use toygres_models::operations::OperationState;
use toygres_testing::{TestPostgres, TestServer, TestServerOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_for_ten_seconds_loses_nothing() {
    let database = TestPostgres::start().await;
    let database_url = Some(database.new_database().await);
    let server = TestServer::start_with(TestServerOptions {
        database_url,
        ..Default::default()
    })
    .await;
    let first = server.create("first", "outage-secret").await;
    assert_eq!(server.ended(&first).await.state, OperationState::Succeeded);
    let middle = server.create("middle", "outage-secret").await;

    database.crash();
    let gone = Instant::now();
    let (status, problem) = server.get("/api/instances").await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str()),
        (503, Some("database_unavailable")),
        "{problem}"
    );
    assert!(
        gone.elapsed() < Duration::from_secs(20),
        "an outage is said, not waited out: {:?}",
        gone.elapsed()
    );
    let (ready, _) = server.get("/readyz").await;
    assert_eq!(ready, 503);
    // The outage itself lasts ten seconds.
    tokio::time::sleep_until((gone + Duration::from_secs(10)).into()).await;
    database.restart().await;

    let operation = server.ended(&middle).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    let deletion = server.request_delete("first").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    server.stop().await;
}
