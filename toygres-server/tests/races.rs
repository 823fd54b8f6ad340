//! Many at once: one name is one instance, one key is one instance.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use toygres_models::operations::OperationState;
use toygres_testing::{TestServer, wait_for};

/// Asks again for as long as others have all connections to the database.
async fn answered(request: RequestBuilder) -> Response {
    wait_for("an answer", Duration::from_secs(120), || async {
        let answer = request.try_clone().unwrap().send().await.unwrap();
        (answer.status() != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_with_one_key_make_one_instance() {
    let server = TestServer::start().await;
    let answers = join_all((0..100).map(|_| async {
        let request = server
            .request(Method::POST, "/api/instances")
            .header("idempotency-key", "the-one-key");
        let answer = answered(request.json(&json!({ "name": "once" }))).await;
        let replayed = answer.headers().contains_key("idempotency-replayed");
        (
            answer.status().as_u16(),
            replayed,
            answer.json::<Value>().await.unwrap(),
        )
    }))
    .await;
    assert!(answers.iter().all(|(status, ..)| *status == 202), "{answers:?}");
    let operations: BTreeSet<String> = answers
        .iter()
        .map(|(_, _, body)| body["operation"]["id"].to_string())
        .collect();
    assert_eq!(operations.len(), 1);
    assert_eq!(answers.iter().filter(|(_, replayed, _)| !replayed).count(), 1);
    // A password that was made is shown to the one who made it, and to no replay.
    assert_eq!(
        answers
            .iter()
            .filter(|(_, _, body)| body["password"].is_string())
            .count(),
        1
    );
    let (_, list) = server.get("/api/instances").await;
    assert_eq!(list.as_array().map(Vec::len), Some(1));

    let other = server
        .request(Method::POST, "/api/instances")
        .header("idempotency-key", "the-one-key");
    let answer = other.json(&json!({ "name": "other" })).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["code"],
        "idempotency_key_reused"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_for_one_name_make_one_instance_and_99_conflicts() {
    let server = TestServer::start().await;
    let body = json!({ "name": "contested" });
    let answers: Vec<(u16, Value)> = join_all((0..100).map(|_| async {
        let answer = answered(server.request(Method::POST, "/api/instances").json(&body)).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }))
    .await;
    let count = |code: u16| answers.iter().filter(|(status, _)| *status == code).count();
    assert_eq!((count(202), count(409)), (1, 99));
    assert!(
        answers
            .iter()
            .filter(|a| a.0 == 409)
            .all(|(_, problem)| problem["code"] == "name_taken")
    );

    let winner = answers
        .into_iter()
        .find(|(status, _)| *status == 202)
        .map(|(_, body)| body)
        .unwrap();
    let accepted = serde_json::from_value(winner).unwrap();
    assert_eq!(server.ended(&accepted).await.state, OperationState::Succeeded);
    let deletion = server.request_delete("contested").await;
    // While it goes, the name is not free, and the answer says why.
    let (status, problem) = server.post("/api/instances", &body).await;
    if status == 409 {
        assert_eq!(problem["code"], "name_being_deleted");
    }
    server.ended(&deletion).await;
    let (status, body) = server.post("/api/instances", &body).await;
    if status != 202 {
        assert_eq!(problem["code"], "name_being_deleted", "{body}");
    }
    server.stop().await;
}
