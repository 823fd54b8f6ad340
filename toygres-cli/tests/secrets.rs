//! How secrets come into the program and where they go.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use support::canned::{accepted, connection};
use support::{Api, Ran, Reply, Request, run_with, toygres};

#[test]
fn a_password_comes_by_standard_input_or_from_a_terminal() {
    let api = Api::start(|_| accepted("create", None));
    let sent = |request: &Request| serde_json::from_str::<Value>(&request.body).unwrap()["password"].clone();
    let ran = run_with(
        &api.url,
        &["create", "demo", "--password-stdin"],
        "pass word'\r\nsecond line\n",
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(sent(&api.requests()[0]), "pass word'");

    let ran = run_with(&api.url, &["create", "demo", "--password-stdin"], "");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("there is no password on standard input"),
        "{}",
        ran.err
    );

    let ran = run_with(&api.url, &["create", "demo", "--password"], "secret7\nsecret7\n");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("next: hand it over with --password-stdin"),
        "{}",
        ran.err
    );
    assert_eq!(api.requests().len(), 1);
}

#[test]
fn psql_gets_the_password_by_environment_only_and_passes_its_exit_code_on() {
    let api = Api::start(|_| connection(Some("canary-password")));
    let home = tempfile::tempdir().unwrap();
    let psql = home.path().join("psql");
    std::fs::write(
        &psql,
        "#!/bin/sh\ntr '\\0' ' ' </proc/$$/cmdline; echo; env | grep ^PG | sort; exit 42\n",
    )
    .unwrap();
    std::fs::set_permissions(&psql, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let ran: Ran = toygres(home.path())
        .env("TOYGRES_API_URL", &api.url)
        .env("PATH", path)
        .args(["psql", "demo", "--", "-c", "select 1"])
        .output()
        .unwrap()
        .into();
    let (command_line, environment) = ran.out.split_once('\n').unwrap();
    assert_eq!(ran.code, 42);
    assert!(command_line.ends_with("psql -c select 1 "), "{command_line}");
    assert!(!command_line.contains("canary"), "{command_line}");
    assert_eq!(
        environment,
        "\
PGDATABASE=postgres
PGHOST=127.0.0.1
PGPASSWORD=canary-password
PGPORT=20000
PGUSER=postgres
"
    );
    assert_eq!(
        api.requests()[0].line,
        "GET /api/instances/demo/connection?reveal=true"
    );
}

#[test]
fn psql_that_is_missing() {
    let api = Api::start(|_| connection(Some("canary-password")));
    let home = tempfile::tempdir().unwrap();
    let run = toygres(home.path())
        .env("TOYGRES_API_URL", &api.url)
        .env("PATH", "")
        .args(["psql", "demo"])
        .output();
    let ran: Ran = run.unwrap().into();
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("error: psql is not installed") && ran.err.contains("postgresql-client"),
        "{}",
        ran.err
    );
}

#[test]
fn the_token_is_sent_and_not_shown() {
    let api = Api::start(|_| Reply::Json(200, json!([])));
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| -> Ran {
        let mut list = toygres(home.path());
        let list = list
            .env("TOYGRES_API_URL", &api.url)
            .env("TOYGRES_TOKEN", "canary-token")
            .args(arguments);
        list.output().unwrap().into()
    };
    assert_eq!(run(&["list"]).code, 0);
    assert_eq!(
        api.requests()[0].header("authorization"),
        Some("Bearer canary-token")
    );
    assert!(!run(&["list", "--help"]).out.contains("canary"));
}
