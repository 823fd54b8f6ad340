//! Instances in lists, in the hands of many editors, many at once, and once more.

use crate::support::{api, execute, refused, stub, token};
use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use toygres_models::operations::OperationState;
use toygres_testing::TestServer;

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}

/// Where the next page is (RFC 8288).
fn next(answer: &Response) -> Option<String> {
    let link = answer.headers().get("link")?.to_str().unwrap();
    let path = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(path.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter() {
    let server = api(&[]).await;
    for (name, owner, tags) in [
        ("web-1", "alice", json!({ "team": "web", "tier": "1" })),
        ("web-2", "alice", json!({ "team": "web" })),
        ("wxb-1", "bob", json!({ "team": "data", "a/b": "c=d" })),
        ("gone", "bob", json!({})),
    ] {
        let body = json!({ "name": name, "user_name": owner, "tags": tags });
        assert_eq!(server.post("/api/instances", &body).await.0, 202);
    }
    execute(
        &server,
        "update cms.instances set state = 'running', health_status = 'healthy' where name = 'web-1'; \
         update cms.instances set state = 'degraded', health_status = 'unhealthy' where name = 'web-2'; \
         update cms.instances set state = 'deleted', desired_state = 'deleted', deleted_at = now() where name = 'gone'",
    )
    .await;
    for (query, expected) in [
        ("", vec!["web-1", "web-2", "wxb-1"]),
        ("state=running", vec!["web-1"]),
        ("state=creating", vec!["wxb-1"]),
        ("state=deleted", vec!["gone"]),
        ("state=failed", vec![]),
        ("health=healthy", vec!["web-1"]),
        ("health=unhealthy", vec!["web-2"]),
        ("health=unknown", vec!["wxb-1"]),
        ("user_name=alice", vec!["web-1", "web-2"]),
        ("user_name=nobody", vec![]),
        ("name=web-*", vec!["web-1", "web-2"]),
        ("name=w?b-1", vec!["web-1", "wxb-1"]),
        ("name=*1", vec!["web-1", "wxb-1"]),
        ("name=web", vec![]),
        // What is special to the database alone is a character as any other.
        ("name=w%25", vec![]),
        ("name=w_b-1", vec![]),
        ("name=%5C*", vec![]),
        ("tag=team", vec!["web-1", "web-2", "wxb-1"]),
        ("tag=team=web", vec!["web-1", "web-2"]),
        ("tag=team%3Dweb", vec!["web-1", "web-2"]),
        ("tag=a%2Fb=c=d", vec!["wxb-1"]),
        ("tag=team=", vec![]),
        ("tag=nothing", vec![]),
        (
            "tag=team=web&health=healthy&user_name=alice&name=w*&state=running",
            vec!["web-1"],
        ),
        ("state=running&health=unhealthy", vec![]),
    ] {
        let (status, list) = server.get(&format!("/api/instances?{query}")).await;
        assert_eq!((status.as_u16(), names(&list)), (200, expected), "{query}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_miss_and_double_nothing_while_rows_come_and_go() {
    let server = api(&[]).await;
    let bulk = json!({ "base_name": "row", "count": 25, "tags": { "a": "b c" } });
    server.post("/api/instances/bulk", &bulk).await;
    let mut path = "/api/instances?tag=a%3Db%20c&limit=10".to_owned();
    let mut seen: Vec<String> = Vec::new();
    let mut pages = 0;
    loop {
        let answer = server.request(Method::GET, &path).send().await.unwrap();
        let link = next(&answer);
        let page: Value = answer.json().await.unwrap();
        let here: Vec<String> = names(&page).into_iter().map(str::to_owned).collect();
        pages += 1;
        // Whoever was at the end of the page goes, and with it whoever was at its begin; others come.
        for gone in [here.first(), here.last()].into_iter().flatten() {
            let sql = format!(
                "update cms.instances set state = 'deleted', desired_state = 'deleted', deleted_at = now() \
                 where name = '{gone}'"
            );
            execute(&server, &sql).await;
        }
        server
            .post(
                "/api/instances",
                &json!({ "name": format!("new-{pages}"), "tags": { "a": "b c" } }),
            )
            .await;
        seen.extend(here);
        match link {
            Some(link) => path = link,
            None => break,
        }
    }
    let expected: Vec<String> = (1..=25)
        .map(|n| format!("row-{n}"))
        .chain((1..pages).map(|n| format!("new-{n}")))
        .collect();
    assert_eq!((pages, seen), (3, expected));

    // The other lists that come in pages, newest first.
    for list in ["/api/operations", "/api/audit"] {
        let (_, whole) = server.get(&format!("{list}?limit=1000")).await;
        let whole = whole.as_array().unwrap();
        let mut path = format!("{list}?limit=9");
        let mut rows: Vec<Value> = Vec::new();
        loop {
            let answer = server.request(Method::GET, &path).send().await.unwrap();
            let link = next(&answer);
            let page: Value = answer.json().await.unwrap();
            assert!(page.as_array().unwrap().len() <= 9);
            rows.extend(page.as_array().unwrap().iter().cloned());
            match link {
                Some(link) => path = link,
                None => break,
            }
        }
        assert_eq!(whole, &rows, "{list}");
        assert!(rows.len() > 18, "{list} has three pages");
    }
    let refusal = refused(server.request(
        Method::GET,
        &format!("/api/instances?limit=1&cursor={}", uuid::Uuid::nil()),
    ))
    .await;
    assert_eq!(refusal, (422, "unknown_cursor".to_owned()));
    server.stop().await;
}

async fn entity_tag(server: &TestServer, path: &str) -> String {
    let answer = server.request(Method::GET, path).send().await.unwrap();
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

async fn patch(server: &TestServer, path: &str, tag: Option<&str>, body: Value) -> Response {
    let request = server.request(Method::PATCH, path).json(&body);
    let request = match tag {
        Some(tag) => request.header("if-match", tag),
        None => request,
    };
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_editors_the_second_one_reads_again() {
    let server = api(&[]).await;
    server.create("demo", "editor-password").await;
    let path = "/api/instances/demo";
    let read = entity_tag(&server, path).await;
    let first = patch(&server, path, Some(&read), json!({ "tags": { "first": "1" } })).await;
    assert_eq!(first.status(), 200);
    let now = first.headers()["etag"].to_str().unwrap().to_owned();
    assert_ne!(read, now);
    assert_eq!(now, entity_tag(&server, path).await, "the same as who reads gets");
    let second = patch(&server, path, Some(&read), json!({ "tags": { "second": "2" } })).await;
    assert_eq!(second.status(), 412);
    let (_, instance) = server.get(path).await;
    assert_eq!(instance["tags"], json!({ "first": "1" }));
    for tags in [now.clone(), "*".to_owned(), format!("\"other\", {now}")] {
        let same = patch(&server, path, Some(&tags), json!({ "tags": { "first": "1" } })).await;
        assert_eq!(same.status(), 200, "{tags}");
    }

    let get = |tag: &str| {
        let request = server.request(Method::GET, path);
        request.header("if-none-match", tag).send()
    };
    for tag in [now.as_str(), "*", &format!("\"x\", {now}")] {
        let answer = get(tag).await.unwrap();
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["etag"].to_str().unwrap()
            ),
            (304, now.as_str())
        );
        assert_eq!(answer.text().await.unwrap(), "");
    }
    patch(&server, path, None, json!({ "deletion_protection": true })).await;
    assert_eq!(get(&now).await.unwrap().status(), 200, "it has changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_editors_one_wins_each_round_and_nothing_is_lost() {
    let server = api(&[]).await;
    server.create("demo", "editor-password").await;
    let path = "/api/instances/demo";
    let mut won = BTreeSet::new();
    for round in 0..8 {
        let tag = entity_tag(&server, path).await;
        let answers = join_all((0..12).map(|editor| {
            let (server, tag) = (&server, &tag);
            async move {
                let key = format!("r{round}-e{editor}");
                let mut tags = json!({});
                tags[&key] = json!("x");
                (
                    key,
                    patch(server, path, Some(tag), json!({ "tags": tags }))
                        .await
                        .status(),
                )
            }
        }))
        .await;
        let winners: Vec<&String> = answers
            .iter()
            .filter(|(_, status)| *status == 200)
            .map(|(key, _)| key)
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {answers:?}");
        assert!(answers.iter().all(|(_, s)| *s == 200 || *s == 412), "{answers:?}");
        won.insert(winners[0].clone());
    }
    let (_, instance) = server.get(path).await;
    let there: BTreeSet<String> = instance["tags"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(there, won);

    // Who does not care what there was merges all the same.
    server.create("merged", "editor-password").await;
    let answers = join_all((0..20).map(|editor| {
        let mut tags = json!({});
        tags[format!("e{editor}")] = json!("x");
        patch(&server, "/api/instances/merged", None, json!({ "tags": tags }))
    }))
    .await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    let (_, instance) = server.get("/api/instances/merged").await;
    assert_eq!(instance["tags"].as_object().unwrap().len(), 20);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_merged_and_protection_protects() {
    let server = api(&[]).await;
    let body = json!({ "name": "demo", "tags": { "keep": "1", "old": "2", "change": "3" }, "deletion_protection": true });
    assert_eq!(server.post("/api/instances", &body).await.0, 202);
    let path = "/api/instances/demo";
    let merged = patch(
        &server,
        path,
        None,
        json!({ "tags": { "old": null, "absent": null, "change": "4", "new": "5" } }),
    )
    .await;
    let merged: Value = merged.json().await.unwrap();
    assert_eq!(merged["tags"], json!({ "keep": "1", "change": "4", "new": "5" }));
    assert_eq!(
        merged["deletion_protection"], true,
        "what is absent stays as it is"
    );

    let mut many = json!({});
    for n in 0..30 {
        many[format!("k{n}")] = json!("x");
    }
    let full = patch(&server, path, None, json!({ "tags": many })).await;
    assert_eq!(full.status(), 422, "33 in all");
    many["keep"] = Value::Null;
    assert_eq!(
        patch(&server, path, None, json!({ "tags": many })).await.status(),
        200,
        "32 in all"
    );

    assert_eq!(
        refused(server.request(Method::DELETE, path)).await,
        (409, "deletion_protected".to_owned())
    );
    let (_, results) = server
        .post("/api/instances/bulk/delete", &json!({ "names": ["demo"] }))
        .await;
    assert_eq!(results[0]["problem"]["code"], "deletion_protected");
    assert_eq!(server.get(path).await.1["state"], "creating");
    patch(&server, path, None, json!({ "deletion_protection": false })).await;
    server.request_delete("demo").await;
    let late = patch(&server, path, None, json!({ "tags": {} })).await;
    assert_eq!(late.status(), 409, "what goes can't be changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_does_not_stop_the_others() {
    let server = api(&[]).await;
    server.create("many-2", "bulk-password").await;
    let bulk = |body: Value| {
        let request = server
            .request(Method::POST, "/api/instances/bulk")
            .header("idempotency-key", "the-bulk");
        async move {
            let answer = request.json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.json::<Value>().await.unwrap()
        }
    };
    let body = json!({ "base_name": "many", "count": 4, "storage_size_gb": 3 });
    let first = bulk(body.clone()).await;
    let statuses: Vec<_> = first.as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [202, 409, 202, 202]);
    assert_eq!(names(&first), ["many-1", "many-2", "many-3", "many-4"]);
    assert_eq!(first[1]["problem"]["code"], "name_taken");
    assert!(first[1]["accepted"].is_null());
    assert_eq!(first[0]["accepted"]["instance"]["storage_size_gb"], 3);
    let passwords: BTreeSet<&str> = [0, 2, 3]
        .map(|n: usize| first[n]["accepted"]["password"].as_str().unwrap())
        .into();
    assert_eq!(passwords.len(), 3, "each has one of its own");

    // Once more by the same key: the same operations, and no password again.
    let again = bulk(body).await;
    for n in [0, 2, 3] {
        let id = |results: &Value| results[n]["accepted"]["operation"]["id"].clone();
        assert_eq!(id(&again), id(&first));
        assert!(again[n]["accepted"]["password"].is_null());
    }
    let other = bulk(json!({ "base_name": "many", "count": 4 })).await;
    assert_eq!(other[0]["problem"]["code"], "idempotency_key_reused");
    let (_, list) = server.get("/api/instances").await;
    assert_eq!(list.as_array().unwrap().len(), 4);

    let delete = json!({ "names": ["many-1", "absent", "NO NAME", "many-3", "many-1"] });
    let (_, results) = server.post("/api/instances/bulk/delete", &delete).await;
    let statuses: Vec<_> = results.as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [202, 404, 404, 202, 202]);
    assert_eq!(
        results[0]["accepted"]["operation"]["id"], results[4]["accepted"]["operation"]["id"],
        "deleting twice is one deletion"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_platform_does_not_allow_is_refused_at_once() {
    let server = api(&[]).await;
    let one = json!({ "name": "demo", "namespace": "forbidden" });
    let many = json!({ "base_name": "demo", "count": 2, "namespace": "forbidden" });
    let (status, refusal) = server.post("/api/instances", &one).await;
    assert_eq!(
        (status.as_u16(), &refusal["code"]),
        (422, &json!("invalid_fields"))
    );
    assert_eq!(refusal["errors"][0]["field"], "namespace");
    let (_, results) = server.post("/api/instances/bulk", &many).await;
    for result in results.as_array().unwrap() {
        assert_eq!(result["status"], 422);
        assert_eq!(result["problem"]["errors"][0]["field"], "namespace");
    }
    let (_, list) = server.get("/api/instances").await;
    assert_eq!(list, json!([]), "nothing is written down");
    let allowed = json!({ "name": "demo", "namespace": "team-a" });
    assert_eq!(server.post("/api/instances", &allowed).await.0, 202);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_there_is_no_certificate_authority() {
    let server = api(&[]).await;
    let refusal = refused(server.request(Method::GET, "/api/certificate-authority")).await;
    assert_eq!(refusal, (404, "no_certificate_authority".to_owned()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_who_sends_it() {
    let mut server = api(&[]).await;
    server.token = Some(token(&server, "admin", "admin", None).await);
    let other = token(&server, "other", "write", None).await;
    let create = |token: &str, name: &str| {
        let request = server.request_as(Some(token), Method::POST, "/api/instances");
        let request = request.header("idempotency-key", "same");
        request.json(&json!({ "name": name })).send()
    };
    let admin = server.token.clone().unwrap();
    let mine = create(&admin, "mine").await.unwrap();
    assert_eq!(mine.status(), 202);
    let theirs = create(&other, "theirs").await.unwrap();
    assert_eq!(theirs.status(), 202);
    let theirs: Value = theirs.json().await.unwrap();
    assert_eq!(theirs["instance"]["name"], "theirs");
    let again = create(&admin, "mine").await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_however_many_ask_at_once() {
    let server = api(&[("TOYGRES_QUOTA_INSTANCES", "7")]).await;
    let set = async |owner: &str, limits: Value| {
        let request = server.request(Method::PUT, &format!("/api/quotas/{owner}"));
        let answer = request.json(&limits).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()
    };
    assert_eq!(set("few", json!({ "max_instances": 5 })).await["own"], true);
    set("small", json!({ "max_storage_gb": 30 })).await;
    for (owner, allowed) in [("few", 5), ("small", 3), ("usual", 7)] {
        let answers = join_all((0..20).map(|n| {
            let body = json!({ "name": format!("{owner}-{n}"), "user_name": owner });
            let server = &server;
            async move { server.post("/api/instances", &body).await }
        }))
        .await;
        let accepted = answers.iter().filter(|(status, _)| *status == 202).count();
        assert_eq!(accepted, allowed, "{owner}");
        for (status, problem) in answers.iter().filter(|(status, _)| *status != 202) {
            assert_eq!(
                (status.as_u16(), &problem["code"]),
                (403, &json!("quota_exceeded")),
                "{owner}"
            );
        }
    }
    let (_, quotas) = server.get("/api/quotas").await;
    let of = |owner: &str| {
        quotas
            .as_array()
            .unwrap()
            .iter()
            .find(|quota| quota["user_name"] == owner)
            .unwrap()
    };
    assert_eq!(
        (&of("few")["instances"], &of("few")["own"]),
        (&json!(5), &json!(true))
    );
    assert_eq!(of("small")["storage_gb"], 30);

    // One more by name, in bulk too, until there is room again.
    let bulk = json!({ "base_name": "few-more", "count": 2, "user_name": "few" });
    let (_, results) = server.post("/api/instances/bulk", &bulk).await;
    assert!(
        results
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["problem"]["code"] == "quota_exceeded")
    );
    set("few", json!({ "max_instances": 6 })).await;
    let (_, results) = server.post("/api/instances/bulk", &bulk).await;
    let statuses: Vec<_> = results.as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [202, 403]);
    assert_eq!(server.delete("/api/quotas/few").await.0, 204);
    let body = json!({ "name": "few-last", "user_name": "few" });
    assert_eq!(
        server.post("/api/instances", &body).await.0,
        202,
        "7 as for everybody"
    );
    assert_eq!(server.delete("/api/quotas/few").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_done_again_with_its_password() {
    let (server, platform) = stub(&[]).await;
    platform.refuse();
    let (_, body) = server
        .post(
            "/api/instances",
            &json!({ "name": "phoenix", "tags": { "a": "b" } }),
        )
        .await;
    let password = body["password"].as_str().unwrap().to_owned();
    let failed: toygres_models::instances::InstanceAccepted = serde_json::from_value(body).unwrap();
    let operation = server.ended(&failed).await;
    assert_eq!(operation.state, OperationState::Failed);
    assert_eq!(operation.error.unwrap().code, "stub_refuses");

    let retry = async |id: &str| {
        let request = server.request(Method::POST, &format!("/api/operations/{id}/retry"));
        let answer = request.send().await.unwrap();
        let location = answer.headers().get("location").cloned();
        let status = answer.status().as_u16();
        (status, location, answer.json::<Value>().await.unwrap())
    };
    // Also many who ask at once make one attempt.
    platform.hold();
    let id = failed.operation.id.to_string();
    let answers = join_all((0..8).map(|_| retry(&id))).await;
    let accepted: Vec<_> = answers.iter().filter(|(status, ..)| *status == 202).collect();
    assert_eq!(accepted.len(), 1, "{answers:?}");
    for (status, _, problem) in answers.iter().filter(|(status, ..)| *status != 202) {
        assert_eq!((*status, &problem["code"]), (409, &json!("operation_superseded")));
    }
    let (_, location, body) = accepted[0];
    assert!(body["password"].is_null(), "it is not shown again");
    let retried: toygres_models::instances::InstanceAccepted = serde_json::from_value(body.clone()).unwrap();
    assert_ne!(retried.operation.id, failed.operation.id);
    assert_eq!(retried.instance.id, failed.instance.id);
    assert_eq!(
        location.as_ref().unwrap().to_str().unwrap(),
        format!("/api/operations/{}", retried.operation.id)
    );
    platform.release();
    assert_eq!(server.ended(&retried).await.state, OperationState::Succeeded);
    assert_eq!(server.connection("phoenix").await.password, Some(password));
    assert_eq!(
        server.get("/api/instances/phoenix").await.1["tags"],
        json!({ "a": "b" })
    );

    for (operation, code) in [
        (&retried, "operation_not_failed"),
        (&failed, "operation_superseded"),
    ] {
        let (status, _, problem) = retry(&operation.operation.id.to_string()).await;
        assert_eq!((status, &problem["code"]), (409, &json!(code)));
    }
    server.stop().await;
}
