//! What goes on until somebody ends it.

use crate::support::canned::{INSTANCE_ID, OPERATION_ID, accepted, instance, operation, problem, step};
use crate::support::{Api, Ran, Reply, event, run, toygres};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The program while it runs. Killed if the test ends before it does.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

impl Running {
    fn start(url: &str, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = toygres(home.path());
        command.env("TOYGRES_API_URL", url).args(arguments);
        Self::spawn(command, home)
    }

    fn spawn(mut command: Command, home: tempfile::TempDir) -> Self {
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            out,
            _home: home,
        }
    }

    /// The next line of data.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn document(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by Ctrl-C: exit code and what it said besides the data.
    fn interrupt(mut self) -> (i32, String) {
        self.signal(Signal::INT);
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (code, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn happened(id: i64) -> Value {
    json!({
        "id": id, "instance_id": INSTANCE_ID, "instance_name": "demo", "user_name": "default", "operation_id": null,
        "kind": "state_changed", "message": format!("number {id}"), "created_at": "2024-05-01T10:00:00Z",
    })
}

#[test]
fn events_go_on_where_the_last_stream_ended() {
    let mut streams = 0;
    let mut open = Vec::new();
    let api = Api::start(move |request| {
        if request.line.starts_with("GET /api/instances/demo/events") {
            return Reply::Json(200, json!([happened(1)]));
        }
        assert_eq!(request.line, "GET /api/events?instance=demo");
        streams += 1;
        match streams {
            1 => Reply::stream("text/event-stream", [event("instance_event", 2, &happened(2))]),
            2 => Reply::HangUp,
            3 => problem(
                503,
                "database_unavailable",
                "the control database does not answer",
            ),
            _ => {
                let (sender, receiver) = std::sync::mpsc::channel();
                sender.send(event("instance_event", 3, &happened(3))).unwrap();
                open.push(sender);
                Reply::Stream("text/event-stream", receiver)
            }
        }
    });
    let mut follow = Running::start(&api.url, &["events", "demo", "-f"]);
    for id in 1..=3 {
        assert_eq!(
            follow.line(),
            format!("2024-05-01T10:00:00Z demo state_changed: number {id}")
        );
    }
    let (code, said) = follow.interrupt();
    assert_eq!(code, 130);
    assert!(
        said.ends_with("asking again\n") && said.lines().count() == 1,
        "{said}"
    );
    let requests = api.requests();
    let resumed: Vec<_> = requests[1..]
        .iter()
        .map(|request| request.header("last-event-id"))
        .collect();
    assert_eq!(resumed, [Some("1"), Some("2"), Some("2"), Some("2")]);
}

#[test]
fn events_of_all_databases_begin_now_and_are_lines_of_json() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut receiver = Some(receiver);
    let api = Api::start(move |request| {
        assert_eq!(
            (request.line.as_str(), request.header("last-event-id")),
            ("GET /api/events", None)
        );
        Reply::Stream("text/event-stream", receiver.take().unwrap())
    });
    let mut follow = Running::start(&api.url, &["events", "-f", "-o", "json"]);
    sender.send(event("instance_event", 7, &happened(7))).unwrap();
    assert_eq!(follow.document(), happened(7));
    // A multi-byte character and an event may be cut anywhere.
    let mut text = happened(8);
    text["message"] = json!("größer");
    let whole = event("instance_event", 8, &text);
    let (begin, end) = whole.split_at(whole.find('ß').unwrap());
    sender.send(begin.to_owned()).unwrap();
    sender.send(end.to_owned()).unwrap();
    assert_eq!(follow.document(), text);
    assert_eq!(follow.interrupt(), (130, String::new()));
}

#[test]
fn a_followed_log_goes_on_in_another_stream_and_says_so() {
    let mut streams = 0;
    let mut open = Vec::new();
    let api = Api::start(move |_| {
        streams += 1;
        if streams == 1 {
            return Reply::stream("text/plain", ["one\ntw".to_owned(), "o\n".to_owned()]);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        sender.send("three \u{1b}[2J\n".to_owned()).unwrap();
        open.push(sender);
        Reply::Stream("text/plain", receiver)
    });
    let mut follow = Running::start(&api.url, &["logs", "demo", "-f", "--tail", "2"]);
    assert_eq!(
        [follow.line(), follow.line(), follow.line()],
        ["one", "two", "three \u{fffd}[2J"]
    );
    let (code, said) = follow.interrupt();
    assert_eq!(code, 130);
    assert_eq!(
        said,
        "the log goes on; what was written meanwhile: toygres logs demo\n"
    );
    let lines: Vec<String> = api.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(
        lines,
        [
            "GET /api/instances/demo/logs?tail=2&follow=true",
            "GET /api/instances/demo/logs?tail=0&follow=true"
        ]
    );
}

#[test]
fn a_wait_reads_the_operations_stream_again_when_it_ends_early() {
    let mut streams = 0;
    let api = Api::start(move |request| {
        let running = || {
            operation(
                "delete",
                "running",
                vec![step("remove", "running", false)],
                Value::Null,
            )
        };
        match request.line.as_str() {
            "DELETE /api/instances/demo" => accepted("delete", None),
            line if line == format!("GET /api/operations/{OPERATION_ID}") => Reply::Json(200, running()),
            _ => {
                streams += 1;
                let now = match streams {
                    1 => running(),
                    _ => operation(
                        "delete",
                        "succeeded",
                        vec![step("remove", "succeeded", false)],
                        Value::Null,
                    ),
                };
                Reply::stream("text/event-stream", [event("operation", streams, &now)])
            }
        }
    });
    let ran = run(&api.url, &["delete", "demo", "--force", "--wait"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "demo is deleted\n"), "{ran:?}");
    assert_eq!(
        ran.err,
        "deleting demo: remove begun\ndeleting demo: remove done in 0.5 s\n"
    );
    // The deletion, and twice a stream and a question.
    assert_eq!(api.requests().len(), 5);
}

/// An API whose list of databases changes with every look, and then stays.
fn changing() -> Api {
    let mut looks = 0;
    Api::start(move |_| {
        looks += 1;
        let mut shop = instance("shop");
        shop["state"] = json!(if looks < 3 { "creating" } else { "running" });
        let mut demo = instance("demo");
        demo["created_at"] = json!("2024-05-01T10:00:00Z");
        shop["created_at"] = json!("2024-05-01T10:00:00Z");
        match looks {
            1 => Reply::Json(200, json!([demo])),
            2 => Reply::Json(200, json!([demo, shop])),
            3 => problem(
                503,
                "database_unavailable",
                "the control database does not answer",
            ),
            _ => Reply::Json(200, json!([shop])),
        }
    })
}

#[test]
fn what_is_watched_without_a_terminal_appends_what_has_changed() {
    let api = changing();
    let mut watch = Running::start(&api.url, &["list", "--watch", "--interval", "1s"]);
    let words = |line: String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = (0..4).map(|_| words(watch.line())).collect();
    assert_eq!(
        lines,
        ["NAME STATE", "demo running", "shop creating", "shop running"]
    );
    let (code, said) = watch.interrupt();
    assert_eq!(code, 130);
    assert_eq!(
        said,
        "the control database does not answer [database_unavailable]; asking again\ndemo is gone\n"
    );
}

#[test]
fn what_is_watched_as_json_is_a_document_a_change() {
    let api = changing();
    let mut watch = Running::start(&api.url, &["list", "--watch", "--interval", "1s", "-o", "json"]);
    let seen: Vec<Value> = (0..3).map(|_| watch.document()).collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("demo", "running"), ("shop", "creating"), ("shop", "running")]
    );
    assert_eq!(watch.interrupt().0, 130);
}

#[test]
fn what_is_watched_on_a_terminal_is_drawn_anew() {
    let api = changing();
    let home = tempfile::tempdir().unwrap();
    let program = toygres(home.path()).get_program().to_str().unwrap().to_owned();
    let mut script = Command::new("script");
    script
        .args([
            "-qefc",
            &format!("{program} ls --watch --interval 1s"),
            "/dev/null",
        ])
        .env("TOYGRES_API_URL", &api.url)
        .env("TOYGRES_HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path());
    let mut watch = Running::spawn(script, home);
    let mut shown = String::new();
    while shown.matches("\x1b[H").count() < 2 {
        shown.push_str(&format!("{}\n", watch.line()));
    }
    assert!(shown.contains("NAME") && shown.contains("demo"), "{shown:?}");
    watch.child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(watch.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_reader_of_a_stream_that_goes_away_is_no_error() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut receiver = Some(receiver);
    let api = Api::start(move |_| Reply::Stream("text/event-stream", receiver.take().unwrap()));
    let home = tempfile::tempdir().unwrap();
    let mut follow = toygres(home.path())
        .env("TOYGRES_API_URL", &api.url)
        .args(["events", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(follow.stdout.take());
    sender.send(event("instance_event", 1, &happened(1))).unwrap();
    let ran: Ran = follow.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn what_follows_a_silent_log_ends_when_nobody_reads_it() {
    let (silent, receiver) = std::sync::mpsc::channel();
    let mut receiver = Some(receiver);
    silent.send("a line\n".into()).unwrap();
    let api = Api::start(move |_| Reply::Stream("text/plain", receiver.take().unwrap()));
    let mut follow = Running::start(&api.url, &["logs", "demo", "-f"]);
    assert_eq!(follow.line(), "a line");
    let Running { child, out, .. } = &mut follow;
    // As `| head -1` does.
    *out = BufReader::new(
        Command::new("true")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
            .stdout
            .take()
            .unwrap(),
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
