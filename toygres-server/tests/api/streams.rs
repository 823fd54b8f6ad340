//! Streams: nothing is missed, nothing doubled, nobody waits for the slowest, and all end with the server.

use crate::support::{api, connect, execute, owned, stub, token};
use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use toygres_testing::{StubPlatform, TestPostgres, TestServer, TestServerOptions, wait_for};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// One message of a stream.
#[derive(Debug, Default, Clone, PartialEq)]
struct Message {
    name: String,
    id: String,
    data: String,
    comment: Option<String>,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// A listener to server-sent events.
struct Listener {
    answer: Response,
    buffer: String,
}

impl Listener {
    async fn open(server: &TestServer, path: &str, last: Option<&str>) -> Self {
        let request = server.request(Method::GET, path);
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Self {
            answer,
            buffer: String::new(),
        }
    }

    /// The next message or comment; none at the end.
    async fn any(&mut self) -> Option<Message> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let message = parse(block);
                self.buffer = rest.to_owned();
                return Some(message);
            }
            let chunk = self.answer.chunk().await;
            self.buffer += std::str::from_utf8(&chunk.ok()??).unwrap();
        }
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Message> {
        let told = async {
            loop {
                let message = self.any().await?;
                if !message.name.is_empty() {
                    return Some(message);
                }
            }
        };
        tokio::time::timeout(PATIENCE, told)
            .await
            .expect("the stream tells something")
    }
}

fn parse(block: &str) -> Message {
    let mut message = Message::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap();
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "" => message.comment = Some(value),
            "event" => message.name = value,
            "id" => message.id = value,
            "data" => message.data += &value,
            "retry" => {}
            other => panic!("{other} is no field of an event"),
        }
    }
    message
}

/// The ids of all events there are.
async fn event_ids(server: &TestServer) -> Vec<i64> {
    sqlx::query_scalar("select id from cms.instance_events order by id")
        .fetch_all(&mut connect(server).await)
        .await
        .unwrap()
}

/// Listens until the event `end` writes is told, and comes back after every few.
async fn all_until(server: &TestServer, path: &str, every: usize, end: &str) -> Vec<i64> {
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let last = seen.last().map(ToString::to_string);
        let mut listener = Listener::open(server, path, last.as_deref().or(Some("0"))).await;
        for _ in 0..every {
            let Some(message) = listener.next().await else {
                break;
            };
            let event = message.json();
            assert_eq!(
                (message.name.as_str(), event["id"].to_string()),
                ("instance_event", message.id)
            );
            seen.push(event["id"].as_i64().unwrap());
            if event["message"] == end {
                return seen;
            }
        }
    }
}

/// Writes an event by hand.
async fn write_event(server: &TestServer, message: &str) {
    let sql = format!(
        "insert into cms.instance_events (instance_id, kind, message) \
         select id, 'alarm', '{message}' from cms.instances order by created_at limit 1"
    );
    execute(server, &sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_misses_and_doubles_nothing() {
    let (server, _) = stub(&[]).await;
    let work = async {
        let names: Vec<String> = (0..100).map(|n| format!("busy-{n}")).collect();
        let mut accepted = Vec::new();
        // No more than a busy machine answers before requests give up waiting for the database.
        for some in names.chunks(20) {
            accepted.extend(join_all(some.iter().map(|name| server.create(name, "busy-password"))).await);
        }
        for accepted in &accepted {
            server.ended(accepted).await;
        }
        write_event(&server, "the end").await;
    };
    let (few, many, patient, ()) = tokio::join!(
        all_until(&server, "/api/events", 3, "the end"),
        all_until(&server, "/api/events", 40, "the end"),
        all_until(&server, "/api/events", usize::MAX, "the end"),
        work
    );
    let all = event_ids(&server).await;
    assert!(all.len() > 200, "{}", all.len());
    assert_eq!(few, all);
    assert_eq!(many, all);
    assert_eq!(patient, all);

    // Also where it may go on by the address, and only from now on without either.
    let after = all[all.len() - 3];
    let mut listener = Listener::open(&server, &format!("/api/events?after={after}"), None).await;
    assert_eq!(listener.next().await.unwrap().id, all[all.len() - 2].to_string());
    let later = all[all.len() - 2].to_string();
    let mut listener = Listener::open(&server, &format!("/api/events?after={after}"), Some(&later)).await;
    assert_eq!(
        listener.next().await.unwrap().id,
        all[all.len() - 1].to_string(),
        "the header counts more"
    );
    let mut listener = Listener::open(&server, "/api/events", None).await;
    write_event(&server, "from now on").await;
    assert_eq!(listener.next().await.unwrap().json()["message"], "from now on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instances_events_and_no_others() {
    let server = api(&[]).await;
    let one = server.create("one", "event-password").await;
    server.create("two", "event-password").await;
    let id = one.instance.id.to_string();
    for name in ["one", id.as_str()] {
        let path = format!("/api/events?instance={name}");
        let mut listener = Listener::open(&server, &path, Some("0")).await;
        assert_eq!(listener.next().await.unwrap().json()["instance_name"], "one");
    }
    let mut listener = Listener::open(&server, "/api/events?instance=one", None).await;
    server.request_delete("two").await;
    server.request_delete("one").await;
    let event = listener.next().await.unwrap().json();
    assert_eq!(
        (&event["kind"], &event["instance_id"]),
        (&json!("delete_requested"), &json!(id))
    );
    assert_eq!(server.get("/api/events?instance=absent").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_says_that_it_lives() {
    let server = api(&[]).await;
    let begun = Instant::now();
    let mut listener = Listener::open(&server, "/api/events", None).await;
    let mut heartbeats = 0;
    while heartbeats < 2 {
        let message = listener.any().await.unwrap();
        heartbeats += usize::from(message.comment.as_deref() == Some("heartbeat"));
    }
    let elapsed = begun.elapsed();
    assert!(
        (Duration::from_secs(28)..Duration::from_secs(45)).contains(&elapsed),
        "{elapsed:?} for two of them"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_off_and_keeps_nobody_waiting() {
    let server = api(&[]).await;
    server.create("demo", "event-password").await;
    // A window this small is full at once.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut slow = socket.connect(address.parse().unwrap()).await.unwrap();
    let head = format!("GET /api/events?after=0 HTTP/1.0\r\nhost: {address}\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    // It has been served what there was: from now on it is told.
    let mut told = String::new();
    while !told.contains("create_requested") {
        let mut bytes = [0; 4096];
        let count = slow.read(&mut bytes).await.unwrap();
        assert!(count > 0, "{told}");
        told += std::str::from_utf8(&bytes[..count]).unwrap();
    }

    let flood = async {
        for _ in 0..40 {
            let sql = "insert into cms.instance_events (instance_id, kind, message) \
                       select id, 'alarm', repeat('x', 1000) from cms.instances, generate_series(1, 500)";
            execute(&server, sql).await;
        }
        write_event(&server, "the end").await;
    };
    let (quick, ()) = tokio::join!(all_until(&server, "/api/events", usize::MAX, "the end"), flood);
    let all = event_ids(&server).await;
    assert_eq!(quick, all, "who reads gets everything");

    // What the slow one was sent is whole, from the begin, and then it ends.
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest))
        .await
        .expect("the stream ends")
        .unwrap();
    told += std::str::from_utf8(&rest).unwrap();
    let ids: Vec<i64> = told
        .lines()
        .filter_map(|line| line.strip_prefix("id: ")?.parse().ok())
        .collect();
    assert!(ids.len() < all.len(), "it was not cut off");
    assert_eq!(ids, all[..ids.len()], "nothing is missing in between");
    let last = ids.last().unwrap();
    let path = format!("/api/events?after={last}");
    let mut listener = Listener::open(&server, &path, None).await;
    assert_eq!(
        listener.next().await.unwrap().id,
        all[ids.len()].to_string(),
        "and it goes on where it was"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_streams_than_may_be() {
    let server = api(&[("TOYGRES_MAX_STREAMS", "2")]).await;
    let accepted = server.create("demo", "event-password").await;
    let operation = format!("/api/operations/{}/events", accepted.operation.id);
    let one = Listener::open(&server, "/api/events", None).await;
    let two = Listener::open(&server, &operation, None).await;
    for path in [
        "/api/events",
        operation.as_str(),
        "/api/instances/demo/logs?follow=true",
    ] {
        let answer = server.request(Method::GET, path).send().await.unwrap();
        assert!(answer.headers().contains_key("retry-after"), "{path}");
        let (status, problem) = crate::support::problem(answer).await;
        assert_eq!(
            (status, &problem["code"]),
            (429, &json!("too_many_streams")),
            "{path}"
        );
    }
    assert_eq!(
        server.get("/api/server/stats").await.1["open_streams"],
        2,
        "all are counted"
    );
    assert_eq!(server.get("/api/instances").await.0, 200, "the rest goes on");
    drop(one);
    wait_for("the place to be free again", PATIENCE, || async {
        let answer = server.request(Method::GET, "/api/events").send().await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    drop(two);
    let all_are_free = || async {
        let (_, stats) = server.get("/api/server/stats").await;
        (stats["open_streams"] == 0).then_some(())
    };
    wait_for("all places to be free", PATIENCE, all_are_free).await;
    // One that is refused for another reason takes no place.
    for _ in 0..3 {
        assert_eq!(server.get("/api/operations/absent/events").await.0, 404);
    }
    wait_for("all places to be free again", PATIENCE, all_are_free).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let mut server = api(&[]).await;
    server.token = Some(token(&server, "admin", "admin", None).await);
    let text = token(&server, "reader", "read", None).await;
    let open = async |token: &str| {
        let request = server.request_as(Some(token), Method::GET, "/api/events");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Listener {
            answer,
            buffer: String::new(),
        }
    };
    let (mut refused, mut kept) = (open(&text).await, open(server.token.as_deref().unwrap()).await);
    let (status, _) = server.delete("/api/tokens/reader").await;
    assert_eq!(status, 200);
    let end = async { while refused.any().await.is_some() {} };
    tokio::time::timeout(PATIENCE, end)
        .await
        .expect("the stream of a revoked token ends");
    server.create("noted", "noted-password").await;
    write_event(&server, "still told").await;
    let told = async {
        loop {
            let message = kept.any().await.expect("the other stream goes on");
            if message.data.contains("still told") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_server() {
    let server = api(&[]).await;
    let accepted = server.create("demo", "event-password").await;
    let operation = format!("/api/operations/{}/events", accepted.operation.id);
    let mut events = Listener::open(&server, "/api/events?after=0", None).await;
    let mut steps = Listener::open(&server, &operation, None).await;
    assert!(events.next().await.is_some() && steps.next().await.is_some());
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!((events.next().await, steps.next().await), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_loses_no_event() {
    let server = api(&[]).await;
    server.create("demo", "event-password").await;
    let mut listener = Listener::open(&server, "/api/events", None).await;
    for round in 0..5 {
        // Now the one that listens alone, now all of the server's.
        let which = if round % 2 == 0 {
            "and query ilike 'listen%toygres_changes%'"
        } else {
            ""
        };
        let sql = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid() {which}"
        );
        let ended = wait_for("a connection to end", PATIENCE, || async {
            let mut connection = connect(&server).await;
            let ended: i64 = sqlx::query_scalar(&sql).fetch_one(&mut connection).await.unwrap();
            (ended > 0).then_some(ended)
        })
        .await;
        assert!(round % 2 == 1 || ended == 1, "{ended}");
        for n in 0..3 {
            write_event(&server, &format!("event {round}.{n}")).await;
        }
        for n in 0..3 {
            let event = listener.next().await.expect("the stream goes on").json();
            assert_eq!(event["message"], format!("event {round}.{n}"));
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_no_event() {
    let postgres = TestPostgres::start().await;
    let database_url = postgres.new_database().await;
    let options = TestServerOptions {
        database_url: Some(database_url.clone()),
        settings: owned(&[("TOYGRES_MODE", "api")]),
        platform: Some(StubPlatform::new(&database_url)),
        ..Default::default()
    };
    let server = TestServer::start_with(options).await;
    server.create("demo", "event-password").await;
    let mut listener = Listener::open(&server, "/api/events", None).await;
    write_event(&server, "before").await;
    assert_eq!(listener.next().await.unwrap().json()["message"], "before");
    for round in 0..2 {
        postgres.stop();
        wait_for("the server to notice", PATIENCE, || async {
            (server.get("/readyz").await.0 == 503).then_some(())
        })
        .await;
        postgres.restart().await;
        // Most likely before the server listens again.
        write_event(&server, &format!("after {round}")).await;
        let event = listener.next().await.expect("the stream goes on").json();
        assert_eq!(event["message"], format!("after {round}"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_told_step_by_step_until_its_end() {
    let (server, platform) = stub(&[]).await;
    platform.hold();
    let accepted = server.create("demo", "event-password").await;
    let path = format!("/api/operations/{}/events", accepted.operation.id);
    let waits = |operation: &Value| operation["steps"][1]["reason"] == "starting";
    let were_told = AtomicUsize::new(0);
    let listen = async |last: Option<String>| {
        let mut told: Vec<Message> = Vec::new();
        let mut listener = Listener::open(&server, &path, last.as_deref()).await;
        while let Some(message) = listener.next().await {
            assert_eq!(message.name, "operation");
            if waits(&message.json()) && !told.iter().any(|earlier| waits(&earlier.json())) {
                were_told.fetch_add(1, Ordering::SeqCst);
            }
            told.push(message);
        }
        told
    };
    let release = async {
        wait_for("the waiting to be told", PATIENCE, || async {
            (were_told.load(Ordering::SeqCst) == 3).then_some(())
        })
        .await;
        platform.release();
    };
    let (one, two, three, ()) = tokio::join!(listen(None), listen(None), listen(None), release);
    for told in [&one, &two, &three] {
        let states: Vec<Value> = told.iter().map(Message::json).collect();
        let last = states.last().unwrap();
        assert_eq!(last["state"], "succeeded");
        let steps: Vec<&Value> = last["steps"].as_array().unwrap().iter().collect();
        assert_eq!(steps.len(), 3);
        assert!(steps.iter().all(|step| step["state"] == "succeeded"));
        // It only goes forward, and is told only when it has changed.
        let done = |state: &Value| {
            let steps = state["steps"].as_array().unwrap();
            (
                steps.len(),
                steps.iter().filter(|step| step["state"] == "succeeded").count(),
            )
        };
        for pair in states.windows(2) {
            assert_ne!(pair[0], pair[1]);
            assert!(done(&pair[0]) <= done(&pair[1]), "{pair:?}");
        }
    }

    // Who knows the end already is told nothing more; who knows something older is told the end.
    let last = one.last().unwrap();
    assert_eq!(listen(Some(last.id.clone())).await, []);
    assert_eq!(listen(Some(one[0].id.clone())).await, std::slice::from_ref(last));
    assert_eq!(
        listen(Some("garbage".to_owned())).await,
        std::slice::from_ref(last)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_as_it_is_written_and_until_nothing_is_left() {
    let server = TestServer::start().await;
    let accepted = server.create("logged", "log-password").await;
    server.ended(&accepted).await;
    let url = server.connection("logged").await.connection_string;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut write = async |line: &str| {
        let sql = format!("do $$ begin raise log '{line}'; end $$");
        sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
    };
    write("a line before").await;
    let path = "/api/instances/logged/logs";
    wait_for("the line to be there", PATIENCE, || async {
        let (_, log) = server.get(path).await;
        log.as_str()?.contains("a line before").then_some(())
    })
    .await;
    let (_, one) = server.get(&format!("{path}?tail=1")).await;
    assert_eq!(one.as_str().unwrap().lines().count(), 1);

    let request = server.request(Method::GET, &format!("{path}?follow=true&tail=0"));
    let mut answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
    let mut followed = String::new();
    for n in 0..3 {
        let line = format!("line number {n}");
        write(&line).await;
        while !followed.contains(&line) {
            let chunk = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap();
            followed += std::str::from_utf8(&chunk.unwrap().expect("it goes on")).unwrap();
        }
    }
    assert!(!followed.contains("a line before"), "{followed}");
    assert!(!followed.contains("log-password"));
    drop(connection);
    let deletion = server.request_delete("logged").await;
    server.ended(&deletion).await;
    while let Some(chunk) = tokio::time::timeout(PATIENCE, answer.chunk())
        .await
        .unwrap()
        .unwrap()
    {
        followed += std::str::from_utf8(&chunk).unwrap();
    }
    server.stop().await;
}
