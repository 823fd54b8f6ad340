//! Storage is made once. What is missing or foreign afterwards is an alarm, never made anew.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::time::Duration;
use toygres_testing::{TestServer, wait_for};

const PASSWORD: &str = "storage-secret";

async fn until(server: &TestServer, name: &str, what: &str, condition: impl Fn(&serde_json::Value) -> bool) {
    wait_for(what, Duration::from_secs(90), || async {
        let (_, instance) = server.get(&format!("/api/instances/{name}")).await;
        condition(&instance).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_foreign_storage_are_alarms_and_pass_when_the_data_is_back() {
    let server = TestServer::start().await;
    let one = server.create("one", PASSWORD).await;
    let two = server.create("two", PASSWORD).await;
    server.ended(&one).await;
    server.ended(&two).await;
    let data = |accepted: &toygres_models::instances::InstanceAccepted| {
        let directory = format!("{}-{}", accepted.instance.name, accepted.instance.id.short());
        server.home.path().join("instances").join(directory).join("data")
    };
    let (data_one, data_two) = (data(&one), data(&two));
    let aside = server.home.path().join("aside");

    server.home.kill_servers();
    std::fs::rename(&data_one, &aside).unwrap();
    until(&server, "one", "the alarm for missing data", |instance| {
        instance["state"] == "degraded"
            && instance["state_reason"]
                .as_str()
                .is_some_and(|why| why.contains("data"))
    })
    .await;
    assert!(!data_one.exists(), "missing data was made anew");

    // The other instance's data in its place: that one is missing now, this one foreign.
    until(&server, "two", "the other one to be repaired", |instance| {
        instance["health_status"] == "healthy"
    })
    .await;
    server.home.kill_servers();
    std::fs::rename(&data_two, &data_one).unwrap();
    until(&server, "two", "the alarm of the robbed one", |instance| {
        instance["state"] == "degraded"
    })
    .await;
    until(&server, "one", "the alarm for foreign data", |instance| {
        instance["state"] == "degraded"
            && instance["state_reason"]
                .as_str()
                .is_some_and(|why| why.contains("not"))
    })
    .await;
    let (_, events) = server.get("/api/instances/one/events").await;
    assert!(
        events
            .as_array()
            .is_some_and(|all| all.iter().any(|event| event["kind"] == "alarm")),
        "{events}"
    );

    std::fs::rename(&data_one, &data_two).unwrap();
    std::fs::rename(&aside, &data_one).unwrap();
    for name in ["one", "two"] {
        until(&server, name, "it to run again", |instance| {
            instance["state"] == "running" && instance["health_status"] == "healthy"
        })
        .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failed_checks_in_a_row_make_it_unhealthy_and_one_good_one_healthy_again() {
    let server = TestServer::start().await;
    let accepted = server.create("shaky", PASSWORD).await;
    server.ended(&accepted).await;
    let directory = format!("shaky-{}", accepted.instance.id.short());
    let data = server.home.path().join("instances").join(directory).join("data");
    let aside = server.home.path().join("aside");
    std::fs::rename(&data, &aside).unwrap();
    server.home.kill_servers();
    until(&server, "shaky", "it to be unhealthy", |instance| {
        instance["health_status"] == "unhealthy"
    })
    .await;
    let (_, checks) = server.get("/api/instances/shaky/health").await;
    let newest: Vec<bool> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["healthy"] == true)
        .collect();
    assert_eq!(newest[..3], [false, false, false], "{checks}");
    std::fs::rename(&aside, &data).unwrap();
    until(&server, "shaky", "it to be healthy again", |instance| {
        instance["health_status"] == "healthy" && instance["state"] == "running"
    })
    .await;
    server.stop().await;
}
