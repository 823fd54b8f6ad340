//! Creating and deleting: what is sent, what is shown meanwhile, and how a wait ends.

use crate::support::canned::{
    INSTANCE_ID, OPERATION_ID, accepted, assert_ran, connection, instance, on_terminal, operation, problem,
    step,
};
use crate::support::{Api, Ran, Reply, run, toygres};
use serde_json::{Value, json};
use std::process::Stdio;

/// An API on which a creation goes through `states`, one an ask.
fn creating(states: Vec<Value>) -> Api {
    let mut states = states.into_iter();
    Api::start(move |request| match request.line.as_str() {
        "POST /api/instances" => accepted("create", Some("made-by-server")),
        line if line == format!("GET /api/operations/{OPERATION_ID}/events") => no_stream(),
        line if line == format!("GET /api/instances/{INSTANCE_ID}/connection") => connection(None),
        line if line == format!("GET /api/operations/{OPERATION_ID}") => {
            Reply::Json(200, states.next().unwrap())
        }
        line if line == format!("GET /api/instances/{INSTANCE_ID}") => Reply::Json(200, instance("demo")),
        other => panic!("{other}"),
    })
}

/// An API that has no streams: the program asks instead.
fn no_stream() -> Reply {
    problem(404, "route_not_found", "there is nothing at this path")
}

fn good_course() -> Vec<Value> {
    let waiting = vec![
        step("deploy-postgres", "succeeded", false),
        step("wait-for-ready", "running", true),
    ];
    vec![
        operation("create", "pending", vec![], Value::Null),
        operation(
            "create",
            "running",
            vec![step("deploy-postgres", "running", false)],
            Value::Null,
        ),
        operation("create", "running", waiting.clone(), Value::Null),
        operation("create", "running", waiting, Value::Null),
        operation(
            "create",
            "succeeded",
            vec![
                step("deploy-postgres", "succeeded", false),
                step("wait-for-ready", "succeeded", false),
            ],
            Value::Null,
        ),
    ]
}

#[test]
fn create_and_wait_shows_each_change_once_and_ends_with_the_connection() {
    let api = creating(good_course());
    assert_ran(
        &run(&api.url, &["create", "demo", "--wait"]),
        0,
        "\
password  made-by-server
connection string  postgresql://postgres@127.0.0.1:20000/postgres
psql               psql -h 127.0.0.1 -p 20000 -U postgres -d postgres
session            toygres psql demo
",
        "\
the password was made for demo and is shown this once; later: toygres connect demo --show-password
creating demo: deploy-postgres begun
creating demo: deploy-postgres done in 0.5 s
creating demo: wait-for-ready: starting: the server is starting
creating demo: wait-for-ready done in 0.5 s
",
    );
}

#[test]
fn create_and_wait_as_json_is_one_document() {
    let api = creating(good_course());
    let document: Value =
        serde_json::from_str(&run(&api.url, &["create", "demo", "--wait", "-o", "json"]).out).unwrap();
    assert_eq!(document["operation"]["state"], "succeeded");
    assert_eq!(document["password"], "made-by-server");
    assert_eq!(document["connection"]["port"], 20000);
    assert_eq!(document["instance"]["state"], "running");
}

#[test]
fn a_creation_that_fails() {
    let error = json!({"code": "disk_full", "message": "no room for the data directory"});
    let course = || {
        vec![operation(
            "create",
            "failed",
            vec![step("deploy-postgres", "failed", false)],
            error.clone(),
        )]
    };
    let ran = run(&creating(course()).url, &["create", "demo", "--wait"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.ends_with(&format!(
            "\
error: creating demo: failed: no room for the data directory [disk_full]
  next: make room on the file system, then create it again
  next: toygres operations {OPERATION_ID}
"
        )),
        "{}",
        ran.err
    );
    let ran = run(
        &creating(course()).url,
        &["create", "demo", "--wait", "-o", "json"],
    );
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &document["operation"]["error"]["code"]),
        (1, &json!("disk_full"))
    );
}

#[test]
fn waiting_has_an_end() {
    let api = creating(vec![operation("create", "running", vec![], Value::Null); 100]);
    let ran = run(&api.url, &["create", "demo", "--wait", "--timeout", "1s"]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains(&format!(
        "the work goes on in the server\n  next: toygres operations {OPERATION_ID}"
    )));
    assert!(
        ran.out.contains("made-by-server"),
        "the password is not lost with the wait"
    );
}

#[test]
fn an_interrupted_wait_says_that_the_work_goes_on() {
    let (asked, was_asked) = std::sync::mpsc::channel();
    let api = Api::start(move |request| match request.line.as_str() {
        "POST /api/instances" => accepted("create", None),
        line if line.ends_with("/events") => no_stream(),
        _ => {
            asked.send(()).ok();
            Reply::Json(200, operation("create", "running", vec![], Value::Null))
        }
    });
    let home = tempfile::tempdir().unwrap();
    let child = toygres(home.path())
        .env("TOYGRES_API_URL", &api.url)
        .args(["create", "demo", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The second ask shows that it waits, with its handler for the signal in place.
    (0..2).for_each(|_| was_asked.recv().unwrap());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(
        ran.err
            .contains("the work goes on in the server\n  next: toygres operations"),
        "{}",
        ran.err
    );
}

#[test]
fn a_server_that_is_away_for_a_while_is_asked_again() {
    let mut answers = vec![
        Reply::Json(200, operation("delete", "succeeded", vec![], Value::Null)),
        problem(
            503,
            "database_unavailable",
            "the control database does not answer",
        ),
        Reply::HangUp,
    ];
    let api = Api::start(move |request| match request.line.split(' ').next().unwrap() {
        "DELETE" => accepted("delete", None),
        _ if request.line.ends_with("/events") => no_stream(),
        _ => answers.pop().unwrap(),
    });
    let ran = run(&api.url, &["delete", "demo", "--force", "--wait"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "demo is deleted\n"), "{ran:?}");
    assert!(
        ran.err
            .contains("the control database does not answer [database_unavailable]; asking again"),
        "{}",
        ran.err
    );
}

#[test]
fn a_creation_whose_answer_was_lost_is_sent_again_with_the_same_key() {
    let mut first = true;
    let api = Api::start(move |_| match std::mem::take(&mut first) {
        true => Reply::HangUp,
        false => accepted("create", None),
    });
    let ran = run(
        &api.url,
        &[
            "create",
            "demo",
            "--tag",
            "team=web",
            "--storage",
            "20",
            "--version",
            "17",
        ],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.err.contains("toygres connect demo --show-password"),
        "{}",
        ran.err
    );
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert!(
        requests[0]
            .header("idempotency-key")
            .is_some_and(|key| key.len() == 36)
    );
    assert_eq!(
        requests[0].header("idempotency-key"),
        requests[1].header("idempotency-key")
    );
    let body: Value = serde_json::from_str(&requests[0].body).unwrap();
    let wanted =
        json!({"name": "demo", "postgres_version": "17", "storage_size_gb": 20, "tags": {"team": "web"}});
    assert_eq!(body, wanted);
}

#[test]
fn delete_without_a_terminal_needs_force() {
    let api = Api::start(|_| accepted("delete", None));
    assert_ran(
        &run(&api.url, &["delete", "demo"]),
        2,
        "",
        "\
error: demo is not deleted: there is no terminal to ask at
  next: toygres delete demo --force
",
    );
    assert!(api.requests().is_empty());
    assert_eq!(run(&api.url, &["delete", "demo", "--force"]).code, 0);
    assert_eq!(api.requests()[0].line, "DELETE /api/instances/demo");
}

#[test]
fn delete_on_a_terminal_asks() {
    let api = Api::start(|_| accepted("delete", None));
    let ran = on_terminal(&api.url, "delete demo", "n\n");
    assert!(
        ran.out
            .contains("This deletes demo and all its data. Type demo to go on:"),
        "{ran:?}"
    );
    assert_eq!(ran.code, 1);
    assert!(api.requests().is_empty());
    assert_eq!(on_terminal(&api.url, "delete demo", "y\n").code, 1);
    assert_eq!(on_terminal(&api.url, "delete demo", "demo\n").code, 0);
    assert_eq!(api.requests().len(), 1);
}

#[test]
fn what_can_not_be_repeated_safely_is_sent_once() {
    let api = Api::start(|_| Reply::HangUp);
    for command in [
        &["create", "test", "--count", "2"][..],
        &["token", "create", "ci", "--scope", "read"],
        &["operations", OPERATION_ID, "--retry"],
    ] {
        let before = api.requests().len();
        assert_eq!(run(&api.url, command).code, 3);
        assert_eq!(api.requests().len(), before + 1, "{command:?}");
    }
}
