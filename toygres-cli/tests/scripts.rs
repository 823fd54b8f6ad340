//! The scripts that stop what toygres has started, and nothing else.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::process::{Child, Command, Stdio};
use support::Ran;
use support::machine::{Machine, is_running, json, pid};

fn script(machine: &Machine, name: &str, arguments: &[&str]) -> Ran {
    let path = format!("{}/../scripts/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(path);
    script
        .args(arguments)
        .env("TOYGRES_HOME", machine.home.path())
        .stdin(Stdio::null());
    let ran: Ran = script.output().unwrap().into();
    assert_eq!(ran.code, 0, "{name}: {ran:#?}");
    ran
}

fn answers(machine: &Machine, name: &str) -> bool {
    machine.run(&["psql", name, "--", "-XAtc", "select 1"]).out == "1\n"
}

/// Another program whose process id stands where toygres writes down its own. It ends with the test, whose end closes
/// its input.
fn innocent(machine: &Machine, recorded_in: &str) -> Child {
    let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let path = machine.home.path().join(recorded_in);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("{}\n", child.id())).unwrap();
    child
}

#[test]
fn stop_control_plane_leaves_databases_running_unless_told_all() {
    let machine = Machine::new();
    let server = pid(&machine.start());
    machine.good(&["create", "shop", "--wait"]);
    let ran = script(&machine, "stop-control-plane.sh", &[]);
    assert!(
        ran.err.ends_with("stopped; databases still running: 1\n"),
        "{ran:?}"
    );
    assert!(!is_running(server));

    machine.start();
    assert!(answers(&machine, "shop"));
    let ran = script(&machine, "stop-control-plane.sh", &["--all"]);
    assert!(ran.err.contains("stopped; databases stopped: 1;"), "{ran:?}");
    let log = machine
        .home
        .path()
        .join("instances")
        .read_dir()
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let log = std::fs::read_to_string(log.join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "a clean end: {log}");
    assert!(
        script(&machine, "force-kill-all.sh", &[])
            .err
            .starts_with("nothing of ")
    );
}

#[test]
fn force_kill_all_kills_what_toygres_has_started_and_nothing_else() {
    let machine = Machine::new();
    let server = pid(&machine.start());
    machine.good(&["create", "shop", "--wait"]);
    let mut another = innocent(&machine, "instances/other-00000000/data/postmaster.pid");
    let ran = script(&machine, "force-kill-all.sh", &[]);
    assert!(
        ran.err
            .contains(&format!("killed the server (pid {}", server.as_raw_nonzero())),
        "{ran:?}"
    );
    assert!(!is_running(server));
    assert!(another.try_wait().unwrap().is_none(), "it was left alone");
    assert!(
        script(&machine, "force-kill-all.sh", &[])
            .err
            .starts_with("nothing of ")
    );
    std::fs::remove_dir_all(machine.home.path().join("instances/other-00000000")).unwrap();

    // Nothing that was killed keeps anything from starting again.
    machine.start();
    let shop = json(&machine.good(&["get", "shop", "-o", "json"]));
    assert_eq!(shop["state"], "running");
    another.kill().unwrap();
    another.wait().unwrap();
}

#[test]
fn a_process_that_has_the_number_of_a_dead_server_is_left_alone() {
    let machine = Machine::new();
    let mut another = innocent(&machine, "server.pid");
    std::fs::write(machine.home.path().join("server.lock"), "").unwrap();
    assert!(
        script(&machine, "stop-control-plane.sh", &["--all"])
            .err
            .starts_with("no server runs on ")
    );
    assert!(
        script(&machine, "force-kill-all.sh", &[])
            .err
            .starts_with("nothing of ")
    );
    assert!(another.try_wait().unwrap().is_none());
    another.kill().unwrap();
    another.wait().unwrap();
}
