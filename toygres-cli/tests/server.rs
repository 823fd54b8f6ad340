//! The server of this machine, run by the program as people run it: real processes, a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::machine::{Machine, is_running, json, pid};
use support::{Ran, toygres};

#[test]
fn from_the_first_start_to_the_last_stop() {
    let machine = Machine::new();
    let none = machine.run(&["server", "status"]);
    assert_eq!(none.code, 1);
    assert!(
        none.out.starts_with("server  not running\n") && none.err.contains("toygres server start"),
        "{none:?}"
    );

    let started = machine.start();
    assert_eq!(started["url"], format!("http://127.0.0.1:{}", machine.port));
    assert_eq!(started["ready"], true);
    let again = machine.good(&["server", "start"]);
    assert!(
        again.err.starts_with(&format!(
            "the server already runs: pid {}, http://",
            started["pid"]
        )),
        "{again:?}"
    );
    let elsewhere = machine.run(&["server", "start", "--port", "1"]);
    assert_eq!(elsewhere.code, 1);
    assert!(
        elsewhere
            .err
            .contains("next: move it: toygres server restart --port 1\n"),
        "{elsewhere:?}"
    );
    assert_eq!(
        json(&machine.good(&["server", "status", "-o", "json"]))["pid"],
        started["pid"]
    );

    // Nothing says where the server is: it is the one of this home.
    let created = machine.good(&["create", "shop", "--wait", "--tag", "team=web"]);
    assert!(
        created
            .out
            .contains("connection string  postgresql://postgres@127.0.0.1:"),
        "{created:?}"
    );
    assert!(
        created.err.contains("creating shop: wait-for-ready done in "),
        "{created:?}"
    );
    let query = machine.good(&["psql", "shop", "--", "-XAtc", "select 6 * 7"]);
    assert_eq!(query.out, "42\n");
    assert_eq!(
        machine.run(&["psql", "shop", "--", "-Xc", "no such thing"]).code,
        1
    );
    let tested = json(&machine.good(&["test", "shop", "-o", "json"]));
    assert_eq!(
        (&tested["method"], &tested["ok"]),
        (&serde_json::json!("query"), &serde_json::json!(true))
    );
    let password =
        json(&machine.good(&["connect", "shop", "--show-password", "-o", "json"]))["password"].clone();
    assert!(
        created.out.contains(password.as_str().unwrap()),
        "the password that was shown is the one that holds"
    );
    let taken = machine.run(&["create", "shop"]);
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("  next: "), "{taken:?}");

    let restarted = machine.good(&["server", "restart", "-o", "json"]);
    assert_eq!(
        json(&restarted)["url"],
        started["url"],
        "it comes back where it was"
    );
    assert_ne!(json(&restarted)["pid"], started["pid"]);
    assert_eq!(
        machine.good(&["psql", "shop", "--", "-XAtc", "select 1"]).out,
        "1\n"
    );

    let deleted = machine.good(&["delete", "shop", "--force", "--wait"]);
    assert_eq!(deleted.out, "shop is deleted\n");
    assert_eq!(
        json(&machine.good(&["list", "-o", "json"])),
        serde_json::json!([])
    );

    let server = pid(&json(&restarted));
    machine.good(&["server", "stop"]);
    assert!(!is_running(server), "it has ended when stop returns");
    assert_eq!(machine.run(&["server", "status"]).code, 1);
    assert!(
        machine
            .good(&["server", "stop"])
            .err
            .starts_with("no server runs on ")
    );

    let log = machine.good(&["server", "logs", "--tail", "5"]).out;
    assert!(log.contains(" INFO  stopped\n"), "{log}");
    for file in ["server.log", "server.out"] {
        let text = std::fs::read_to_string(machine.home.path().join(file)).unwrap();
        assert!(!text.contains(password.as_str().unwrap()), "{file}");
    }
}

#[test]
fn a_server_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting() {
    let machine = Machine::new();
    let first = machine.start();
    kill_process(pid(&first), Signal::KILL).unwrap();
    let begun = Instant::now();
    while machine
        .run(&["server", "status"])
        .out
        .starts_with("server  ready")
    {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    assert!(
        machine.home.path().join("server.pid").exists(),
        "the stale file that this is about"
    );
    let second = machine.start();
    assert_ne!(second["pid"], first["pid"]);
    machine.good(&["server", "stop"]);
}

#[test]
fn the_pid_file_of_a_dead_server_does_not_point_at_another_process() {
    let machine = Machine::new();
    // It ends with the test, whose end closes its input.
    let mut innocent = std::process::Command::new("cat")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    machine.write("server.pid", &format!("{}\n", innocent.id()));
    machine.write("server.lock", "");
    assert_eq!(machine.run(&["server", "status"]).code, 1);
    assert!(
        machine
            .good(&["server", "stop", "--force"])
            .err
            .starts_with("no server runs on ")
    );
    assert!(innocent.try_wait().unwrap().is_none(), "it was left alone");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_port_in_use() {
    let machine = Machine::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let ran = machine.run(&["server", "start", "--port", &port]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("error: the server did not start (exit status: 1)"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains(&format!(
            "why:  another program listens on 127.0.0.1:{port} [port_in_use]"
        )),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("next: choose another port with --port"),
        "{}",
        ran.err
    );
    assert_eq!(machine.run(&["server", "status"]).code, 1);
}

#[test]
fn one_with_tls_that_listens_everywhere() {
    let machine = Machine::new();
    let made =
        rcgen::generate_simple_self_signed(["db.example.org".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    machine.write("cert.pem", &made.cert.pem());
    machine.write("key.pem", &made.signing_key.serialize_pem());
    let path = |name: &str| machine.home.path().join(name);
    let run = |arguments: &[&str]| -> Ran {
        let mut command = toygres(machine.home.path());
        command
            .env("TOYGRES_LISTEN", format!("0.0.0.0:{}", machine.port))
            .env("TOYGRES_TLS_CERTIFICATE_FILE", path("cert.pem"))
            .env("TOYGRES_TLS_KEY_FILE", path("key.pem"));
        command.args(arguments).output().unwrap().into()
    };
    let refused = run(&["server", "start"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .err
            .contains("make the first one: toygres server bootstrap-token"),
        "{refused:?}"
    );

    let mut mistyped = toygres(machine.home.path());
    mistyped.env("TOYGRES_BOOTSTRAP_TOKEN_FILE", path("none"));
    let refused: Ran = mistyped
        .args(["server", "start", "--port", &machine.port])
        .output()
        .unwrap()
        .into();
    assert_eq!(refused.code, 1, "not open to everybody on this machine");
    assert!(refused.err.contains("[bad_bootstrap_token]"), "{refused:?}");

    let token = run(&["server", "bootstrap-token"]).out;
    let started = run(&["server", "start", "-o", "json"]);
    assert_eq!(started.code, 0, "{started:?}");
    let url = format!("https://127.0.0.1:{}", machine.port);
    assert_eq!(json(&started)["url"], url);
    assert_eq!(json(&started)["ready"], true);

    // What others are asked is sent only to one whose certificate is known.
    let list = |arguments: &[&str]| -> Ran {
        let mut command = toygres(machine.home.path());
        command
            .env("TOYGRES_TOKEN", token.trim())
            .arg("list")
            .args(arguments);
        command.output().unwrap().into()
    };
    let unknown = list(&[]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.err.contains("--ca-cert FILE"), "{unknown:?}");
    let known = list(&["--ca-cert", path("cert.pem").to_str().unwrap()]);
    assert_eq!(known.code, 0, "{known:?}");
    let in_the_clear = list(&["--api-url", &url.replace("https", "http")]);
    assert_eq!(in_the_clear.code, 3);
    assert!(
        in_the_clear.err.contains("begins with https://"),
        "{in_the_clear:?}"
    );

    let restarted = run(&["server", "restart", "-o", "json"]);
    assert_eq!(json(&restarted)["url"], url);
    machine.good(&["server", "stop"]);
}

#[test]
fn two_starts_at_once_come_to_one_server() {
    let machine = Machine::new();
    let start =
        || json(&machine.good(&["server", "start", "--port", &machine.port, "-o", "json"]))["pid"].clone();
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(start);
        (start(), other.join().unwrap())
    });
    assert_eq!(one, other);
    machine.good(&["server", "stop"]);
}

#[test]
fn a_setting_that_is_wrong_is_named_at_once() {
    let machine = Machine::new();
    let ran = machine.run(&["server", "start", "--platform", "moon"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .starts_with("error: TOYGRES_PLATFORM (--platform) must be "),
        "{}",
        ran.err
    );
    let home = std::path::Path::new("/dev/null/home");
    let ran: Ran = toygres(home).args(["server", "start"]).output().unwrap().into();
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("set TOYGRES_HOME to a directory that this user can write to"),
        "{}",
        ran.err
    );
}

#[test]
fn the_log_is_shown_for_people_or_as_it_is() {
    let machine = Machine::new();
    let line = |n: u32| {
        format!(
            r#"{{"timestamp":"2024-05-01T10:00:0{n}Z","level":"WARN","target":"x","message":"number {n}","instance":"demo","attempt":{n}}}"#
        )
    };
    machine.write(
        "server.log",
        &format!("{}\n{}\nno json \u{1b}[2J\n{}\n", line(1), line(2), line(3)),
    );
    assert_eq!(
        machine.good(&["server", "logs", "--tail", "2"]).out,
        "\
no json \u{fffd}[2J
2024-05-01T10:00:03Z WARN  number 3 attempt=3 instance=demo
"
    );
    assert_eq!(
        machine.good(&["server", "logs", "--tail", "1", "-o", "json"]).out,
        line(3) + "\n"
    );
    assert_eq!(machine.good(&["server", "logs", "--tail", "0"]).out, "");
    assert_eq!(machine.good(&["server", "logs"]).out.lines().count(), 4);

    let nothing = Machine::new().run(&["server", "logs"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.err.contains("next: toygres server start"), "{nothing:?}");
}

#[test]
fn a_log_that_is_followed_goes_on_in_the_next_file() {
    let machine = Machine::new();
    let path = |name: &str| machine.home.path().join(name);
    machine.write("day-1", "old\n");
    std::os::unix::fs::symlink("day-1", path("server.log")).unwrap();
    // It would follow for ever: not longer than the test can take.
    let mut follow = std::process::Command::new("timeout")
        .args([
            "60",
            env!("CARGO_BIN_EXE_toygres"),
            "server",
            "logs",
            "-f",
            "--tail",
            "1",
        ])
        .env("TOYGRES_HOME", machine.home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "old");
    machine.write("day-1", "old\nsame day\nlast words");
    assert_eq!(next(), "same day");
    machine.write("day-2", "new day\n");
    std::os::unix::fs::symlink("day-2", path("link")).unwrap();
    std::fs::rename(path("link"), path("server.log")).unwrap();
    assert_eq!((next(), next()), ("last words".to_owned(), "new day".to_owned()));
    kill_process(Pid::from_child(&follow), Signal::TERM).unwrap();
    follow.wait().unwrap();
}

#[test]
fn drift_is_shown_and_mended_as_far_as_that_loses_nothing() {
    let machine = Machine::new();
    machine.start();
    machine.good(&["create", "shop", "--wait"]);
    let instances = machine.home.path().join("instances");
    let shop = std::fs::read_dir(&instances).unwrap().next().unwrap().unwrap();
    let record = std::fs::read_to_string(shop.path().join("instance.json")).unwrap();
    let id = json(&machine.good(&["get", "shop", "-o", "json"]))["id"].clone();
    let id = id.as_str().unwrap();
    let other = "6f2c4b8e-0000-4000-8000-000000000001";
    let (stranger, nameless) = (instances.join("shop-6f2c4b8e"), instances.join("nobody-knows"));
    std::fs::create_dir(&stranger).unwrap();
    std::fs::create_dir(&nameless).unwrap();
    std::fs::write(stranger.join("instance.json"), record.replace(id, other)).unwrap();
    let aside = machine.home.path().join("aside");
    std::fs::rename(shop.path(), &aside).unwrap();

    let begun = Instant::now();
    let shown = loop {
        let ran = machine.good(&["server", "drift"]);
        let kinds = [("unknown_object", 2), ("storage_missing", 1)];
        if kinds
            .iter()
            .all(|(kind, count)| ran.out.matches(kind).count() == *count)
        {
            break ran;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{ran:?}");
    };
    assert!(
        shown.out.contains("shop-6f2c4b8e") && shown.out.contains("nobody-knows"),
        "{shown:?}"
    );
    let fixed = machine.good(&["server", "drift", "--fix", "--force"]);
    for said in [
        "nobody-knows: can't be put right from here: remove it by hand",
        "can't be put right from here: bring the data back",
    ] {
        assert!(fixed.err.contains(said), "{fixed:?}");
    }
    assert!(fixed.out.contains("shop-6f2c4b8e"), "{fixed:?}");
    assert!(!stranger.exists() && nameless.exists() && !shop.path().exists());
    let audited = machine.good(&["server", "audit", "--action", "fix_drift"]);
    assert!(audited.out.contains("shop-6f2c4b8e"), "{audited:?}");

    std::fs::rename(&aside, shop.path()).unwrap();
    std::fs::remove_dir(&nameless).unwrap();
    let begun = Instant::now();
    while !machine.good(&["server", "drift"]).out.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120));
    }
    machine.good(&["psql", "shop", "--", "-XAtc", "select 1"]);
    machine.good(&["server", "stop"]);
}

#[test]
fn in_the_foreground_it_logs_to_standard_error_and_ends_by_ctrl_c() {
    let machine = Machine::new();
    let server = toygres(machine.home.path())
        .args(["server", "start", "--foreground", "--port", &machine.port])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while machine.run(&["server", "status"]).code != 0 {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    kill_process(Pid::from_child(&server), Signal::INT).unwrap();
    let ran: Ran = server.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    // As its file does, since this is no terminal.
    let lines: Vec<serde_json::Value> = ran
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |line: &serde_json::Value| line["message"].as_str().unwrap().contains("serves");
    assert!(lines.iter().any(said), "{}", ran.err);
}
