//! The control database fails in every way it can, while instances are made and deleted: nothing fails for it, clients
//! are told to come back, and all is well soon after.

use crate::load::Load;
use crate::{PATIENCE, PROGRAM};
use reqwest::Method;
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use toygres_chaos::{Account, Link, ServerOptions, ServerProcess, Stalls, Traffic, long, seed};
use toygres_testing::{TestHome, TestPostgres, Tmpfs, wait_for};

/// The control database, that of the instances, and a server that reaches the former over a link.
struct Scene {
    control: TestPostgres,
    /// Behind every instance.
    _tenants: TestPostgres,
    link: Link,
    database: String,
    server: ServerProcess,
}

/// Recovery may take so long, without a restart of the server.
const RECOVERY: Duration = Duration::from_secs(20);

impl Scene {
    async fn on(control: TestPostgres) -> Self {
        let tenants = TestPostgres::start().await;
        let link = Link::to(control.port(), seed("database")).await;
        let database = control.new_database().await;
        let own = format!(":{}/", control.port());
        let server = ServerProcess::start(ServerOptions {
            program: PROGRAM,
            database_url: database.replace(&own, &format!(":{}/", link.port())),
            home: Arc::new(TestHome::new()),
            shared: Some(tenants.port()),
            settings: Vec::new(),
        })
        .await;
        Self {
            control,
            _tenants: tenants,
            link,
            database,
            server,
        }
    }

    async fn new() -> Self {
        Self::on(TestPostgres::start().await).await
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database).await.unwrap()
    }

    async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&mut self.connect().await)
            .await
            .unwrap()
    }

    /// Makes and deletes instances, so many at least, while that goes on, and sees that all is well again soon after.
    async fn through(&mut self, fault: &str, lives: usize, strike: impl AsyncFnOnce(&mut Self)) -> Account {
        let mut account = Account::new("database", fault);
        let load = Arc::new(Load::on(vec![self.server.url.clone()]));
        let over = Arc::new(AtomicBool::new(false));
        let busy = {
            let (load, over) = (load.clone(), over.clone());
            tokio::spawn(async move { load.lives_until("busy", lives, &over).await })
        };
        wait_for("the load", PATIENCE, || async {
            (self.count("select count(*) from cms.operations").await >= 3).then_some(())
        })
        .await;
        // As long as it takes on this machine without the fault.
        let begun = Instant::now();
        load.create("before").await;
        let usual = begun.elapsed();
        let pid = self.server.pid();
        strike(self).await;
        over.store(true, Ordering::SeqCst);
        let (well, stalls) = (Instant::now(), Stalls::begin());
        load.create("after").await;
        let (recovery, stalled) = (well.elapsed(), stalls.total());
        eprintln!("{fault}: {recovery:?} to recover, {usual:?} without a fault; stood still for {stalled:?}");
        let lives = busy.await.expect("every life");
        assert_eq!(
            load.unanswered.load(Ordering::SeqCst),
            0,
            "{fault}: requests without an answer"
        );
        assert!(
            recovery < RECOVERY + usual + stalled,
            "{fault}: it took {recovery:?} to recover, and {usual:?} without a fault; the machine stood still for {stalled:?}"
        );
        assert!(
            !self.server.has_exited() && self.server.pid() == pid,
            "{fault}: without a restart"
        );
        let failed = "select instance_id || ': ' || coalesce(output, '') from duroxide.executions where status = 'Failed'";
        let failed: Vec<String> = sqlx::query_scalar(failed)
            .fetch_all(&mut self.connect().await)
            .await
            .unwrap();
        assert_eq!(failed, Vec::<String>::new(), "{fault}: orchestrations failed");
        let operations = "select count(*) filter (where o.state = 'succeeded') * 1000 + count(*) from cms.operations o \
                          join cms.instances i on i.id = o.instance_id where i.name not like 'refused-%'";
        let expected = i64::try_from(2 * lives + 2).unwrap() * 1001;
        assert_eq!(
            self.count(operations).await,
            expected,
            "{fault}: operations that succeeded, and all"
        );
        let directory = ServerProcess::shared_directory(self.server.home());
        let made = std::fs::read_to_string(directory.join("made")).unwrap();
        let ids: BTreeSet<&str> = made.lines().collect();
        assert_eq!(ids.len(), made.lines().count(), "{fault}: none was made twice");
        account.recovered(recovery);
        account
    }

    /// Ends all connections but those of the test; says how many.
    async fn end_connections(&self) -> usize {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where datname = current_database() and pid <> pg_backend_pid()";
        usize::try_from(self.count(sql).await).unwrap()
    }

    /// Waits until a request that writes is refused with a time to come back.
    async fn refused(&self) {
        let tries = AtomicUsize::new(0);
        wait_for("a refusal", PATIENCE, || async {
            let name = format!("refused-{}", tries.fetch_add(1, Ordering::SeqCst));
            let body = serde_json::json!({ "name": name, "password": "chaos-secret" });
            let request = self.server.request(Method::POST, "/api/instances");
            let answer = request.json(&body).send().await.ok()?;
            (answer.status() == 503 && answer.headers().contains_key("retry-after")).then_some(())
        })
        .await;
    }
}

/// The outage lasts so long: it is not waited for.
async fn lasts(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_for_a_while() {
    let outages: &[u64] = if long() { &[5, 60] } else { &[5] };
    for seconds in outages {
        let mut scene = Scene::new().await;
        let fault = format!("stopped for {seconds} s");
        let mut account = scene
            .through(&fault, 10, async |scene| {
                scene.control.stop();
                scene.refused().await;
                lasts(*seconds).await;
                scene.control.restart().await;
            })
            .await;
        account.injected(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_and_started_at_once() {
    let mut scene = Scene::new().await;
    let mut account = scene
        .through("crashed and started at once", 30, async |scene| {
            for _ in 0..3 {
                scene.control.crash();
                scene.control.restart().await;
                lasts(1).await;
            }
        })
        .await;
    account.injected(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_ended_every_second() {
    let mut scene = Scene::new().await;
    let rounds = if long() { 60 } else { 15 };
    let mut ended = 0;
    let mut account = scene
        .through("all connections ended, once a second", 50, async |scene| {
            for _ in 0..rounds {
                ended += scene.end_connections().await;
                lasts(1).await;
            }
        })
        .await;
    account.injected(ended);
    assert!(ended > rounds, "{ended} connections were ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_to_be_had() {
    let mut scene = Scene::new().await;
    let sql = "alter system set max_connections = 45";
    sqlx::query(sql)
        .execute(&mut scene.connect().await)
        .await
        .unwrap();
    scene.control.stop();
    scene.control.restart().await;
    let mut account = scene
        .through("no connection to be had for 5 s", 10, async |scene| {
            let mut held = vec![scene.connect().await];
            let mut own = own_ports(&mut held).await;
            loop {
                if let Ok(mut connection) = PgConnection::connect(&scene.database).await {
                    own.extend(own_ports(std::slice::from_mut(&mut connection)).await);
                    held.push(connection);
                    continue;
                }
                // What others have is taken from them, until nobody else has any.
                let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                           where datname = current_database() and client_port <> all($1)";
                let others = sqlx::query_scalar::<_, i64>(sql)
                    .bind(&own)
                    .fetch_one(&mut held[0]);
                if others.await.unwrap() == 0 {
                    break;
                }
            }
            scene.refused().await;
            lasts(5).await;
        })
        .await;
    account.injected(1);
}

/// The ports that these connections come from.
async fn own_ports(connections: &mut [PgConnection]) -> Vec<i32> {
    let mut ports = Vec::new();
    for connection in connections {
        let sql = "select inet_client_port()";
        ports.push(sqlx::query_scalar(sql).fetch_one(connection).await.unwrap());
    }
    ports
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only() {
    let mut scene = Scene::new().await;
    let mut account = scene
        .through("read-only for 5 s", 10, async |scene| {
            let mut connection = scene.connect().await;
            for sql in [
                "alter system set default_transaction_read_only = on",
                "select pg_reload_conf()",
                "set default_transaction_read_only = off",
            ] {
                sqlx::query(sql).execute(&mut connection).await.unwrap();
            }
            scene.refused().await;
            lasts(5).await;
            for sql in [
                "alter system reset default_transaction_read_only",
                "select pg_reload_conf()",
            ] {
                sqlx::query(sql).execute(&mut connection).await.unwrap();
            }
        })
        .await;
    account.injected(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_full() {
    let home = TestHome::new();
    let Some(_disk) = Tmpfs::mount(home.path(), "300m") else {
        return;
    };
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut scene = Scene::on(TestPostgres::start_in(home.path()).await).await;
    let mut account = scene
        .through("disk full for 5 s", 10, async |scene| {
            let filler = home.path().join("filler");
            let fill = || {
                let mut options = std::fs::OpenOptions::new();
                let mut file = options.create(true).append(true).open(&filler).unwrap();
                while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
            };
            fill();
            // It goes on with the room that it has kept for itself, and gives some back at times.
            let filling = async {
                loop {
                    fill();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                () = scene.refused() => {}
                () = filling => {}
            }
            lasts(5).await;
            std::fs::remove_file(&filler).unwrap();
            if PgConnection::connect(&scene.database).await.is_err() {
                scene.control.crash();
                scene.control.restart().await;
            }
        })
        .await;
    account.injected(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_from_it() {
    let mut scene = Scene::new().await;
    let mut account = scene
        .through(
            "no word from it for 10 s, its connections standing",
            10,
            async |scene| {
                scene.link.set(Traffic::Stands);
                scene.refused().await;
                lasts(10).await;
                scene.link.set(Traffic::Flows);
            },
        )
        .await;
    account.injected(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lost() {
    let mut scene = Scene::new().await;
    let enough = if long() { 1000 } else { 100 };
    let mut lost = 0;
    let mut account = scene
        .through(
            "answers lost with their connection, what was asked for done",
            10,
            async |scene| {
                scene.link.set(Traffic::LosesAnswers(0.02));
                lost = wait_for("lost answers", PATIENCE, || async {
                    Some(scene.link.lost()).filter(|lost| *lost >= enough)
                })
                .await;
                scene.link.set(Traffic::Flows);
            },
        )
        .await;
    account.injected(lost);
}
