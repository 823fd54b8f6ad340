//! The program itself, run as people run it, and a small API that answers what a test says.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

pub(crate) mod canned;
pub(crate) mod fake;
pub(crate) mod machine;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

/// The program, with nothing of this machine's configuration.
pub(crate) fn toygres(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toygres"));
    for name in [
        "TOYGRES_API_URL",
        "TOYGRES_TOKEN",
        "TOYGRES_CONTEXT",
        "TOYGRES_CA_CERT",
        "TOYGRES_LISTEN",
        "DATABASE_URL",
        "NO_COLOR",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
        .env("TOYGRES_HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .stdin(Stdio::null());
    command
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program against `url`, with `input` on standard input.
pub(crate) fn run_with(url: &str, arguments: &[&str], input: &str) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut child = toygres(home.path())
        .env("TOYGRES_API_URL", url)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap().into()
}

pub(crate) fn run(url: &str, arguments: &[&str]) -> Ran {
    run_with(url, arguments, "")
}

/// A request as the API got it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method, path and query.
    pub(crate) line: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let find = |header: &String| header.to_lowercase().starts_with(&format!("{name}: "));
        self.headers
            .iter()
            .find(|h| find(h))
            .map(|header| header.split_once(": ").unwrap().1)
    }
}

/// What the API does with a request.
pub(crate) enum Reply {
    Json(u16, serde_json::Value),
    Text(u16, &'static str),
    /// A document with headers of its own.
    With(u16, &'static str, serde_json::Value),
    /// What is sent through the channel, bit by bit, until its other end is dropped; of this content type.
    Stream(&'static str, Receiver<String>),
    Empty(u16),
    /// Closes the connection without an answer.
    HangUp,
}

impl Reply {
    /// A stream that says this and ends.
    pub(crate) fn stream(kind: &'static str, parts: impl IntoIterator<Item = String>) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        parts.into_iter().for_each(|part| sender.send(part).unwrap());
        Self::Stream(kind, receiver)
    }
}

/// A server-sent event.
pub(crate) fn event(name: &str, id: i64, data: &serde_json::Value) -> String {
    format!(": heartbeat\n\nevent: {name}\nid: {id}\ndata: {data}\n\n")
}

/// An API whose answers are given by a function of the test's.
pub(crate) struct Api {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Api {
    pub(crate) fn start(answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let answer = Arc::new(Mutex::new(answer));
        // Ends with the test process: it only waits for connections.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                seen.lock().unwrap().push(request.clone());
                let answer = answer.clone();
                // A stream goes on while others are answered.
                std::thread::spawn(move || {
                    let reply = (answer.lock().unwrap())(&request);
                    write(stream, reply);
                });
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end() {
            "" => break,
            header => headers.push(header.to_owned()),
        }
    }
    let mut request = Request {
        line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: String::new(),
    };
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

fn write(mut stream: TcpStream, reply: Reply) {
    let (status, headers, body) = match reply {
        Reply::Json(status @ 400.., value) => (
            status,
            "content-type: application/problem+json",
            value.to_string(),
        ),
        Reply::Json(status, value) => (status, "content-type: application/json", value.to_string()),
        Reply::With(status, headers, value) => (status, headers, value.to_string()),
        Reply::Text(status, text) => (status, "content-type: text/html", text.to_owned()),
        Reply::Empty(status) => (status, "x: -", String::new()),
        Reply::Stream(kind, parts) => {
            let head = format!(
                "HTTP/1.1 200 -\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).ok();
            for part in parts {
                stream
                    .write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes())
                    .ok();
            }
            stream.write_all(b"0\r\n\r\n").ok();
            return;
        }
        Reply::HangUp => return,
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} -\r\n{headers}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).ok();
}
