//! What clients were told is stored is there, once, whatever becomes of the processes that keep it.

use crate::{PATIENCE, real_server};
use rand::seq::{IndexedRandom, SliceRandom};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use toygres_chaos::{Account, ServerProcess, long, random};
use toygres_models::InstanceId;
use toygres_testing::{TestPostgres, wait_for};

/// Instances that clients write to all the time.
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const CLIENTS: usize = 4;
/// A client that hears nothing for so long connects again.
const SILENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// What clients of one instance have done.
#[derive(Default)]
struct Ledger {
    /// Rises, so that no number is tried twice.
    next: AtomicI64,
    acknowledged: Mutex<BTreeSet<i64>>,
    /// Answers on connections that had none before.
    reached: AtomicU64,
    /// Clients whose connection has had one.
    writing: AtomicUsize,
    enough: AtomicBool,
}

/// An instance, and the clients that write to it.
struct Written {
    id: InstanceId,
    url: String,
    /// Where its files are.
    directory: PathBuf,
    ledger: Arc<Ledger>,
    clients: JoinSet<()>,
}

impl Written {
    /// Makes the instance; its first number is `first`.
    async fn create(server: &ServerProcess, name: &str, first: i64) -> Self {
        let accepted = server.create(name).await;
        let operation = server.ended(&accepted).await;
        assert!(operation.error.is_none(), "{operation:?}");
        let url = url_of(server, name).await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        // No unique key: what is there twice is to be seen. That the table is not there yet is part of the test.
        let sql = "create table numbers (n bigint not null)";
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        let ledger = Arc::new(Ledger::default());
        ledger.next.store(first, Ordering::Relaxed);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(write(url.clone(), ledger.clone()));
        }
        let written = Self {
            id: accepted.instance.id,
            url,
            directory: directory_of(server, name),
            ledger,
            clients,
        };
        written.goes_on(0).await;
        written
    }

    fn reached(&self) -> u64 {
        self.ledger.reached.load(Ordering::Relaxed)
    }

    /// Waits until all its clients write: who connects again from then on has lost a connection since.
    async fn settled(&self) {
        wait_for("all clients to write", PATIENCE, || async {
            (self.ledger.writing.load(Ordering::Relaxed) == CLIENTS).then_some(())
        })
        .await;
    }

    /// Waits until a client that had to connect again since this was reached has stored a number.
    async fn goes_on(&self, reached: u64) {
        wait_for("clients to go on", PATIENCE, || async {
            (self.reached() > reached).then_some(())
        })
        .await;
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    fn kill_postmaster(&self) {
        if let Some(postmaster) = self.postmaster() {
            kill_process(postmaster, Signal::KILL).ok();
        }
    }

    fn port(&self) -> u16 {
        let url: reqwest::Url = self.url.parse().unwrap();
        url.port().unwrap()
    }

    /// Ends its clients; how many numbers they were told are stored. Fails if one of them is not there, or twice, or if
    /// there is one that nobody sent.
    async fn account_for(mut self) -> usize {
        self.ledger.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let stored: Vec<(i64, i64)> = wait_for("its numbers", PATIENCE, || async {
            let mut connection = PgConnection::connect(&self.url).await.ok()?;
            let sql = "select n, count(*) from numbers group by n";
            sqlx::query_as(sql).fetch_all(&mut connection).await.ok()
        })
        .await;
        let stored: BTreeMap<i64, i64> = stored.into_iter().collect();
        let acknowledged = self.ledger.acknowledged.lock().unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|n| !stored.contains_key(n)).collect();
        let doubled: Vec<_> = stored.iter().filter(|(_, times)| **times != 1).collect();
        let next = self.ledger.next.load(Ordering::Relaxed);
        let first = next - next % 1_000_000_000;
        let foreign: Vec<_> = stored.keys().filter(|n| !(first..next).contains(*n)).collect();
        assert!(
            lost.is_empty() && doubled.is_empty() && foreign.is_empty(),
            "{}: of {} {} are lost, {} doubled, {} of others: {:?} {:?} {:?}",
            self.id,
            acknowledged.len(),
            lost.len(),
            doubled.len(),
            foreign.len(),
            lost.first(),
            doubled.first(),
            foreign.first()
        );
        acknowledged.len()
    }
}

/// One client: connects, and inserts one number after the other as fast as it is answered.
async fn write(url: String, ledger: Arc<Ledger>) {
    while !ledger.enough.load(Ordering::Relaxed) {
        let connected = tokio::time::timeout(SILENCE, PgConnection::connect(&url)).await;
        let Ok(Ok(mut connection)) = connected else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut is_first = true;
        while !ledger.enough.load(Ordering::Relaxed) {
            let number = ledger.next.fetch_add(1, Ordering::Relaxed);
            let insert = sqlx::query("insert into numbers values ($1)").bind(number);
            let Ok(Ok(_)) = tokio::time::timeout(SILENCE, insert.execute(&mut connection)).await else {
                // It may be stored or not: nobody knows.
                break;
            };
            ledger.acknowledged.lock().unwrap().insert(number);
            if std::mem::take(&mut is_first) {
                ledger.writing.fetch_add(1, Ordering::Relaxed);
                ledger.reached.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !is_first {
            ledger.writing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn url_of(server: &ServerProcess, name: &str) -> String {
    let connection = server
        .get(&format!("/api/instances/{name}/connection?reveal=true"))
        .await;
    let url = connection["connection_string"].as_str().unwrap();
    format!("{url}?sslmode=disable")
}

/// The only directory of an instance of this name.
fn directory_of(server: &ServerProcess, name: &str) -> PathBuf {
    let entries = std::fs::read_dir(server.home().join("instances"))
        .unwrap()
        .flatten();
    let named = |entry: &std::fs::DirEntry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}-"))
    };
    let found: Vec<PathBuf> = entries.filter(named).map(|entry| entry.path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Ends everything that works below this directory at once, as the end of the machine would.
fn kill_all_in(directory: &Path) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let works_there =
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|path| path.starts_with(directory));
        if let Some(pid) = Pid::from_raw(pid).filter(|_| works_there) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Ends one session of a client the hard way.
async fn kill_backend(instance: &Written) {
    let sql = "select pid from pg_stat_activity where backend_type = 'client backend' \
               and query like 'insert%' limit 1";
    // It may not be back yet from what was done to it before.
    let pid: i32 = wait_for("a session that writes", PATIENCE, || async {
        let mut connection = PgConnection::connect(&instance.url).await.ok()?;
        sqlx::query_scalar(sql)
            .fetch_optional(&mut connection)
            .await
            .ok()?
    })
    .await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Ends the instance's server and takes its port before it is started again. Who connects is sent away.
async fn take_port(instance: &Written) -> tokio::task::JoinHandle<()> {
    let listener = wait_for("the port to be free", PATIENCE, || async {
        instance.kill_postmaster();
        TcpListener::bind(("127.0.0.1", instance.port())).await.ok()
    })
    .await;
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    })
}

#[derive(Debug, Clone, Copy)]
enum Strike {
    Postmaster,
    Backend,
    Server,
    ServerAndPostmaster,
    Port,
    Machine,
    Again,
}

const STRIKES: [(Strike, &str); 7] = [
    (
        Strike::Postmaster,
        "SIGKILL of an instance's postmaster under writes",
    ),
    (
        Strike::Backend,
        "SIGKILL of one backend of an instance under writes",
    ),
    (Strike::Server, "SIGKILL of the toygres server under writes"),
    (
        Strike::ServerAndPostmaster,
        "SIGKILL of the toygres server and then of a postmaster under writes",
    ),
    (
        Strike::Port,
        "an instance's port taken by another program between kill and restart",
    ),
    (
        Strike::Machine,
        "all processes of the machine killed at once under writes",
    ),
    (
        Strike::Again,
        "an instance deleted and made anew under its name under writes",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_number_is_there_once() {
    let mut random = random("data");
    let postgres = TestPostgres::start().await;
    let mut server = real_server(&postgres).await;
    let mut instances = Vec::new();
    let mut first = 0;
    let mut create = async |server: &ServerProcess, name: &str| {
        first += 1_000_000_000;
        Written::create(server, name, first).await
    };
    for name in NAMES {
        instances.push(create(&server, name).await);
    }
    let mut again = create(&server, "again").await;
    let mut accounts: Vec<Account> = STRIKES
        .iter()
        .map(|(_, fault)| Account::new("data", *fault))
        .collect();
    let mut stored = 0;

    for _ in 0..if long() { 20 } else { 1 } {
        let mut order: Vec<usize> = (0..STRIKES.len()).collect();
        order.shuffle(&mut random);
        for at in order {
            for instance in &instances {
                instance.settled().await;
            }
            let victim = instances.choose(&mut random).unwrap();
            let before: Vec<u64> = instances.iter().map(Written::reached).collect();
            let reached = victim.reached();
            let mut begun = Instant::now();
            match STRIKES[at].0 {
                Strike::Postmaster => {
                    victim.kill_postmaster();
                    victim.goes_on(reached).await;
                }
                Strike::Backend => {
                    kill_backend(victim).await;
                    victim.goes_on(reached).await;
                }
                Strike::Server => {
                    server.kill();
                    server.start_again().await;
                }
                Strike::ServerAndPostmaster => {
                    server.kill();
                    victim.kill_postmaster();
                    server.start_again().await;
                    victim.goes_on(reached).await;
                }
                Strike::Port => {
                    let taker = take_port(victim).await;
                    let path = format!("/api/instances/{}/health", victim.id);
                    wait_for("the cause to be named", PATIENCE, || async {
                        let (_, checks) = server.ask(Method::GET, &path, None).await?;
                        (checks[0]["error_code"] == "port_taken").then_some(())
                    })
                    .await;
                    let reached = victim.reached();
                    taker.abort();
                    begun = Instant::now();
                    // On the port that clients know.
                    victim.goes_on(reached).await;
                    assert_eq!(url_of(&server, &victim.id.to_string()).await, victim.url,);
                }
                Strike::Machine => {
                    server.kill();
                    kill_all_in(&server.home().join("instances"));
                    server.start_again().await;
                    for (instance, reached) in instances.iter().zip(before) {
                        instance.goes_on(reached).await;
                    }
                }
                Strike::Again => {
                    let deleted = server.request_delete("again").await;
                    let operation = server.ended(&deleted).await;
                    assert!(operation.error.is_none(), "{operation:?}");
                    assert!(!again.directory.exists());
                    // Its clients know no better, and go on trying until then.
                    again = create(&server, "again").await;
                }
            }
            accounts[at].injected(1);
            accounts[at].recovered(begun.elapsed());
            eprintln!("{:?}: {:?}", STRIKES[at].0, begun.elapsed());
        }
    }
    instances.push(again);
    for instance in instances {
        stored += instance.account_for().await;
    }
    eprintln!("{stored} numbers were acknowledged, and are there");
    assert!(stored > 1000, "{stored}");
}
