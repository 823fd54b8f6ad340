//! Answers of the API, and what a run of the program is compared with.

use super::{Ran, Reply, toygres};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

pub(crate) const INSTANCE_ID: &str = "6f2c4b8e-0000-4000-8000-000000000001";
pub(crate) const OPERATION_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

pub(crate) fn instance(name: &str) -> Value {
    let five_minutes_ago = chrono::Utc::now() - chrono::TimeDelta::minutes(5);
    json!({
        "id": INSTANCE_ID, "name": name, "user_name": "default", "state": "running", "health_status": "healthy",
        "state_reason": null, "postgres_version": "17", "storage_size_gb": 10, "cpu": null, "memory_mb": null,
        "internal": false, "namespace": null, "tags": {"team": "web"}, "deletion_protection": false,
        "endpoint": {"host": "127.0.0.1", "port": 20000}, "created_at": five_minutes_ago,
        "updated_at": "2024-05-01T10:00:05Z", "deleted_at": null,
    })
}

pub(crate) fn step(name: &str, state: &str, waits: bool) -> Value {
    json!({
        "name": name, "state": state, "attempts": 1,
        "reason": waits.then_some("starting"), "message": waits.then_some("the server is starting"),
        "started_at": "2024-05-01T10:00:00Z",
        "finished_at": (state != "running").then_some("2024-05-01T10:00:00.5Z"),
    })
}

pub(crate) fn operation(kind: &str, state: &str, steps: Vec<Value>, error: Value) -> Value {
    json!({
        "id": OPERATION_ID, "kind": kind, "state": state, "instance_id": INSTANCE_ID, "instance_name": "demo",
        "steps": steps, "error": error, "requested_at": "2024-05-01T10:00:00Z",
        "started_at": null, "finished_at": null,
    })
}

pub(crate) fn accepted(kind: &str, password: Option<&str>) -> Reply {
    let mut body =
        json!({"instance": instance("demo"), "operation": operation(kind, "pending", vec![], Value::Null)});
    if let Some(password) = password {
        body["password"] = json!(password);
    }
    Reply::Json(202, body)
}

pub(crate) fn connection(password: Option<&str>) -> Reply {
    let mut body = json!({
        "host": "127.0.0.1", "port": 20000, "user": "postgres", "database": "postgres",
        "connection_string": "postgresql://postgres@127.0.0.1:20000/postgres",
        "psql": "psql -h 127.0.0.1 -p 20000 -U postgres -d postgres",
    });
    if let Some(password) = password {
        body["password"] = json!(password);
    }
    Reply::Json(200, body)
}

/// One that can be reached from outside, by TLS.
pub(crate) fn secure_instance() -> Value {
    let mut instance = instance("secure");
    instance["endpoint"] = json!({"host": "secure.toygres.svc", "port": 5432});
    instance["external_endpoint"] = json!({"host": "203.0.113.7", "port": 5432});
    instance
}

pub(crate) fn secure_connection() -> Reply {
    let body = json!({
        "host": "203.0.113.7", "port": 5432, "user": "postgres", "database": "postgres", "sslmode": "verify-full",
        "connection_string": "postgresql://postgres@203.0.113.7:5432/postgres?sslmode=verify-full",
        "internal_connection_string": "postgresql://postgres@secure.toygres.svc:5432/postgres?sslmode=verify-full",
        "psql": "psql \"host=203.0.113.7 port=5432 user=postgres dbname=postgres sslmode=verify-full \
                 sslrootcert=toygres-ca.pem\"",
    });
    Reply::Json(200, body)
}

pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

/// What the certificates of databases are checked by.
pub(crate) fn certificate() -> Reply {
    Reply::stream("application/x-pem-file", [CERTIFICATE.to_owned()])
}

pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Reply {
    Reply::Json(
        status,
        json!({
            "type": "about:blank", "title": "-", "status": status, "detail": detail, "code": code,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "hint": "choose another name",
        }),
    )
}

/// An address where nothing listens.
pub(crate) fn nowhere() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    format!("http://127.0.0.1:{port}")
}

#[track_caller]
pub(crate) fn assert_ran(ran: &Ran, code: i32, out: &str, err: &str) {
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (code, out, err),
        "{ran:#?}"
    );
}

/// Runs the program on a terminal, which the program `script` makes, and types `input`.
pub(crate) fn on_terminal(url: &str, command: &str, input: &str) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let program = toygres(home.path());
    let program = program.get_program().to_str().unwrap().to_owned();
    let mut child = std::process::Command::new("script")
        .args(["-qefc", &format!("{program} {command}"), "/dev/null"])
        .env("TOYGRES_API_URL", url)
        .env("TOYGRES_HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}
