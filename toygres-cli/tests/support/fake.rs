//! A whole API with fixed answers. What goes wrong is decided by names: `missing`, `taken`, `slow` and so on.

use super::canned::{
    INSTANCE_ID, OPERATION_ID, accepted, certificate, connection, instance, operation, problem,
    secure_connection, secure_instance, step,
};
use super::{Api, Reply, Request, event};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

const AT: &str = "2024-05-01T10:00:00Z";
const ACTOR_ID: &str = "actor-6f2c4b8e-0000-4000-8000-000000000001-1";

fn ago(seconds: i64) -> Value {
    json!(Utc::now() - TimeDelta::seconds(seconds))
}

pub(crate) fn start() -> Api {
    let mut busy = 0;
    Api::start(move |request| {
        let (method, target) = request.line.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Some(refused) = refused(request, method) {
            return refused;
        }
        if query.contains("name=busy")
            || (query.contains("name=once") && std::mem::replace(&mut busy, 1) == 0)
        {
            let body = json!({"type": "about:blank", "title": "-", "status": 429, "detail": "too many requests", "code": "rate_limited", "trace_id": "-"});
            return Reply::With(
                429,
                "retry-after: 0\r\ncontent-type: application/problem+json",
                body,
            );
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["health"] => Reply::Json(200, json!({"status": "healthy", "version": "9.8.7"})),
            ["api", "certificate-authority"] => certificate(),
            ["api", "instances", rest @ ..] => instances(method, rest, query, request),
            ["api", "operations", rest @ ..] => operations(method, rest),
            ["api", "events"] => Reply::stream(
                "text/event-stream",
                [event(
                    "instance_event",
                    3,
                    &happened(3, "state_changed", "running"),
                )],
            ),
            ["api", "tokens" | "quotas" | "audit", ..] => access(method, &parts[1..]),
            ["api", "server", rest @ ..] => server(method, rest, query),
            _ => not_found(),
        }
    })
}

fn not_found() -> Reply {
    problem(404, "route_not_found", "there is nothing at this path")
}

fn without_hint(status: u16, code: &str, detail: &str) -> Reply {
    let problem = json!({"type": "about:blank", "title": "-", "status": status, "detail": detail, "code": code, "trace_id": "-"});
    Reply::Json(status, problem)
}

fn refused(request: &Request, method: &str) -> Option<Reply> {
    match request.header("authorization") {
        None if request.line.contains("locked") => Some(without_hint(
            401,
            "token_required",
            "this server answers to those with a token only",
        )),
        Some("Bearer wrong") => Some(without_hint(401, "token_invalid", "the token is not valid")),
        Some("Bearer reader") if method != "GET" => Some(without_hint(
            403,
            "scope_too_small",
            "the token allows to read only",
        )),
        _ => None,
    }
}

fn instances(method: &str, rest: &[&str], query: &str, request: &Request) -> Reply {
    let body = || serde_json::from_str::<Value>(&request.body).unwrap();
    match (method, rest) {
        ("GET", []) if query.contains("name=none") => Reply::Json(200, json!([])),
        ("GET", []) if query.contains("name=sec") => {
            Reply::Json(200, json!([secure_instance(), instance("shop")]))
        }
        ("GET", []) => Reply::Json(200, json!([instance("demo"), instance("shop")])),
        ("POST", []) if body()["name"] == "taken" => {
            problem(409, "name_in_use", "an instance named taken already exists")
        }
        ("POST", []) => accepted("create", Some("made-by-server")),
        ("POST", ["bulk"]) => Reply::Json(200, bulk(&["test-1", "test-2"], "create")),
        ("POST", ["bulk", "delete"]) => Reply::Json(200, bulk(&["test-1", "test-2"], "delete")),
        (_, ["missing" | "shoq", ..]) => without_hint(404, "instance_not_found", "there is no such instance"),
        (_, ["nodb", ..]) => problem(
            503,
            "database_unavailable",
            "the control database does not answer",
        ),
        (_, ["slow", ..]) => {
            let (sender, receiver) = std::sync::mpsc::channel();
            // It never ends.
            std::mem::forget(sender);
            Reply::Stream("application/json", receiver)
        }
        ("DELETE", ["guarded"]) => problem(409, "deletion_protected", "guarded refuses deletion"),
        ("DELETE", [_]) => accepted("delete", None),
        ("GET", ["secure"]) => Reply::Json(200, secure_instance()),
        ("GET", ["secure", "connection"]) => secure_connection(),
        ("GET", [_]) => Reply::With(
            200,
            "etag: \"7\"\r\ncontent-type: application/json",
            instance("demo"),
        ),
        ("PATCH", ["changed"]) => without_hint(
            412,
            "changed_meanwhile",
            "changed is not as it was when you looked at it",
        ),
        ("PATCH", [_]) => {
            assert_eq!(request.header("if-match"), Some("\"7\""));
            Reply::Json(200, instance("demo"))
        }
        ("GET", [_, "connection"]) => connection(query.contains("reveal=true").then_some("secret")),
        ("GET", [_, "events"]) => Reply::Json(
            200,
            json!([
                happened(1, "created", "asked for"),
                happened(2, "state_changed", "creating")
            ]),
        ),
        ("GET", [_, "health"]) => Reply::Json(
            200,
            json!([
                {"checked_at": AT, "healthy": true, "response_time_ms": 1.25, "server_version": "17.2", "error_code": null, "error_message": null},
                {"checked_at": AT, "healthy": false, "response_time_ms": null, "server_version": null,
                 "error_code": "connection_refused", "error_message": "nothing listens"},
            ]),
        ),
        ("GET", [_, "logs"]) => Reply::stream("text/plain", ["starting\nre".to_owned(), "ady\n".to_owned()]),
        _ => not_found(),
    }
}

fn bulk(names: &[&str], kind: &str) -> Value {
    let good = |name: &str| {
        let mut accepted =
            json!({"instance": instance(name), "operation": operation(kind, "pending", vec![], Value::Null)});
        if kind == "create" {
            accepted["password"] = json!(format!("password-of-{name}"));
        }
        json!({"name": name, "status": 202, "accepted": accepted})
    };
    let problem = json!({"type": "about:blank", "title": "-", "status": 409, "detail": "test-2 is taken", "code": "name_in_use", "trace_id": "-"});
    json!([good(names[0]), {"name": names[1], "status": 409, "problem": problem}])
}

fn happened(id: i64, kind: &str, message: &str) -> Value {
    json!({
        "id": id, "instance_id": INSTANCE_ID, "instance_name": "demo", "user_name": "default", "operation_id": null,
        "kind": kind, "message": message, "created_at": AT,
    })
}

fn operations(method: &str, rest: &[&str]) -> Reply {
    let done = || {
        let mut done = operation(
            "create",
            "succeeded",
            vec![step("deploy-postgres", "succeeded", false)],
            Value::Null,
        );
        done["requested_at"] = ago(300);
        done
    };
    match (method, rest) {
        ("GET", []) => Reply::Json(200, json!([done()])),
        ("GET", [id]) if *id == OPERATION_ID => Reply::Json(200, done()),
        ("GET", [_, "events"]) => {
            let begun = vec![step("deploy-postgres", "running", true)];
            let begun = operation("create", "running", begun, Value::Null);
            let events = [event("operation", 1, &begun), event("operation", 2, &done())];
            Reply::stream("text/event-stream", events)
        }
        ("POST", [_, "retry"]) => accepted("create", None),
        _ => problem(404, "operation_not_found", "there is no such operation"),
    }
}

fn access(method: &str, rest: &[&str]) -> Reply {
    let token = |name: &str, revoked: bool| {
        json!({
            "id": OPERATION_ID, "name": name, "scope": "write", "user_name": null, "created_at": AT, "expires_at": null,
            "last_used_at": ago(300), "revoked_at": revoked.then_some(AT),
        })
    };
    let quota = |name: &str| {
        json!({
            "user_name": name, "limits": {"max_instances": 10, "max_storage_gb": null}, "own": true,
            "instances": 2, "storage_gb": 20,
        })
    };
    match (method, rest) {
        ("GET", ["tokens"]) => Reply::Json(200, json!([token("ci", false), token("old", true)])),
        ("POST", ["tokens"]) => Reply::Json(
            201,
            json!({"token": token("ci", false), "text": "tgr_shown-once"}),
        ),
        ("DELETE", ["tokens", "ci"]) => Reply::Json(200, token("ci", true)),
        ("GET", ["quotas"]) => Reply::Json(200, json!([quota("default"), quota("web")])),
        ("PUT", ["quotas", name]) => Reply::Json(200, quota(name)),
        ("DELETE", ["quotas", _]) => Reply::Empty(204),
        ("GET", ["audit"]) => Reply::Json(
            200,
            json!([{
                "id": 1, "actor": "token:ci", "action": "create_instance", "instance_id": INSTANCE_ID,
                "operation_id": OPERATION_ID, "object": null, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "created_at": AT,
            }]),
        ),
        _ => problem(404, "token_not_found", "there is no such token"),
    }
}

fn server(method: &str, rest: &[&str], query: &str) -> Reply {
    let drift = |id: i64, fixable: bool| {
        json!({
            "id": id, "kind": "unknown_directory", "object": format!("/data/lost-{id}"), "instance_id": null,
            "message": "nobody knows it", "fixable": fixable, "remedy": "remove it by hand", "host": null,
            "first_seen_at": AT, "last_seen_at": "2024-05-01T11:00:00Z",
        })
    };
    match (method, rest) {
        ("GET", ["stats"]) => Reply::Json(
            200,
            json!({
                "version": "9.8.7", "uptime_seconds": 4000.5, "resident_memory_bytes": 50_000_000,
                "instances_by_state": [{"name": "running", "count": 3}, {"name": "failed", "count": 1}],
                "instances_by_health": [], "operations_by_state": [{"name": "succeeded", "count": 4}],
                "engine": {"running": 3, "completed": 4, "failed": 0, "orchestrator_queue": 0, "worker_queue": 1,
                           "timers": 3, "oldest_wait_seconds": 0.0, "history_rows": 120},
                "database_connections": 8, "database_connections_idle": 6, "open_streams": 1,
            }),
        ),
        ("GET", ["workers"]) => Reply::Json(
            200,
            json!([{
                "id": INSTANCE_ID, "host": "node-1", "pid": 42, "version": "9.8.7", "mode": "all", "started_at": ago(3965),
                "last_seen_at": ago(300), "orchestration_slots": 4, "activity_slots": 8, "activities_running": 1,
            }]),
        ),
        ("GET", ["config"]) => Reply::Json(
            200,
            json!([{"name": "TOYGRES_PLATFORM", "value": "local", "origin": "default", "meaning": "Where instances run"}]),
        ),
        ("GET", ["logs"]) => Reply::Json(
            200,
            json!([
                {"timestamp": AT, "level": "INFO", "message": "begun", "orchestration_id": ACTOR_ID},
                {"timestamp": AT, "level": "WARN", "message": "late", "attempt": 2},
            ]),
        ),
        ("GET", ["drift"]) => Reply::Json(200, json!([drift(1, true), drift(2, false)])),
        ("POST", ["drift", "1", "fix"]) => Reply::Json(200, drift(1, false)),
        (_, ["orchestrations", rest @ ..]) => orchestrations(method, rest, query),
        ("GET", ["orchestration-flows"]) => Reply::Json(200, json!([flow()])),
        ("GET", ["orchestration-flows", "create-instance"]) => Reply::Json(200, flow()),
        _ => not_found(),
    }
}

fn flow() -> Value {
    json!({"name": "create-instance", "version": "1.0.0", "summary": "makes an instance", "mermaid": "flowchart TD\n  a --> \u{1b}b\n"})
}

fn orchestrations(method: &str, rest: &[&str], query: &str) -> Reply {
    let actor = |id: &str| {
        json!({
            "id": id, "name": "instance-actor", "version": "1.0.0", "status": "running", "parent_id": null,
            "instance_id": INSTANCE_ID, "execution_id": 2, "created_at": AT, "updated_at": ago(1210), "error": null,
        })
    };
    match (method, rest) {
        // Two pages of one row each.
        ("GET", []) if query.contains("cursor=next") => Reply::Json(200, json!([actor("actor-b")])),
        ("GET", []) => Reply::With(
            200,
            "link: </api/server/orchestrations?limit=1&cursor=next>; rel=\"next\"\r\ncontent-type: application/json",
            json!([actor("actor-a")]),
        ),
        ("GET", [ACTOR_ID]) => Reply::Json(
            200,
            json!({
                "orchestration": actor(ACTOR_ID),
                "executions": [
                    {"execution_id": 2, "status": "running", "started_at": AT, "finished_at": null, "events": 5},
                    {"execution_id": 1, "status": "continued_as_new", "started_at": AT, "finished_at": AT, "events": 90},
                ],
                "tree": {"id": ACTOR_ID, "name": "instance-actor", "status": "running", "children": [
                    {"id": "sub::1", "name": "create-instance", "status": "completed", "children": []},
                ]},
            }),
        ),
        ("GET", [ACTOR_ID, "history"]) => Reply::Json(
            200,
            json!([
                {"event_id": 1, "kind": "activity_scheduled", "name": "deploy-postgres", "source_event_id": null, "at": AT,
                 "input": {"incarnation": 1}, "output": null, "error": null, "child_id": null, "fire_at": null},
                {"event_id": 2, "kind": "activity_failed", "name": "deploy-postgres", "source_event_id": 1, "at": AT,
                 "input": null, "output": null, "child_id": null, "fire_at": null,
                 "error": {"kind": "unavailable", "code": "disk_full", "message": "no room", "retryable": true}},
            ]),
        ),
        ("POST", [ACTOR_ID, "cancel"]) => {
            problem(409, "actor_not_cancellable", "an actor can't be cancelled")
        }
        ("POST", [_, "cancel" | "raise-event"]) => Reply::Json(202, json!({})),
        ("POST", [_, "recreate"]) => Reply::Json(202, json!({"id": "actor-2"})),
        _ => problem(404, "orchestration_not_found", "there is no such orchestration"),
    }
}
