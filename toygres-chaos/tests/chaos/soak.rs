//! Instances come and go for long: the server needs no more at the end than at the beginning.

use crate::servers::Fleet;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use toygres_chaos::{Account, long};
use toygres_testing::OtlpReceiver;

/// How many instances are there all the time, checked every second.
const STANDING: usize = 20;
/// How often a round of them begins: as a busy machine manages too, since the more is done in a time, the more is kept
/// of it.
const ROUND: Duration = Duration::from_secs(8);
/// How many come and go between two looks.
const LIVES: usize = 20;
/// What is over is kept so long, so that every table is as full as it gets after the first lives.
const RETENTION: [(&str, &str); 7] = [
    ("TOYGRES_PRUNE_INTERVAL_SECONDS", "1"),
    ("TOYGRES_RETENTION_EXECUTIONS", "2"),
    ("TOYGRES_RETENTION_ORCHESTRATIONS_SECONDS", "10"),
    ("TOYGRES_RETENTION_HEALTH_CHECKS_SECONDS", "10"),
    ("TOYGRES_RETENTION_EVENTS_SECONDS", "10"),
    ("TOYGRES_RETENTION_OPERATIONS_SECONDS", "10"),
    ("TOYGRES_RETENTION_IDEMPOTENCY_KEYS_SECONDS", "10"),
];
/// Tables that keep a row of every instance and of every request for ever.
const FOR_EVER: [&str; 2] = ["cms.instances", "cms.audit_events"];

/// What the server needs.
#[derive(Debug, Clone)]
struct Needs {
    memory_mb: f64,
    files: usize,
    threads: usize,
    connections: i64,
    /// Series of metrics.
    series: usize,
    /// Rows of the tables that hold what is underway.
    underway: i64,
    /// Rows of each table.
    rows: BTreeMap<String, i64>,
    /// What the tables take on disk, with their indexes.
    disk_mb: f64,
}

fn status(pid: i32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn rows(fleet: &Fleet) -> BTreeMap<String, i64> {
    let sql = "select table_schema || '.' || table_name, (xpath('/row/c/text()', query_to_xml(format( \
               'select count(*) as c from %I.%I', table_schema, table_name), false, true, '')))[1]::text::bigint \
               from information_schema.tables where table_type = 'BASE TABLE' and table_schema in ('cms', 'duroxide')";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql)
        .fetch_all(&mut fleet.connect().await)
        .await
        .unwrap();
    let rows = rows.into_iter();
    rows.filter(|(table, _)| !FOR_EVER.contains(&table.as_str()))
        .collect()
}

async fn needs(fleet: &Fleet, receiver: &OtlpReceiver) -> Needs {
    let pid = fleet.servers[0].pid().as_raw_nonzero().get();
    let series = receiver
        .metric_names()
        .iter()
        .map(|name| receiver.metric(name).len())
        .sum();
    Needs {
        memory_mb: status(pid, "VmRSS:") / 1024.0,
        files: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        threads: status(pid, "Threads:") as usize,
        connections: fleet
            .count("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
            .await,
        series,
        underway: fleet
            .count(
                "select (select count(*) from duroxide.orchestrator_queue) + (select count(*) from duroxide.worker_queue) \
                 + (select count(*) from duroxide.instance_locks)",
            )
            .await,
        rows: rows(fleet).await,
        disk_mb: fleet
            .count(
                "select sum(pg_total_relation_size(c.oid))::bigint from pg_class c where relkind = 'r' and \
                 relnamespace::regnamespace::text in ('cms', 'duroxide') and relname not in ('instances', 'audit_events')",
            )
            .await as f64
            / f64::from(1 << 20),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_needs_no_more_at_the_end_than_at_the_beginning() {
    let lasts = Duration::from_secs(if long() { 3600 } else { 60 });
    let mut account = Account::new(
        "soak",
        format!("instances made, checked and deleted for {} s", lasts.as_secs()),
    );
    let receiver = OtlpReceiver::start().await;
    let mut settings = vec![
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", receiver.url()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "2000".to_owned()),
    ];
    settings.extend(RETENTION.map(|(name, value)| (name, value.to_owned())));
    let fleet = Fleet::start_with(&["all"], settings).await;
    // What rows leave behind is cleared once a minute else, so that tables still grow when a short soak is over.
    for sql in [
        "alter system set autovacuum_naptime = '1s'",
        "select pg_reload_conf()",
    ] {
        sqlx::query(sql)
            .execute(&mut fleet.connect().await)
            .await
            .unwrap();
    }
    let load = fleet.load(&[0]);
    let mut standing = Vec::new();
    for number in 0..STANDING {
        standing.push(load.create(&format!("standing-{number}")).await);
    }
    // Every cache has seen everything once.
    load.lives("warm-up", 2 * LIVES).await;
    let begun = Instant::now();
    let mut pace = tokio::time::interval(ROUND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Vec<Needs> = Vec::new();
    let mut rounds = 0;
    while begun.elapsed() < lasts || seen.len() < 6 {
        pace.tick().await;
        load.lives(&format!("soak-{rounds}"), LIVES).await;
        rounds += 1;
        account.injected(LIVES);
        seen.push(needs(&fleet, &receiver).await);
    }
    // Of each third, what was needed in the middle of it: single looks jump.
    let middle = |needs: &[Needs], of: fn(&Needs) -> f64| {
        let mut values: Vec<f64> = needs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let third = seen.len() / 3;
    type Of = fn(&Needs) -> f64;
    // How much more each may be, as a factor and in addition: what a busy moment takes.
    let flat: BTreeMap<&str, (Of, f64, f64)> = BTreeMap::from([
        ("memory in MiB", ((|needs| needs.memory_mb) as Of, 1.15, 8.0)),
        ("open files", (|needs| needs.files as f64, 1.1, 5.0)),
        ("threads", (|needs| needs.threads as f64, 1.1, 4.0)),
        (
            "connections to the database",
            (|needs| needs.connections as f64, 1.0, 4.0),
        ),
        ("series", (|needs| needs.series as f64, 1.0, 5.0)),
        (
            "rows underway",
            (|needs| needs.underway as f64, 1.0, STANDING as f64),
        ),
        (
            "rows of all tables",
            (|needs| needs.rows.values().sum::<i64>() as f64, 1.3, 200.0),
        ),
        ("tables on disk in MiB", (|needs| needs.disk_mb, 1.5, 8.0)),
    ]);
    for (what, (of, factor, more)) in flat {
        let (first, last) = (middle(&seen[..third], of), middle(&seen[2 * third..], of));
        eprintln!("{what}: {first:.0}, then {last:.0} after {rounds} rounds");
        assert!(
            last <= first * factor + more,
            "{what}: {first:.1}, then {last:.1}: {seen:#?}"
        );
    }
    for created in &standing {
        load.delete(created).await;
    }
    // Their operations are no longer kept.
    let gone = "select count(*) from cms.instances where state = 'deleted'";
    let lives = STANDING + (2 + rounds) * LIVES;
    assert_eq!(fleet.count(gone).await, i64::try_from(lives).unwrap());
    fleet.clean().await;
}
