//! A password is looked for in everything that toygres keeps, says and runs.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use support::{run_with, toygres};
use toygres_testing::{OtlpReceiver, TestHome};

const CANARY: &str = "canary-7f3a91c4-password";

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Every process whose arguments or environment hold the canary, apart from this test's own.
fn processes_that_show_it() -> Vec<String> {
    let mut shown = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        for part in ["cmdline", "environ"] {
            let bytes = std::fs::read(entry.path().join(part)).unwrap_or_default();
            if pid != std::process::id() && contains(&bytes, CANARY) {
                shown.push(format!("{pid} {part}: {}", String::from_utf8_lossy(&bytes)));
            }
        }
    }
    shown
}

#[test]
fn a_password_is_nowhere_to_be_found() {
    let home = TestHome::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let receiver = runtime.block_on(OtlpReceiver::start());
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let started = toygres(home.path())
        .args(["server", "start", "--port", &port])
        .env("RUST_LOG", "debug")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
        .env("DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES", "true")
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    let url = format!("http://127.0.0.1:{port}");
    let mut said = Vec::new();
    let mut note = |ran: support::Ran| {
        said.push(ran.out.clone());
        said.push(ran.err.clone());
        ran
    };

    // While it is made, nobody who lists processes may see it.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut shown = Vec::new();
            while !over.load(Ordering::SeqCst) {
                shown.extend(processes_that_show_it());
            }
            shown
        });
        let created = note(run_with(
            &url,
            &["create", "bird", "--password-stdin", "--wait"],
            &format!("{CANARY}\n"),
        ));
        over.store(true, Ordering::SeqCst);
        assert_eq!(created.code, 0, "{created:?}");
        assert_eq!(watcher.join().unwrap(), Vec::<String>::new());
    });
    // It really is the password: by what the API hands out only when asked.
    let revealed = run_with(&url, &["connect", "bird", "--show-password"], "");
    assert!(revealed.out.contains(CANARY), "{revealed:?}");

    // In the wrong place, it is not shown again either.
    let wrong = [
        format!(r#"{{"name":"a","storage_size_gb":"{CANARY}"}}"#),
        format!(r#"{{"name":"a","password":["{CANARY}"]}}"#),
        format!(r#"{{"name":"a","password":"{CANARY}"#),
        format!(r#"{{"name":"a","password":"{CANARY}\n"}}"#),
    ];
    for body in wrong {
        let mut child = Command::new("curl")
            .args([
                "-s",
                "-H",
                "content-type: application/json",
                "-d",
                "@-",
                &format!("{url}/api/instances"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), body.as_bytes()).unwrap();
        said.push(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
    }
    for arguments in [
        vec!["list", "-o", "json"],
        vec!["get", "bird", "-o", "json"],
        vec!["connect", "bird", "-o", "json"],
        vec!["operations", "-o", "json"],
        vec!["events", "bird", "-o", "json"],
        vec!["health", "bird", "-o", "json"],
    ] {
        let ran = run_with(&url, &arguments, "");
        assert_eq!(ran.code, 0, "{ran:?}");
        said.extend([ran.out, ran.err]);
    }
    for text in &said {
        assert!(!text.contains(CANARY), "an answer shows it: {text}");
    }

    let dump = dump_of_the_control_database(home.path());
    assert!(dump.contains("bird"), "the dump is one of the control database");
    assert!(
        !dump.contains(CANARY),
        "the control database holds it in the clear"
    );

    // A command is one trace with what the server does for it.
    for number in 0..10 {
        let name = format!("fish-{number}");
        let created = toygres(home.path())
            .args(["--api-url", &url, "create", &name, "--wait"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
            .output()
            .unwrap();
        assert!(created.status.success(), "{created:?}");
        // It waits for no more than two seconds until its own part of it is taken.
        if receiver.spans().iter().any(|span| span.name == "toygres create") {
            break;
        }
    }

    let stopped = toygres(home.path()).args(["server", "stop"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    let told = receiver.all();
    assert!(
        told.contains("create-instance") && told.contains("bird"),
        "all of it was exported"
    );
    assert!(!told.contains(CANARY), "telemetry holds it");
    let spans = receiver.spans();
    let command = spans.iter().find(|span| span.name == "toygres create").unwrap();
    let of_it = |name: &str| {
        let found = spans
            .iter()
            .find(|span| span.name == name && span.trace_id == command.trace_id);
        found.unwrap_or_else(|| panic!("{name} is not in the command's trace"))
    };
    assert_eq!(of_it("POST /api/instances").parent_span_id, command.span_id);
    of_it("deploy-postgres");
    let mut all = Vec::new();
    files(home.path(), &mut all);
    assert!(
        all.iter().any(|file| file.to_string_lossy().contains("server.")),
        "the log is among them"
    );
    assert!(
        all.iter().any(|file| file.ends_with("pg_hba.conf")),
        "PostgreSQL's files are among them"
    );
    for file in all {
        assert!(
            !contains(&std::fs::read(&file).unwrap_or_default(), CANARY),
            "{} holds it",
            file.display()
        );
    }
}

/// Every table of it as text: histories and queues as well as toygres's own.
fn dump_of_the_control_database(home: &Path) -> String {
    let password = std::fs::read_to_string(home.join("control.password")).unwrap();
    let pid_file = std::fs::read_to_string(home.join("control/data/postmaster.pid")).unwrap();
    let port = pid_file.lines().nth(3).unwrap().to_owned();
    let output = Command::new(toygres_testing::server_programs().join("pg_dump"))
        .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "postgres"])
        .env("PGPASSWORD", password.trim())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
