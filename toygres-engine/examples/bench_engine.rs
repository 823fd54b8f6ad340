//! Measures the engine on a database: bare (duroxide's own store) against decorated, in turn.
//!
//! `bench_engine --database-url URL [--json FILE] [--rounds N]`. Makes the schemas `bench_bare` and `bench_decorated`
//! and drops them.
#![allow(clippy::print_stdout, reason = "its table is for people")]

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use toygres_engine::store::Guards;
use toygres_engine::{
    Activities, Activity, ActivityContext, Context, Engine, EngineClient, EngineConfig, EngineStatus,
    Failure, Orchestration, Orchestrations, Running, Turn, call,
};
use toygres_models::Secret;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Orchestrations of a throughput measurement.
const MANY: usize = 200;
/// Latencies measured in a row.
const LATENCIES: usize = 10;
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(15);
const SLOTS: usize = 10;

struct Nothing;

impl Activity for Nothing {
    const NAME: &'static str = "nothing";
    type Deps = ();
    type Input = ();
    type Output = ();

    async fn run(_: &(), _: &ActivityContext, (): ()) -> toygres_models::Result<()> {
        Ok(())
    }
}

/// Calls the activity so many times, one after the other.
struct Sequence;

#[derive(Serialize, Deserialize)]
struct Times(usize);

impl Orchestration for Sequence {
    const NAME: &'static str = "sequence";
    type Input = Times;
    type Output = ();

    async fn run(cx: Context, Times(times): Times) -> Result<Turn<(), Times>, Failure> {
        for _ in 0..times {
            call::<Nothing>(&cx, ()).await?;
        }
        Ok(Turn::Done(()))
    }
}

/// What one store showed.
#[derive(Default)]
struct Samples {
    latency_ms: Vec<f64>,
    one_per_second: Vec<f64>,
    five_per_second: Vec<f64>,
    idle_per_second: f64,
}

/// The medians of one store.
#[derive(Serialize)]
struct Summary {
    five_activities_ms: f64,
    orchestrations_per_second_one_activity: f64,
    orchestrations_per_second_five_activities: f64,
    idle_transactions_per_second: f64,
}

#[derive(Serialize)]
struct Report {
    rounds: usize,
    slots: usize,
    bare: Summary,
    decorated: Summary,
    latency_ratio: f64,
}

impl Samples {
    fn summary(mut self) -> Summary {
        Summary {
            five_activities_ms: median(&mut self.latency_ms),
            orchestrations_per_second_one_activity: median(&mut self.one_per_second),
            orchestrations_per_second_five_activities: median(&mut self.five_per_second),
            idle_transactions_per_second: self.idle_per_second,
        }
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Arguments {
    database_url: String,
    json: Option<PathBuf>,
    rounds: usize,
}

fn arguments() -> Fallible<Arguments> {
    let (mut database_url, mut json, mut rounds) = (None, None, 3);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--database-url" => database_url = Some(value),
            "--json" => json = Some(value.into()),
            "--rounds" => rounds = value.parse()?,
            _ => return Err(format!("unknown argument {word}").into()),
        }
    }
    let database_url = database_url.ok_or("--database-url is missing")?;
    Ok(Arguments {
        database_url,
        json,
        rounds,
    })
}

async fn start(url: &str, pool: &PgPool, schema: &str, guards: Guards) -> Fallible<(EngineClient, Running)> {
    let config = EngineConfig {
        schema: schema.to_owned(),
        orchestration_concurrency: SLOTS,
        worker_concurrency: SLOTS,
        guards,
        ..EngineConfig::new(Secret::new(url.to_owned()))
    };
    let engine = Engine::connect(config, pool.clone()).await?;
    let activities = Activities::new("toygres-activities", Arc::new(())).register::<Nothing>();
    let orchestrations = Orchestrations::new("toygres-orchestrations").register::<Sequence>();
    let running = engine.start(activities, orchestrations).await;
    Ok((engine.client(), running))
}

/// Runs so many at once, and says how long the last one took.
async fn run(client: &EngineClient, prefix: &str, count: usize, activities: usize) -> Fallible<Duration> {
    let ids: Vec<_> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
    let begin = Instant::now();
    for id in &ids {
        client.start::<Sequence>(id, Times(activities)).await?;
    }
    loop {
        let statuses = client.statuses(&ids).await?;
        let ended = statuses
            .values()
            .filter(|status| **status == EngineStatus::Completed)
            .count();
        if ended == count {
            return Ok(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(if count == 1 { 2 } else { 50 })).await;
    }
}

async fn transactions(pool: &PgPool) -> Fallible<f64> {
    let query = "select (xact_commit + xact_rollback)::float8 from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
}

/// One round of everything on one store.
async fn measure(
    url: &str,
    pool: &PgPool,
    schema: &str,
    guards: Guards,
    round: usize,
    samples: &mut Samples,
) -> Fallible<()> {
    let (client, running) = start(url, pool, schema, guards).await?;
    run(&client, &format!("warm-{round}"), 5, 5).await?;
    for n in 0..LATENCIES {
        let taken = run(&client, &format!("latency-{round}-{n}"), 1, 5).await?;
        samples.latency_ms.push(taken.as_secs_f64() * 1_000.0);
    }
    if round == 0 {
        // The statistics of what went before arrive up to 10 s late.
        tokio::time::sleep(Duration::from_secs(11)).await;
        let before = transactions(pool).await?;
        tokio::time::sleep(IDLE).await;
        samples.idle_per_second = (transactions(pool).await? - before) / IDLE.as_secs_f64();
    }
    #[allow(clippy::cast_precision_loss, reason = "two hundred")]
    let many = MANY as f64;
    let taken = run(&client, &format!("one-{round}"), MANY, 1).await?;
    samples.one_per_second.push(many / taken.as_secs_f64());
    let taken = run(&client, &format!("five-{round}"), MANY, 5).await?;
    samples.five_per_second.push(many / taken.as_secs_f64());
    running.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn drop_schemas(pool: &PgPool) -> Fallible<()> {
    for schema in ["bench_bare", "bench_decorated"] {
        sqlx::query(&format!("drop schema if exists {schema} cascade"))
            .execute(pool)
            .await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let Arguments {
        database_url,
        json,
        rounds,
    } = arguments()?;
    let pool = PgPool::connect(&database_url).await?;
    drop_schemas(&pool).await?;
    let (mut bare, mut decorated) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        measure(
            &database_url,
            &pool,
            "bench_bare",
            Guards::none(),
            round,
            &mut bare,
        )
        .await?;
        measure(
            &database_url,
            &pool,
            "bench_decorated",
            Guards::all(),
            round,
            &mut decorated,
        )
        .await?;
    }
    drop_schemas(&pool).await?;
    let (bare, decorated) = (bare.summary(), decorated.summary());
    let latency_ratio = bare.five_activities_ms / decorated.five_activities_ms;
    let report = Report {
        rounds,
        slots: SLOTS,
        bare,
        decorated,
        latency_ratio,
    };
    print(&report);
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

fn print(report: &Report) {
    let Report { bare, decorated, .. } = report;
    println!("{:<44} {:>10} {:>10}", "median", "bare", "decorated");
    let line = |name: &str, bare: f64, decorated: f64| println!("{name:<44} {bare:>10.1} {decorated:>10.1}");
    line(
        "five activities in a row, idle system, ms",
        bare.five_activities_ms,
        decorated.five_activities_ms,
    );
    line(
        "orchestrations/s with one activity",
        bare.orchestrations_per_second_one_activity,
        decorated.orchestrations_per_second_one_activity,
    );
    line(
        "orchestrations/s with five activities",
        bare.orchestrations_per_second_five_activities,
        decorated.orchestrations_per_second_five_activities,
    );
    line(
        "idle transactions/s",
        bare.idle_transactions_per_second,
        decorated.idle_transactions_per_second,
    );
    println!(
        "decorated is {:.1} times as quick on an idle system",
        report.latency_ratio
    );
}
