//! How secrets come into the program and where they go.

use crate::support::canned::{CERTIFICATE, accepted, certificate, connection, secure_connection};
use crate::support::{Api, Ran, Reply, Request, run_with, toygres};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
fn psql_checks_the_servers_certificate_by_a_file_that_stays() {
    let api = Api::start(|request| match request.line.as_str() {
        "GET /api/certificate-authority" => certificate(),
        _ => secure_connection(),
    });
    let home = tempfile::tempdir().unwrap();
    let psql = home.path().join("psql");
    let script = "#!/bin/sh\nenv | grep ^PGSSL | sort; cat \"$PGSSLROOTCERT\"\n";
    std::fs::write(&psql, script).unwrap();
    std::fs::set_permissions(&psql, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let cache = home.path().join("cache");
    let run = |command: &str| -> Ran {
        let mut run = toygres(home.path());
        let run = run
            .env("TOYGRES_API_URL", &api.url)
            .env("XDG_CACHE_HOME", &cache)
            .env("PGSSLMODE", "disable")
            .env("PATH", &path)
            .args([command, "secure"]);
        run.output().unwrap().into()
    };
    let server = api.url.replace('/', "%2F");
    let file = cache.join(format!("toygres/{server}.pem"));
    let expected = format!(
        "PGSSLMODE=verify-full\nPGSSLROOTCERT={}\n{CERTIFICATE}",
        file.display()
    );
    for _ in 0..2 {
        let ran = run("psql");
        assert_eq!((ran.code, ran.out), (0, expected.clone()), "{}", ran.err);
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&cache.join("toygres"))), (0o600, 0o700));
    // What it says is taken for the version.
    let tested = run("test");
    assert!(
        tested.code == 0 && tested.out.contains("PGSSLMODE=verify-full"),
        "{tested:?}"
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

/// Runs `toygres test` with this script in the place of psql, or with none.
fn test_with(psql: Option<&str>, port: u16) -> Ran {
    let api = Api::start(move |_| {
        let body = json!({
            "host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres", "connection_string": "-",
            "psql": "-", "password": "canary-password",
        });
        Reply::Json(200, body)
    });
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    if let Some(script) = psql {
        let path = bin.join("psql");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut test = toygres(home.path());
    let test = test
        .env("TOYGRES_API_URL", &api.url)
        .env("PATH", bin)
        .args(["test", "demo", "-o", "json"]);
    test.output().unwrap().into()
}

#[test]
fn a_test_logs_in_by_psql_and_says_what_it_found() {
    let said = |ran: &Ran| serde_json::from_str::<Value>(&ran.out).unwrap();
    let ran = test_with(Some("test \"$PGPASSWORD\" = canary-password && echo 17.2"), 1);
    let found = said(&ran);
    assert_eq!(
        (ran.code, &found["ok"], &found["method"]),
        (0, &json!(true), &json!("query"))
    );
    assert_eq!(found["server_version"], "17.2");
    assert!(found["response_time_ms"].as_f64().unwrap() > 0.0);

    let ran = test_with(Some("echo 'psql: error: no room' >&2; exit 2"), 1);
    assert_eq!(
        (ran.code, &said(&ran)["error"]),
        (1, &json!("psql: error: no room"))
    );
    assert!(ran.err.contains("toygres logs demo"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("canary"));
}

#[test]
fn a_test_without_psql_tries_the_connection_and_says_that_it_is_no_more() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ran = test_with(None, port);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &found["method"]), (0, &json!("connection")));
    assert!(
        ran.err.starts_with("psql is not installed: only whether"),
        "{ran:?}"
    );
    drop(listener);
    assert_eq!(test_with(None, port).code, 1);
}
