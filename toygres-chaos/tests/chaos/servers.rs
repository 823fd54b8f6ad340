//! Several servers on one database: work is shared, and of what one of them does late nothing stays.

use crate::load::Load;
use crate::{PATIENCE, PROGRAM};
use reqwest::Method;
use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use toygres_chaos::{Account, ServerOptions, ServerProcess, long};
use toygres_testing::{TestHome, TestPostgres, wait_for};

/// Servers on one database and one platform.
pub(crate) struct Fleet {
    pub(crate) postgres: TestPostgres,
    pub(crate) database_url: String,
    pub(crate) home: Arc<TestHome>,
    pub(crate) servers: Vec<ServerProcess>,
    port: u16,
}

impl Fleet {
    /// One server of each of these modes.
    pub(crate) async fn start(modes: &[&str]) -> Self {
        Self::start_with(modes, Vec::new()).await
    }

    /// The same with these settings.
    pub(crate) async fn start_with(modes: &[&str], settings: Vec<(&'static str, String)>) -> Self {
        let postgres = TestPostgres::start().await;
        let database_url = postgres.new_database().await;
        let mut fleet = Self {
            port: postgres.port(),
            postgres,
            database_url,
            home: Arc::new(TestHome::new()),
            servers: Vec::new(),
        };
        for mode in modes {
            let mode = ("TOYGRES_MODE", (*mode).to_owned());
            let server = fleet.options(settings.iter().cloned().chain([mode]).collect());
            fleet.servers.push(ServerProcess::start(server).await);
        }
        fleet
    }

    /// What one more server is started with.
    pub(crate) fn options(&self, settings: Vec<(&'static str, String)>) -> ServerOptions {
        ServerOptions {
            program: PROGRAM,
            database_url: self.database_url.clone(),
            home: Arc::clone(&self.home),
            shared: Some(self.port),
            settings,
        }
    }

    /// Clients of all servers that have an API.
    pub(crate) fn load(&self, servers: &[usize]) -> Load {
        Load::on(
            servers
                .iter()
                .map(|index| self.servers[*index].url.clone())
                .collect(),
        )
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database_url).await.unwrap()
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&mut self.connect().await)
            .await
            .unwrap()
    }

    /// After so many lives nothing is lost, nothing was made twice, and nothing is left.
    pub(crate) async fn sound(&self, lives: usize) {
        self.done(lives).await;
        self.clean().await;
    }

    /// So many lives succeeded, and nothing else was asked for.
    async fn done(&self, lives: usize) {
        let succeeded = "select count(*) from cms.operations where state = 'succeeded'";
        let lives = i64::try_from(lives).unwrap();
        assert_eq!(self.count(succeeded).await, 2 * lives);
        assert_eq!(self.count("select count(*) from cms.operations").await, 2 * lives);
    }

    /// Nothing failed in the engine, nothing was made twice, and nothing is left.
    pub(crate) async fn clean(&self) {
        let directory = ServerProcess::shared_directory(self.home.path());
        let made = std::fs::read_to_string(directory.join("made")).unwrap();
        let ids: BTreeSet<&str> = made.lines().collect();
        assert_eq!(ids.len(), made.lines().count(), "one was made twice");
        self.empty().await;
    }

    /// Nothing failed in the engine, and nothing is left.
    async fn empty(&self) {
        let failed = "select count(*) from duroxide.executions where status = 'Failed'";
        assert_eq!(self.count(failed).await, 0, "orchestrations failed");
        wait_for("an empty platform", PATIENCE, || async {
            (self.objects() == 0).then_some(())
        })
        .await;
        let drift = "select count(*) from cms.drift_findings where resolved_at is null";
        wait_for("no drift", PATIENCE, || async {
            (self.count(drift).await == 0).then_some(())
        })
        .await;
    }

    fn objects(&self) -> usize {
        let directory = ServerProcess::shared_directory(self.home.path());
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_shared() {
    for modes in [["api", "worker", "worker"], ["all", "all", "all"]] {
        let fleet = Fleet::start(&modes).await;
        let apis: Vec<usize> = (0..modes.len())
            .filter(|index| modes[*index] != "worker")
            .collect();
        let lives = 30;
        fleet.load(&apis).lives("shared", lives).await;
        let run: Vec<usize> = fleet.servers.iter().map(ServerProcess::activities_run).collect();
        let all: usize = run.iter().sum();
        for (mode, run) in modes.iter().zip(&run) {
            match *mode {
                "api" => assert_eq!(*run, 0, "an API runs nothing"),
                _ => assert!(run * 10 > all, "{modes:?}: one of them ran {run} of {all}"),
            }
        }
        fleet.sound(lives).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_for_longer_than_its_locks_and_goes_on() {
    let mut account = Account::new(
        "servers",
        "one of two stopped by SIGSTOP for longer than its locks, and continued",
    );
    let fleet = Fleet::start(&["all", "all"]).await;
    let lives = 20;
    // Clients ask the other one.
    let load = fleet.load(&[1]);
    for round in 0..if long() { 5 } else { 1 } {
        let prefix = format!("stopped-{round}");
        let interrupt = async {
            let begun = format!("select count(*) from cms.operations where state = 'running' or {round} < 0");
            wait_for("work", PATIENCE, || async {
                (fleet.count(&begun).await >= 2).then_some(())
            })
            .await;
            fleet.servers[0].signal(Signal::STOP);
            tokio::time::sleep(Duration::from_secs(15)).await;
            fleet.servers[0].signal(Signal::CONT);
        };
        tokio::join!(load.lives(&prefix, lives), interrupt);
        account.injected(1);
        fleet.done((round + 1) * lives).await;
        // It may have been stopped just when it was about to make one, which was deleted meanwhile.
        fleet.empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_makes_late_of_a_deleted_instance_is_removed() {
    let mut account = Account::new(
        "servers",
        "one of two makes an instance that was deleted while it stood still",
    );
    let fleet = Fleet::start(&["all", "all"]).await;
    for round in 0..if long() { 5 } else { 1 } {
        // Whichever takes it.
        for server in &fleet.servers {
            server.stop_before_making();
        }
        let stopped = || {
            let stands = |server: &ServerProcess| {
                let status = std::fs::read_to_string(format!("/proc/{}/stat", server.pid().as_raw_nonzero()));
                status
                    .unwrap()
                    .rsplit(')')
                    .next()
                    .unwrap()
                    .trim_start()
                    .starts_with('T')
            };
            (0..2).find(|index| stands(&fleet.servers[*index]))
        };
        let name = format!("late-{round}");
        let body = serde_json::json!({ "name": name, "password": "chaos-secret" });
        let (status, body) = fleet.servers[0]
            .ask(Method::POST, "/api/instances", Some(&body))
            .await
            .unwrap();
        assert_eq!(status, 202, "{body}");
        let created: toygres_models::instances::InstanceAccepted = serde_json::from_value(body).unwrap();
        let late = wait_for("one to stand still", PATIENCE, || async { stopped() }).await;
        let other = 1 - late;
        let directory = ServerProcess::shared_directory(fleet.home.path());
        let own = directory.join(format!("stop-{}", fleet.servers[other].pid().as_raw_nonzero()));
        std::fs::remove_file(own).unwrap();
        let load = fleet.load(&[other]);
        load.ended(&created).await;
        load.delete(&created).await;
        assert_eq!(fleet.objects(), 0);
        fleet.servers[late].signal(Signal::CONT);
        let begun = Instant::now();
        let made = || std::fs::read_to_string(directory.join("made")).unwrap();
        let times = || {
            made()
                .lines()
                .filter(|line| *line == created.instance.id.to_string())
                .count()
        };
        wait_for("what it makes late", PATIENCE, || async {
            (times() == 2).then_some(())
        })
        .await;
        wait_for("its removal", PATIENCE, || async {
            (fleet.objects() == 0).then_some(())
        })
        .await;
        account.injected(1);
        account.recovered(begun.elapsed());
        let instance = fleet.servers[late]
            .get(&format!("/api/instances/{}", created.instance.id))
            .await;
        assert_eq!(instance["state"], "deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_incarnations_of_an_actor_one_writes() {
    let mut account = Account::new("servers", "two incarnations of one actor at work");
    let fleet = Fleet::start(&["all", "all"]).await;
    let load = fleet.load(&[0, 1]);
    let created = load.create("twice").await;
    let id = created.instance.id;
    let running = format!(
        "select count(*) from duroxide.executions where status = 'Running' and instance_id like 'actor-{id}-%'"
    );
    let checks = format!("select count(*) from cms.health_checks where instance_id = '{id}'");
    for incarnation in 2..5 {
        // As if another sweeper had replaced it, but without an end of the one before.
        let sql = format!("update cms.instances set incarnation = {incarnation} where id = '{id}'");
        sqlx::query(&sql)
            .execute(&mut fleet.connect().await)
            .await
            .unwrap();
        let begun = Instant::now();
        let started = format!(
            "select count(*) from duroxide.executions where instance_id = 'actor-{id}-{incarnation}'"
        );
        wait_for("the new one", PATIENCE, || async {
            (fleet.count(&started).await > 0).then_some(())
        })
        .await;
        wait_for("the end of the old one", PATIENCE, || async {
            (fleet.count(&running).await == 1).then_some(())
        })
        .await;
        let before = fleet.count(&checks).await;
        wait_for("the next check", PATIENCE, || async {
            (fleet.count(&checks).await > before).then_some(())
        })
        .await;
        account.injected(1);
        account.recovered(begun.elapsed());
    }
    load.delete(&created).await;
    fleet.sound(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_nothing() {
    let mut account = Account::new(
        "servers",
        "one of three restarted by SIGTERM, in turn, under load",
    );
    let mut killed = Account::new(
        "servers",
        "one of three restarted by SIGKILL, in turn, under load",
    );
    let mut fleet = Fleet::start(&["all", "all", "all"]).await;
    let load = Arc::new(fleet.load(&[0, 1, 2]));
    let lives = if long() { 400 } else { 60 };
    let over = Arc::new(AtomicBool::new(false));
    let busy = {
        let (load, over) = (Arc::clone(&load), Arc::clone(&over));
        tokio::spawn(async move { load.lives_until("rolling", lives, &over).await })
    };
    let mut rounds = 0;
    let ended = "select count(*) from cms.operations where state = 'succeeded'";
    while !busy.is_finished() {
        let server = &mut fleet.servers[rounds % 3];
        let begun = Instant::now();
        if rounds % 6 < 3 {
            server.terminate().await;
            server.start_again().await;
            account.injected(1);
            account.recovered(begun.elapsed());
        } else {
            server.kill();
            server.start_again().await;
            killed.injected(1);
            killed.recovered(begun.elapsed());
        }
        rounds += 1;
        // Each way to end all of them at least once.
        over.store(rounds > 5, Ordering::SeqCst);
        let before = fleet.count(ended).await;
        wait_for("work to get on", PATIENCE, || async {
            (busy.is_finished() || fleet.count(ended).await >= before + 5).then_some(())
        })
        .await;
    }
    let lives = busy.await.expect("every life");
    eprintln!(
        "{rounds} restarts; {} requests were not answered, {} refused, and asked again",
        load.unanswered.load(Ordering::SeqCst),
        load.refused.load(Ordering::SeqCst)
    );
    fleet.sound(lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sweeps_and_prunes_at_a_time_and_another_takes_over() {
    let mut fleet = Fleet::start(&[]).await;
    for number in 0..3 {
        let soon = |name| (name, "1".to_owned());
        let settings = [
            "TOYGRES_PRUNE_INTERVAL_SECONDS",
            "TOYGRES_RETENTION_HEALTH_CHECKS_SECONDS",
        ];
        let options = ServerOptions {
            database_url: format!("{}&application_name=server-{number}", fleet.database_url),
            ..fleet.options(settings.map(soon).to_vec())
        };
        fleet.servers.push(ServerProcess::start(options).await);
    }
    let who_prunes = "create table pruned (number bigint generated always as identity, server text); \
        create function note() returns trigger language plpgsql as $$ begin \
            insert into pruned (server) values (current_setting('application_name')); return null; end $$; \
        create trigger note after delete on cms.health_checks for each row execute function note()";
    sqlx::raw_sql(who_prunes)
        .execute(&mut fleet.connect().await)
        .await
        .unwrap();
    fleet.load(&[0]).create("watched").await;

    // The one that swept first was started first.
    let mut pruners = Vec::new();
    let first = sweeps_alone(&fleet, None, &mut pruners).await;
    let mut account = Account::new(
        "servers",
        "the one of three that sweeps stopped by SIGSTOP for longer than its lease, and continued",
    );
    fleet.servers[0].signal(Signal::STOP);
    let stopped = Instant::now();
    let second = sweeps_alone(&fleet, Some(&first), &mut pruners).await;
    account.injected(1);
    account.recovered(stopped.elapsed());
    fleet.servers[0].signal(Signal::CONT);
    // It takes up what it was about to do, and nothing after that.
    let third = sweeps_alone(&fleet, Some(&first), &mut pruners).await;
    assert_eq!(third, second);

    let mut account = Account::new("servers", "the one of three that sweeps killed");
    let killed = pruners.last().unwrap().strip_prefix("server-").unwrap();
    let killed: usize = killed.parse().unwrap();
    fleet.servers[killed].kill();
    let begun = Instant::now();
    sweeps_alone(&fleet, Some(&second), &mut pruners).await;
    account.injected(1);
    account.recovered(begun.elapsed());
    let [one, two, three, four] = &pruners[..] else {
        panic!("{pruners:?}")
    };
    assert_eq!(one, "server-0");
    assert!(two != one && three == two && four != three, "{pruners:?}");
}

/// Waits until another one than `before` has the lease, and watches it over several sweeps of all: it keeps it, and only
/// one server prunes, which is added.
async fn sweeps_alone(fleet: &Fleet, before: Option<&String>, pruners: &mut Vec<String>) -> String {
    let sql = "select holder::text from cms.leases where name = 'sweeper' and expires_at > clock_timestamp()";
    let holder = async || -> Option<String> {
        let holder = sqlx::query_scalar(sql);
        holder.fetch_optional(&mut fleet.connect().await).await.unwrap()
    };
    let holds = wait_for("another one to sweep", PATIENCE, || async {
        holder().await.filter(|found| Some(found) != before)
    })
    .await;
    let mut connection = fleet.connect().await;
    // Whoever had it before may be in the midst of it once more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pruned: i64 = sqlx::query_scalar("select coalesce(max(number), 0) from pruned")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(holder().await.as_ref(), Some(&holds), "it is kept");
    }
    let servers: Vec<String> = sqlx::query_scalar("select distinct server from pruned where number > $1")
        .bind(pruned)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let [server] = &servers[..] else {
        panic!("{servers:?} prune")
    };
    pruners.push(server.clone());
    holds
}
