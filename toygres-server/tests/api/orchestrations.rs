//! The engine and the server, as operators see and mend them.

use crate::support::{execute, logs, refused, stub, tables_with};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::Duration;
use toygres_engine::{Engine, EngineConfig};
use toygres_models::operations::OperationState;
use toygres_models::{InstanceId, Secret};
use toygres_platform::{InstanceRef, Platform};
use toygres_testing::{TestServer, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
const LIST: &str = "/api/server/orchestrations";
const CANARY: &str = "canary-of-the-history";

fn ids(list: &Value) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

async fn post(server: &TestServer, path: &str, body: Value) -> (u16, Value) {
    let (status, answer) = server.post(path, &body).await;
    (status.as_u16(), answer)
}

/// Keeps the sweeper from doing it first.
async fn stop_sweeper(server: &TestServer) {
    execute(
        server,
        "insert into cms.leases (name, holder, expires_at) \
         values ('sweeper', gen_random_uuid(), now() + interval '1 hour') \
         on conflict (name) do update set holder = excluded.holder, expires_at = excluded.expires_at",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_listed_and_shown_without_secrets() {
    let (server, platform) = stub(&[]).await;
    let one = server.create("one", CANARY).await;
    let two = server.create("two", CANARY).await;
    for accepted in [&one, &two] {
        server.ended(accepted).await;
    }
    platform.refuse();
    let failing = server.create("fails", CANARY).await;
    assert_eq!(server.ended(&failing).await.state, OperationState::Failed);
    let actor = format!("actor-{}-1", one.instance.id);
    let work = format!("create-instance-{}", one.operation.id);
    let list = async |query: &str| {
        let (status, list) = server.get(&format!("{LIST}?{query}")).await;
        assert_eq!(status, 200, "{query}: {list}");
        list
    };

    let running = wait_for("the failed one's actor to end", PATIENCE, || async {
        let running = ids(&list("status=running&name=instance-actor").await);
        (running.len() == 2).then_some(running)
    })
    .await;
    assert!(running.contains(&actor), "{running:?}");
    for query in ["instance=one".to_owned(), format!("instance={}", one.instance.id)] {
        let of_one = list(&query).await;
        assert!(ids(&of_one).contains(&actor), "{query}: {of_one}");
        assert!(
            of_one
                .as_array()
                .unwrap()
                .iter()
                .all(|it| it["instance_id"] == one.instance.id.to_string()),
            "{of_one}"
        );
    }
    assert_eq!(
        ids(&list(&format!("prefix={actor}")).await),
        std::slice::from_ref(&actor)
    );
    let created = list(&format!("prefix={work}")).await;
    assert_eq!(created[0]["name"], "create-instance");
    assert_eq!(created[0]["parent_id"], actor);
    assert_eq!(list("name=no-such-thing").await, json!([]));
    assert_eq!(list("prefix=%25").await, json!([]), "a character as any other");
    assert_eq!(server.get(&format!("{LIST}?instance=absent")).await.0, 404);

    // Page by page the same as at once.
    let whole = ids(&list("limit=1000").await);
    assert!(whole.len() >= 6, "{whole:?}");
    let mut paged = Vec::new();
    let mut path = format!("{LIST}?limit=2");
    loop {
        let answer = server.request(Method::GET, &path).send().await.unwrap();
        let link = answer
            .headers()
            .get("link")
            .map(|it| it.to_str().unwrap().to_owned());
        paged.extend(ids(&answer.json().await.unwrap()));
        let Some(link) = link else { break };
        path = link
            .strip_prefix('<')
            .unwrap()
            .split_once('>')
            .unwrap()
            .0
            .to_owned();
    }
    assert_eq!(paged, whole);

    let (_, details) = server.get(&format!("{LIST}/{actor}")).await;
    assert_eq!(details["orchestration"]["id"], actor);
    assert_eq!(details["tree"]["id"], actor);
    let children = ids(&details["tree"]["children"]);
    assert!(children.iter().any(|id| id.starts_with(&work)), "{details}");
    assert!(!details["executions"].as_array().unwrap().is_empty());
    assert_eq!(server.get(&format!("{LIST}/absent")).await.0, 404);
    assert_eq!(server.get(&format!("{LIST}/absent/history")).await.0, 404);

    // Nothing that is shown of any of them holds a password, nor does what is stored.
    for id in &whole {
        for path in [format!("{LIST}/{id}"), format!("{LIST}/{id}/history?limit=1000")] {
            let (status, shown) = server.get(&path).await;
            assert_eq!(status, 200, "{path}: {shown}");
            assert!(!shown.to_string().contains("canary"), "{path}");
        }
    }
    assert_eq!(tables_with(&server, "canary").await, Vec::<String>::new());
    assert!(!logs().contains(CANARY));

    let history = async |query: &str| {
        server
            .get(&format!(
                "{LIST}/{}/history?{query}",
                created[0]["id"].as_str().unwrap()
            ))
            .await
            .1
    };
    let events = history("limit=1000").await;
    let events = events.as_array().unwrap();
    let numbers: Vec<i64> = events.iter().map(|it| it["event_id"].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() > 4, "{numbers:?}");
    let called: Vec<&str> = events
        .iter()
        .filter(|event| event["kind"] == "activity_scheduled")
        .filter_map(|event| event["name"].as_str())
        .collect();
    assert!(called.contains(&"deploy-postgres"), "{called:?}");
    let rest = history(&format!("after={}&limit=2", numbers[1])).await;
    assert_eq!(rest, json!(events[2..4]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_can_be_cancelled_and_woken_and_an_actor_only_woken() {
    let (server, platform) = stub(&[]).await;
    platform.hold();
    let accepted = server.create("held", "cancel-password").await;
    let actor = format!("actor-{}-1", accepted.instance.id);
    let prefix = format!(
        "{LIST}?prefix=create-instance-{}&status=running",
        accepted.operation.id
    );
    let work = wait_for("the work to begin", PATIENCE, || async {
        ids(&server.get(&prefix).await.1).pop()
    })
    .await;

    let (status, problem) = post(&server, &format!("{LIST}/{actor}/cancel"), json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("actor_not_cancellable")));
    assert!(problem["hint"].as_str().unwrap().contains("delete the instance"));
    for id in ["absent", "create-instance-x"] {
        for (what, body) in [
            ("cancel", json!({})),
            ("raise-event", json!({ "name": "wake" })),
            ("recreate", json!({})),
        ] {
            let (status, problem) = post(&server, &format!("{LIST}/{id}/{what}"), body).await;
            assert_eq!(
                (status, &problem["code"]),
                (404, &json!("orchestration_not_found")),
                "{what} {id}"
            );
        }
    }
    for id in [&actor, &work] {
        let (status, told) = post(
            &server,
            &format!("{LIST}/{id}/raise-event"),
            json!({ "name": "wake" }),
        )
        .await;
        assert_eq!((status, &told["orchestration"]["id"]), (202, &json!(id)));
    }
    let (status, problem) = post(&server, &format!("{LIST}/{actor}/recreate"), json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("actor_alive")));

    let cancel = format!("{LIST}/{work}/cancel");
    let (status, _) = post(&server, &cancel, json!({ "reason": "ä".repeat(255) })).await;
    assert_eq!(status, 202);
    wait_for("it to have ended", PATIENCE, || async {
        let (_, details) = server.get(&format!("{LIST}/{work}")).await;
        (details["orchestration"]["status"] == "failed").then_some(())
    })
    .await;
    let (status, problem) = post(&server, &cancel, json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("orchestration_ended")));
    let (status, problem) = post(
        &server,
        &format!("{LIST}/{work}/raise-event"),
        json!({ "name": "wake" }),
    )
    .await;
    assert_eq!((status, &problem["code"]), (409, &json!("orchestration_ended")));

    // The actor takes away what was made, and the create can be tried again.
    let operation = server.ended(&accepted).await;
    assert_eq!(operation.state, OperationState::Failed);
    assert_eq!(operation.error.unwrap().code, "cancelled");
    assert_eq!(server.get("/api/instances/held").await.1["state"], "failed");
    assert_eq!(platform.list().await.unwrap(), []);
    platform.release();
    let path = format!("/api/operations/{}/retry", accepted.operation.id);
    let (status, retried) = post(&server, &path, json!({})).await;
    assert_eq!(status, 202, "{retried}");
    let retried = serde_json::from_value(retried).unwrap();
    assert_eq!(server.ended(&retried).await.state, OperationState::Succeeded);
    let deletion = server.request_delete("held").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    assert_eq!(platform.list().await.unwrap(), []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_actor_is_replaced_by_one_that_works() {
    let (server, platform) = stub(&[("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "1")]).await;
    let accepted = server.create("orphan", "actor-password").await;
    server.ended(&accepted).await;
    stop_sweeper(&server).await;
    let pool = PgPool::connect(&server.database_url).await.unwrap();
    let config = EngineConfig::new(Secret::new(server.database_url.clone()));
    let engine = Engine::connect(config, pool).await.unwrap();
    let actor = |incarnation: i64| format!("actor-{}-{incarnation}", accepted.instance.id);
    engine.client().cancel(&actor(1), "by the test").await.unwrap();
    wait_for("the actor to end", PATIENCE, || async {
        let (_, details) = server.get(&format!("{LIST}/{}", actor(1))).await;
        (details["orchestration"]["status"] == "failed").then_some(())
    })
    .await;

    let (status, body) = post(&server, &format!("{LIST}/{}/recreate", actor(1)), json!({})).await;
    assert_eq!((status, &body["id"]), (202, &json!(actor(2))));
    let (status, problem) = post(&server, &format!("{LIST}/{}/recreate", actor(1)), json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("actor_superseded")));
    wait_for("the new one to run", PATIENCE, || async {
        let (_, details) = server.get(&format!("{LIST}/{}", actor(2))).await;
        (details["orchestration"]["status"] == "running").then_some(())
    })
    .await;
    let (status, problem) = post(&server, &format!("{LIST}/{}/recreate", actor(2)), json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("actor_alive")));

    let checks = async || {
        let (_, checks) = server.get("/api/instances/orphan/health").await;
        checks.as_array().map_or(0, Vec::len)
    };
    let before = checks().await;
    wait_for("it to be watched again", PATIENCE, || async {
        (checks().await > before + 1).then_some(())
    })
    .await;
    let deletion = server.request_delete("orphan").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    assert_eq!(platform.list().await.unwrap(), []);
    let path = format!("{LIST}/{}/recreate", actor(2));
    let (status, _) = post(&server, &path, json!({})).await;
    assert_eq!(status, 409, "what is gone needs no actor");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is_and_does() {
    let key = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LTEyMzQ=";
    let (server, _) = stub(&[("TOYGRES_MASTER_KEY", key), ("TOYGRES_MAX_STREAMS", "77")]).await;
    let accepted = server.create("demo", "stats-password").await;
    server.ended(&accepted).await;

    let (_, config) = server.get("/api/server/config").await;
    let setting = |name: &str| {
        let settings = config.as_array().unwrap();
        let found = settings.iter().find(|setting| setting["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not shown"))
    };
    for secret in ["DATABASE_URL", "TOYGRES_MASTER_KEY"] {
        assert_eq!(setting(secret)["value"], "[redacted]");
        assert_eq!(setting(secret)["origin"], "environment");
    }
    assert!(!config.to_string().contains(key) && !config.to_string().contains(&server.database_url));
    assert_eq!(setting("TOYGRES_MAX_STREAMS")["value"], "77");
    assert_eq!(setting("TOYGRES_LISTEN")["origin"], "default");

    let workers = wait_for("a sign of life", PATIENCE, || async {
        let (_, workers) = server.get("/api/server/workers").await;
        (!workers.as_array()?.is_empty()).then_some(workers)
    })
    .await;
    assert_eq!(workers.as_array().unwrap().len(), 1);
    assert_eq!(
        (&workers[0]["pid"], &workers[0]["mode"]),
        (&json!(std::process::id()), &json!("all"))
    );
    assert!(workers[0]["orchestration_slots"].as_i64().unwrap() > 0);

    let (_, stats) = server.get("/api/server/stats").await;
    for (counts, expected) in [
        ("instances_by_state", "running"),
        ("operations_by_state", "succeeded"),
    ] {
        for count in stats[counts].as_array().unwrap() {
            let is_it = count["name"] == expected;
            assert_eq!(count["count"], i32::from(is_it), "{counts}: {count}");
        }
    }
    assert!(stats["engine"]["running"].as_i64().unwrap() >= 1, "{stats}");
    assert!(stats["resident_memory_bytes"].as_i64().unwrap() > 1_000_000);
    assert!(stats["database_connections"].as_i64().unwrap() >= 1);

    assert_eq!(server.get("/api/server/logs").await.1, json!([]));
    let lines = "{\"n\":1}\nno JSON\n{\"n\":2}\n{\"n\":3}\n";
    std::fs::write(server.home.path().join("server.log"), lines).unwrap();
    for (tail, expected) in [
        ("", json!([{ "n": 1 }, { "n": 2 }, { "n": 3 }])),
        ("?tail=1", json!([{ "n": 3 }])),
        ("?tail=0", json!([])),
    ] {
        assert_eq!(
            server.get(&format!("/api/server/logs{tail}")).await.1,
            expected,
            "{tail}"
        );
    }

    let (_, flows) = server.get("/api/server/orchestration-flows").await;
    for flow in flows.as_array().unwrap() {
        let path = format!(
            "/api/server/orchestration-flows/{}",
            flow["name"].as_str().unwrap()
        );
        assert_eq!(&server.get(&path).await.1, flow);
    }
    let absent = server.request(Method::GET, "/api/server/orchestration-flows/absent");
    assert_eq!(refused(absent).await, (404, "flow_not_found".to_owned()));

    for (path, checks) in [("/livez", 1), ("/readyz", 4)] {
        let (status, probe) = server.get(path).await;
        assert_eq!((status.as_u16(), &probe["ok"]), (200, &json!(true)));
        assert_eq!(probe["checks"].as_array().unwrap().len(), checks, "{probe}");
    }
    assert_eq!(server.get("/health").await.1["status"], "healthy");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_removed_only_when_told_so() {
    let (server, platform) = stub(&[]).await;
    let known = server.create("known", "drift-password").await;
    server.ended(&known).await;
    let stranger = InstanceRef {
        id: InstanceId::generate(),
        name: "stranger".parse().unwrap(),
        namespace: None,
    };
    platform.put(stranger.clone());
    let drift = async || server.get("/api/server/drift").await.1;
    let found = wait_for("it to be found", PATIENCE, || async {
        Some(drift().await[0].clone()).filter(|found| !found.is_null())
    })
    .await;
    assert_eq!(found["kind"], "unknown_object");
    assert_eq!(found["object"], stranger.object_name());
    assert_eq!(found["fixable"], true);
    assert_eq!(platform.list().await.unwrap().len(), 2, "and left alone");

    stop_sweeper(&server).await;
    execute(
        &server,
        "insert into cms.drift_findings (source, kind, object, message) \
         values ('actor', 'storage_missing', 'known', 'its data is gone'); \
         insert into cms.drift_findings (source, kind, object, instance_id, message) \
         select 'sweep', 'unknown_object', name, id, 'it has got a row since' from cms.instances",
    )
    .await;
    let all = drift().await;
    let fix = async |id: i64| post(&server, &format!("/api/server/drift/{id}/fix"), json!({})).await;
    for (message, code) in [
        ("its data is gone", "drift_not_fixable"),
        ("it has got a row since", "drift_resolved"),
    ] {
        let found = all.as_array().unwrap().iter().find(|it| it["message"] == message);
        let (status, problem) = fix(found.unwrap()["id"].as_i64().unwrap()).await;
        assert_eq!((status, &problem["code"]), (409, &json!(code)));
    }
    let (status, problem) = fix(1_000_000).await;
    assert_eq!((status, &problem["code"]), (404, &json!("drift_not_found")));

    let number = found["id"].as_i64().unwrap();
    let (status, fixed) = fix(number).await;
    assert_eq!((status, &fixed["object"]), (200, &found["object"]));
    let left = platform.list().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        left[0].instance.id, known.instance.id,
        "the known one is untouched"
    );
    assert_eq!(fix(number).await.0, 404, "once is enough");
    assert!(!drift().await.to_string().contains("stranger"));
    server.stop().await;
}
