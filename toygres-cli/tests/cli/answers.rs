//! What the program prints, and how it exits, for each kind of answer.

use crate::support::canned::{
    INSTANCE_ID, OPERATION_ID, assert_ran, instance, nowhere, on_terminal, operation, problem, step,
};
use crate::support::{Api, Ran, Reply, run, toygres};
use serde_json::{Value, json};
use std::process::Stdio;

#[test]
fn a_server_that_can_not_be_reached() {
    let url = nowhere();
    assert_ran(
        &run(&url, &["list"]),
        3,
        "",
        &format!(
            "\
error: the server at {url} can't be reached
  why:  Connection refused (os error 111)
  next: toygres server start
"
        ),
    );
}

#[test]
fn what_is_no_toygres_is_called_so() {
    let api = Api::start(|_| Reply::Text(404, "<h1>not here</h1>"));
    let ran = run(&api.url, &["list"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("does not speak toygres' API\n  why:  it answers 404"),
        "{}",
        ran.err
    );
    let api = Api::start(|_| Reply::Text(200, "welcome"));
    assert!(run(&api.url, &["list"]).err.contains("its answer can't be read"));
}

#[test]
fn a_problem_is_shown_with_its_code_and_what_to_do() {
    let api = Api::start(|_| problem(409, "name_in_use", "an instance named demo already exists"));
    assert_ran(
        &run(&api.url, &["create", "demo"]),
        1,
        "",
        "\
error: an instance named demo already exists [name_in_use]
  next: choose another name
",
    );
    let api = Api::start(|_| {
        problem(
            503,
            "database_unavailable",
            "the control database does not answer",
        )
    });
    let ran = run(&api.url, &["get", "demo"]);
    assert!(
        ran.err.contains("trace 4bf92f3577b34da6a3ce929d0e0e4736"),
        "{}",
        ran.err
    );
}

#[test]
fn wrong_fields_have_a_line_each() {
    let api = Api::start(|_| {
        Reply::Json(
            422,
            json!({
                "type": "about:blank", "title": "-", "status": 422, "detail": "all in one", "code": "invalid_fields",
                "trace_id": "-", "errors": [{"field": "storage_size_gb", "message": "must be less"}, {"field": "tags", "message": "no"}],
            }),
        )
    });
    assert_ran(
        &run(&api.url, &["create", "demo"]),
        1,
        "",
        "\
error: the request is not valid [invalid_fields]
  why:  storage_size_gb: must be less
  why:  tags: no
",
    );
}

#[test]
fn list_as_table_and_as_json() {
    let api = Api::start(|_| Reply::Json(200, json!([instance("demo"), instance("a-longer-name")])));
    assert_ran(
        &run(&api.url, &["list", "--state", "running"]),
        0,
        "\
NAME           STATE    HEALTH   VERSION  ENDPOINT         AGE
demo           running  healthy  17       127.0.0.1:20000  5m
a-longer-name  running  healthy  17       127.0.0.1:20000  5m
",
        "",
    );
    assert_eq!(api.requests()[0].line, "GET /api/instances?state=running");

    let wide = run(&api.url, &["ls", "--wide"]).out;
    assert!(wide.contains("team=web") && wide.contains(INSTANCE_ID), "{wide}");

    let ran = run(&api.url, &["list", "-o", "json"]);
    let rows: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows[1]["name"], "a-longer-name");
}

#[test]
fn an_empty_list_says_so_beside_the_data() {
    let api = Api::start(|_| Reply::Json(200, json!([])));
    assert_ran(
        &run(&api.url, &["list"]),
        0,
        "",
        "there are none; make one with: toygres create NAME --wait\n",
    );
    assert_ran(&run(&api.url, &["list", "-o", "json"]), 0, "[]\n", "");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let api = Api::start(|_| Reply::Json(200, json!([instance("demo")])));
    assert!(
        on_terminal(&api.url, "list", "")
            .out
            .contains("\x1b[32mrunning\x1b[0m")
    );
    assert!(!on_terminal(&api.url, "list --no-color", "").out.contains('\x1b'));
    assert!(!run(&api.url, &["list"]).out.contains('\x1b'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let many: Vec<Value> = (0..3000).map(|n| instance(&format!("demo-{n}"))).collect();
    let api = Api::start(move |_| Reply::Json(200, json!(many)));
    let home = tempfile::tempdir().unwrap();
    let mut list = toygres(home.path());
    let mut list = list
        .env("TOYGRES_API_URL", &api.url)
        .arg("list")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(list.stdout.take());
    let ran: Ran = list.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for wrong in [
        &["create", "No_Name"][..],
        &["create", "demo", "--tag", "team"],
        &["create", "demo", "--timeout", "soon"],
        &["create", "demo", "--password", "--password-stdin"],
        &["get", "../../health"],
        &["list", "--state", "happy"],
        &["server", "start", "--port", "0"],
        &[],
    ] {
        assert_eq!(run("http://127.0.0.1:1", wrong).code, 2, "{wrong:?}");
    }
    let ran = run("ftp://somewhere", &["list"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is no address of an API"), "{}", ran.err);
}

#[test]
fn the_help_lists_the_exit_codes() {
    let ran = run("http://127.0.0.1:1", &["--help"]);
    assert_eq!(ran.code, 0);
    for code in [
        "0    done",
        "1    failed",
        "2    the command",
        "3    the server",
        "4    it took",
        "130  interrupted",
    ] {
        assert!(ran.out.contains(code), "{code}");
    }
}

#[test]
fn one_operation_with_its_steps() {
    let steps = vec![
        step("deploy-postgres", "succeeded", false),
        step("wait-for-ready", "failed", true),
    ];
    let error = json!({"code": "crash_loop", "message": "it starts and dies again"});
    let api =
        Api::start(move |_| Reply::Json(200, operation("create", "failed", steps.clone(), error.clone())));
    assert_ran(
        &run(&api.url, &["operations", OPERATION_ID]),
        0,
        &format!(
            "\
id         {OPERATION_ID}
kind       create
instance   demo
state      failed
error      crash_loop: it starts and dies again
requested  2024-05-01T10:00:00Z

STEP             STATE      ATTEMPTS  TOOK  REASON    MESSAGE
deploy-postgres  succeeded  1         0.5s  -         -
wait-for-ready   failed     1         0.5s  starting  the server is starting
"
        ),
        "",
    );
}

#[test]
fn the_versions_of_both_sides() {
    let api = Api::start(|_| Reply::Json(200, json!({"status": "healthy", "version": "9.8.7"})));
    let ran = run(&api.url, &["version"]);
    assert_eq!(
        ran.out,
        format!(
            "toygres {}\nserver  9.8.7 at {}\n",
            env!("CARGO_PKG_VERSION"),
            api.url
        )
    );
    assert_eq!(run(&nowhere(), &["version"]).code, 0);
}
