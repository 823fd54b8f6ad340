//! Clients and users that mean no good, against a server in a process of its own.

use crate::{PATIENCE, quick_server, real_server};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use reqwest::Method;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use toygres_chaos::{Account, ServerProcess, Stalls, long};
use toygres_testing::{TestPostgres, wait_for};

/// As many as come at once; the server takes 4096 of them, the others wait in the system's queue.
fn crowd() -> usize {
    if long() { 10_000 } else { 2000 }
}

/// What one connection may cost a server, in bytes of its memory.
const EACH: u64 = 64 * 1024;

/// So long others may wait while all of them connect.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Connections of other clients and to the database, which stay open for a while.
const SPARE: usize = 100;

/// Both ends of each connection are open: here and, in a process of its own, there.
fn allow_open_files(count: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = count as u64 + 1000;
    assert!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "{wanted} files are needed: raise `ulimit -Hn`"
    );
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
}

fn address(server: &ServerProcess) -> SocketAddr {
    server.url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn open_files(server: &ServerProcess) -> usize {
    let directory = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    std::fs::read_dir(directory).unwrap().count()
}

/// Its memory in bytes.
fn memory(server: &ServerProcess) -> u64 {
    let status = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What a connection of the crowd does.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Nothing at all.
    Silent,
    /// Begins a head and never ends it.
    HalfHead,
    /// Says that a body comes, and sends half of it.
    HalfBody,
    /// Is gone after its request.
    Gone,
}

const MANNERS: [(Manner, &str); 4] = [
    (Manner::Silent, "connections at once that say nothing"),
    (Manner::HalfHead, "connections at once with half a head"),
    (Manner::HalfBody, "connections at once with half a body"),
    (
        Manner::Gone,
        "connections at once that are gone before the answer",
    ),
];

impl Manner {
    async fn connect(self, address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let get = |path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
        let said = match self {
            Self::Silent => String::new(),
            Self::HalfHead => get("/api/instances"),
            Self::HalfBody => {
                "POST /api/instances HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                               content-length: 1000\r\n\r\n{\"name\":"
                    .to_owned()
            }
            Self::Gone => format!("{}\r\n", get("/livez")),
        };
        stream.write_all(said.as_bytes()).await.ok()?;
        (!matches!(self, Self::Gone)).then_some(stream)
    }
}

/// A client that has nothing to do with any other is answered.
async fn assert_serves(server: &ServerProcess, during: &str) -> Duration {
    let begun = Instant::now();
    let (status, body) = server
        .ask(Method::GET, "/api/instances", None)
        .await
        .expect(during);
    assert_eq!(status, 200, "{during}: {body}");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_keeps_nobody_from_being_served_and_leaves_nothing_behind() {
    let crowd = crowd();
    allow_open_files(crowd);
    let postgres = TestPostgres::start().await;
    let server = quick_server(
        &postgres,
        vec![("TOYGRES_MAX_CONNECTIONS", (2 * crowd).to_string())],
    )
    .await;
    // Once, so that what is made by need is there.
    let connections: Vec<_> = stream::iter(0..100)
        .map(|_| Manner::Gone.connect(address(&server)))
        .buffer_unordered(100)
        .collect()
        .await;
    drop(connections);
    assert_serves(&server, "before").await;
    let (files, memory_before) = (open_files(&server), memory(&server));
    let mut accounts = MANNERS.map(|(_, what)| Account::new("hostile", what));
    let mut kept = Vec::new();
    for _ in 0..3 {
        for ((manner, what), account) in MANNERS.into_iter().zip(&mut accounts) {
            let connections: Vec<Option<TcpStream>> = stream::iter(0..crowd)
                .map(|_| manner.connect(address(&server)))
                .buffer_unordered(500)
                .collect()
                .await;
            let connections: Vec<TcpStream> = connections.into_iter().flatten().collect();
            let most_files = open_files(&server);
            let stalls = Stalls::begin();
            let answers = join_all((0..20).map(|_| assert_serves(&server, what))).await;
            let slowest = answers.into_iter().max().unwrap();
            let most = memory(&server);
            eprintln!(
                "{crowd} {what}: {most_files} files, {} MiB, others were answered within {slowest:?}",
                most >> 20
            );
            if !matches!(manner, Manner::Gone) {
                assert_eq!(connections.len(), crowd, "{what}");
                // On a busy machine the first ones are cut off before the last ones are taken.
                assert!(most_files >= files + crowd / 2, "{what}: {most_files} files");
            }
            assert!(slowest < SERVED_WITHIN + stalls.total(), "{what}: {slowest:?}");
            let bound = memory_before + crowd as u64 * EACH;
            assert!(most < bound, "{what}: {most} bytes after {memory_before}");
            let ended = Instant::now();
            drop(connections);
            wait_for("the files to be closed", PATIENCE, || async {
                (open_files(&server) < files + SPARE).then_some(())
            })
            .await;
            account.injected(crowd);
            account.recovered(ended.elapsed());
        }
        kept.push(memory(&server) >> 20);
    }
    // An allocator gives back little of what was used, and takes ever less for the same again: for a crowd of 2000,
    // which takes 70 MiB at first, next to nothing after ten times.
    let bound = kept[1] + 16 + crowd as u64 / 200;
    assert!(kept[2] <= bound, "memory grows: {kept:?} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_the_server_full_is_served_when_the_silent_are_cut_off() {
    let postgres = TestPostgres::start().await;
    let server = quick_server(&postgres, vec![("TOYGRES_MAX_CONNECTIONS", "100".to_owned())]).await;
    let connect = |_| async { Manner::HalfHead.connect(address(&server)).await.unwrap() };
    let mut crowd: Vec<TcpStream> = stream::iter(0..200)
        .map(connect)
        .buffer_unordered(50)
        .collect()
        .await;
    let begun = Instant::now();
    // It waits for its turn behind all of them: two rounds of ten seconds.
    let (status, answer) = raw(address(&server), "GET", "/livez").await;
    assert_eq!(status, 200, "{answer}");
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "it did not have to wait: {:?}",
        begun.elapsed()
    );
    let mut account = Account::new("hostile", "a server full of connections that end no request");
    account.injected(crowd.len());
    account.recovered(begun.elapsed());
    // Told why, or just closed.
    let mut answer = String::new();
    crowd[0].read_to_string(&mut answer).await.ok();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
}

/// Names that lead elsewhere if they are taken for paths, or look like `kept`.
const TRICKS: [&str; 17] = [
    "..",
    "%2e%2e",
    "%2e%2e%2f",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fmark",
    "..%5c..%5cmark",
    "%252e%252e%252fmark",
    "%c0%ae%c0%ae%2fmark",
    "%2fetc%2fpasswd",
    "kept%2f..%2f..%2fmark",
    "kept/../../mark",
    "kept%00",
    "kept%0a",
    "kept%0d%0ax-injected:%201",
    // A Cyrillic letter, full-width letters, one that joins.
    "%d0%baept",
    "%ef%bd%8b%ef%bd%85%ef%bd%90%ef%bd%94",
    "kep%e2%80%8dt",
];

/// The status and the whole answer of a request that is sent as it is: clients put such paths in order first.
async fn raw(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect(path).ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (
        status.unwrap_or_else(|| panic!("{method} {path}: {answer}")),
        answer,
    )
}

/// What lies in a directory.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<String> = entries
        .map(|it| it.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_out_of_its_place() {
    let postgres = TestPostgres::start().await;
    let server = real_server(&postgres).await;
    let kept = server.create("kept").await;
    assert!(server.ended(&kept).await.error.is_none());
    std::fs::write(server.home().join("mark"), "canary-mark").unwrap();
    let places = [
        server.home().to_owned(),
        server.home().join("instances"),
        server.home().join("trash"),
    ];
    let before = places.each_ref().map(|place| names_in(place));
    let document = server.get("/api/openapi.json").await;
    let mut routes: Vec<(String, String)> = vec![("GET".to_owned(), "/docs/{file}".to_owned())];
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase());
        routes.extend(
            methods
                .filter(|it| it != "PARAMETERS")
                .map(|method| (method, path.clone())),
        );
    }
    let long = "%2e%2e%2f".repeat(2000);
    let mut account = Account::new("hostile", "a path in place of a name, in every route");
    for (method, path) in routes.iter().filter(|(_, path)| path.contains('{')) {
        for trick in TRICKS.into_iter().chain([long.as_str()]) {
            let (head, rest) = path.split_once('{').unwrap();
            let path = format!("{head}{trick}{}", rest.split_once('}').unwrap().1);
            let (status, answer) = raw(address(&server), method, &path).await;
            assert!((400..500).contains(&status), "{method} {path:.100}: {answer}");
            let wrong = ["canary", "root:", "\r\nx-injected"];
            assert!(
                !wrong.iter().any(|text| answer.contains(text)),
                "{method} {path:.100}: {answer}"
            );
            account.injected(1);
        }
    }
    assert_eq!(places.each_ref().map(|place| names_in(place)), before);
    let instance = server.get("/api/instances/kept").await;
    assert_eq!(instance["state"], "running");
}

/// The process that a running instance's server is.
fn postmaster(server: &ServerProcess, name: &str) -> Pid {
    let instances = server.home().join("instances");
    let directory = names_in(&instances)
        .into_iter()
        .find(|it| it.starts_with(&format!("{name}-")));
    let file = instances.join(directory.unwrap()).join("data/postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap()
}

async fn checks(server: &ServerProcess, name: &str) -> Vec<Value> {
    let checks = server
        .get(&format!("/api/instances/{name}/health?limit=1000"))
        .await;
    checks.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_makes_of_his_server_is_no_matter_of_others() {
    let postgres = TestPostgres::start().await;
    let server = real_server(&postgres).await;
    let names = ["honest", "stopped", "costly-1", "costly-2", "costly-3"];
    let created = join_all(names.map(|name| server.create(name))).await;
    for accepted in &created {
        assert!(server.ended(accepted).await.error.is_none());
    }
    // An hour of hashing, in one statement.
    for name in &names[2..] {
        let connection = server
            .get(&format!("/api/instances/{name}/connection?reveal=true"))
            .await;
        let url = format!(
            "{}?sslmode=disable",
            connection["connection_string"].as_str().unwrap()
        );
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let sql =
            "update pg_authid set rolpassword = regexp_replace(rolpassword, '[$]4096:', '$2147483647:')";
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
    // Takes connections, as the system does that for it, and never answers.
    let stopped = postmaster(&server, "stopped");
    kill_process(stopped, Signal::STOP).unwrap();
    let begun = Instant::now();
    for (name, code) in [
        ("stopped", "timeout"),
        ("costly-1", "protocol_error"),
        ("costly-3", "protocol_error"),
    ] {
        wait_for("the check to find it", PATIENCE, || async {
            let checks = checks(&server, name).await;
            checks
                .iter()
                .any(|check| check["error_code"] == code)
                .then_some(())
        })
        .await;
    }
    let before = checks(&server, "honest").await.len();
    let rhythm = Instant::now();
    wait_for("ten more checks of the honest one", PATIENCE, || async {
        (checks(&server, "honest").await.len() >= before + 10).then_some(())
    })
    .await;
    // One a second.
    assert!(
        rhythm.elapsed() < Duration::from_secs(40),
        "{:?}",
        rhythm.elapsed()
    );
    let honest = checks(&server, "honest").await;
    assert!(honest.iter().all(|check| check["healthy"] == true), "{honest:?}");
    eprintln!("ten checks took {:?}", rhythm.elapsed());
    assert_serves(&server, "beside hostile instances").await;
    kill_process(stopped, Signal::CONT).unwrap();
    let mut account = Account::new(
        "hostile",
        "tenants' servers that never answer, or ask for an hour of work",
    );
    account.injected(4);
    account.recovered(begun.elapsed());
    wait_for("the stopped one to be well again", PATIENCE, || async {
        let checks = checks(&server, "stopped").await;
        (checks[0]["healthy"] == true).then_some(())
    })
    .await;
}
