//! Work that an earlier version has begun goes on with this one: histories as earlier versions wrote them, each cut off
//! at another point, are loaded into a new database.
//!
//! After a change of an orchestration, or before a release, record those of the present version beside the older ones:
//! `cargo test -p toygres-orchestrations --test upgrade -- --ignored`. A file is kept as long as servers of its
//! version may be upgraded to this one.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod stand_ins;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use stand_ins::{Answers, not_ready, ready, refused, stand_ins, tested};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use toygres_activities::{
    DeployPostgres, LoadIntent, RecordEnd, RecordHealthCheck, RecordRunning, RemovePostgres, TestConnection,
    WaitForReady, load_intent, record_end, record_health_check,
};
use toygres_engine::{Activity, Engine, EngineConfig, EngineStatus, Running};
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::intent::PendingOperation;
use toygres_models::operations::OperationKind;
use toygres_models::{ErrorKind, InstanceId, Intent, OperationId, Result, Scope, Secret};
use toygres_orchestrations::{InstanceActor, actor_id, instance_actor};
use toygres_testing::{TestDatabase, wait_for};

const LIMIT: Duration = Duration::from_secs(120);
/// How many points are gone on from at the same time.
const AT_THE_SAME_TIME: usize = 6;
/// With the last of so many health checks its instance is to be deleted. Before that one an actor continues as new.
const CHECKS: u32 = 5;

/// What becomes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Story {
    /// It is made, watched, repaired once and deleted, of which each takes two tries.
    Life,
    /// It can't be made, and what was made of it can't be removed at first.
    Failure,
    /// Its deletion is asked for while it is made.
    Overtaken,
}

impl Story {
    const ALL: [Self; 3] = [Self::Life, Self::Failure, Self::Overtaken];

    /// After which activities time is waited for.
    const fn waits_after(self) -> &'static [&'static str] {
        match self {
            Self::Life => &[WaitForReady::NAME, RecordHealthCheck::NAME, RemovePostgres::NAME],
            Self::Failure => &[RemovePostgres::NAME],
            Self::Overtaken => &[],
        }
    }

    /// What becomes of it in the end.
    const fn end(self) -> InstanceState {
        match self {
            Self::Life | Self::Overtaken => InstanceState::Deleted,
            Self::Failure => InstanceState::Failed,
        }
    }
}

/// What stands in the row of an instance, and what the platform has been asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct World {
    story: Story,
    instance_id: InstanceId,
    state: InstanceState,
    desired_state: DesiredState,
    operation: Option<PendingOperation>,
    creation: OperationId,
    deletion: OperationId,
    looks: u32,
    checks: u32,
    removals: u32,
    next_check_ms: u64,
}

impl World {
    fn new(story: Story) -> Self {
        let creation = OperationId::generate();
        Self {
            story,
            instance_id: InstanceId::generate(),
            state: InstanceState::Creating,
            desired_state: DesiredState::Running,
            operation: Some(PendingOperation {
                id: creation,
                kind: OperationKind::Create,
            }),
            creation,
            deletion: OperationId::generate(),
            looks: 0,
            checks: 0,
            removals: 0,
            next_check_ms: 50,
        }
    }

    /// All that tells it from others.
    fn ids(&self) -> [String; 3] {
        let (creation, deletion) = (self.creation.to_string(), self.deletion.to_string());
        [self.instance_id.to_string(), creation, deletion]
    }

    fn delete(&mut self) {
        self.desired_state = DesiredState::Deleted;
        self.operation = Some(PendingOperation {
            id: self.deletion,
            kind: OperationKind::Delete,
        });
    }

    fn intent(&self) -> Intent {
        Intent {
            state: self.state,
            desired_state: self.desired_state,
            operation: self.operation,
            failed_checks: 0,
        }
    }

    /// What is called where: calls that do not differ in this are not worth two histories.
    fn place(&self, activity: &'static str, scope: Scope) -> String {
        let of = scope.operation_id.map_or("", |_| " of an operation");
        let again = if self.checks >= CHECKS - 1 { " again" } else { "" };
        format!(
            "{activity}{of}, {} to be {}{again}",
            self.state, self.desired_state
        )
    }

    fn answer(&mut self, activity: &'static str, scope: Scope, input: Value) -> Result<Value> {
        match activity {
            LoadIntent::NAME => Ok(json(load_intent::Output {
                intent: self.intent(),
                create_deadline_ms: 60_000,
                traceparent: None,
                next_check_ms: self.next_check_ms,
            })),
            DeployPostgres::NAME if self.story == Story::Failure => refused(ErrorKind::Config),
            WaitForReady::NAME if self.story == Story::Overtaken => {
                self.delete();
                refused(ErrorKind::Superseded)
            }
            WaitForReady::NAME => {
                self.looks += 1;
                Ok(if self.looks == 1 {
                    not_ready("starting")
                } else {
                    ready()
                })
            }
            TestConnection::NAME => Ok(tested(scope.operation_id.is_some() || self.checks != 1)),
            RecordRunning::NAME => {
                self.state = InstanceState::Running;
                self.operation = None;
                Ok(Value::Null)
            }
            RecordHealthCheck::NAME => {
                self.checks += 1;
                if self.checks == CHECKS {
                    self.delete();
                }
                Ok(json(record_health_check::Output {
                    intent: self.intent(),
                    next_check_ms: self.next_check_ms,
                }))
            }
            RemovePostgres::NAME => {
                self.removals += 1;
                match (self.removals, self.story) {
                    (1, Story::Life) => refused(ErrorKind::Unavailable),
                    (1, Story::Failure) => refused(ErrorKind::Config),
                    _ => Ok(Value::Null),
                }
            }
            RecordEnd::NAME => {
                let input: record_end::Input = serde_json::from_value(input).unwrap();
                self.state = match input.end {
                    record_end::End::Deleted => InstanceState::Deleted,
                    record_end::End::Failed(_) => InstanceState::Failed,
                    record_end::End::Cancelled(_) => return Ok(Value::Null),
                };
                self.operation = None;
                Ok(Value::Null)
            }
            _ => Ok(Value::Null),
        }
    }
}

fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// A story that is told.
struct Telling {
    world: World,
    /// What was called so far.
    places: Vec<String>,
    /// How many calls may be answered.
    let_go: watch::Sender<usize>,
}

#[derive(Default)]
struct Worlds(Mutex<BTreeMap<InstanceId, Telling>>);

impl Worlds {
    /// From now on it is told; `calls`: how many may be answered until there is word of more.
    fn put(&self, world: World, calls: usize) {
        let telling = Telling {
            world: world.clone(),
            places: Vec::new(),
            let_go: watch::Sender::new(calls),
        };
        self.0.lock().unwrap().insert(world.instance_id, telling);
    }

    fn with<T>(&self, id: InstanceId, look: impl FnOnce(&mut Telling) -> T) -> T {
        look(self.0.lock().unwrap().get_mut(&id).unwrap())
    }
}

impl Answers for Worlds {
    async fn answer(&self, activity: &'static str, scope: Scope, input: Value) -> Result<Value> {
        let id = scope.instance_id;
        let (call, mut let_go) = self.with(id, |telling| {
            telling.places.push(telling.world.place(activity, scope));
            (telling.places.len() - 1, telling.let_go.subscribe())
        });
        let_go.wait_for(|calls| call < *calls).await.unwrap();
        self.with(id, |telling| telling.world.answer(activity, scope, input))
    }
}

/// What stood in the tables of the engine at some point, and the world then. Of the history only what is new since the
/// point before it in the same story.
#[derive(Clone, Serialize, Deserialize)]
struct Recorded {
    point: String,
    world: World,
    /// By table.
    rows: BTreeMap<String, Vec<Value>>,
}

struct Stage {
    pool: PgPool,
    engine: Engine,
    worlds: Arc<Worlds>,
}

impl Stage {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let pool = PgPool::connect(&database.url).await.unwrap();
        let config = EngineConfig::new(Secret::new(database.url.clone()));
        let engine = Engine::connect(config, pool.clone()).await.unwrap();
        let worlds = Arc::default();
        Self { pool, engine, worlds }
    }

    async fn play(&self) -> Running {
        let activities = stand_ins(Arc::clone(&self.worlds));
        self.engine
            .start(activities, toygres_orchestrations::registry())
            .await
    }

    async fn status(&self, id: InstanceId) -> EngineStatus {
        let actor = actor_id(id, 1);
        let statuses = self.engine.client().statuses(std::slice::from_ref(&actor)).await;
        statuses.unwrap()[&actor]
    }

    /// Waits until the actor has ended, and checks that all has come to the right end.
    async fn ended(&self, point: &str, id: InstanceId) {
        let status = wait_for(&format!("{point}: its end"), LIMIT, || async {
            let status = self.status(id).await;
            (status != EngineStatus::Running).then_some(status)
        })
        .await;
        assert_eq!(status, EngineStatus::Completed, "{point}");
        let (state, story) = self
            .worlds
            .with(id, |telling| (telling.world.state, telling.world.story));
        assert_eq!(state, story.end(), "{point}");
    }

    /// Nothing may have failed but by what the story tells: a deletion whose code does not fit its history would fail,
    /// and be done by another one.
    async fn nothing_else_failed(&self) {
        let failed: Vec<(String, String)> = sqlx::query_as(
            "select instance_id, output from duroxide.executions \
             where status = 'Failed' and output not like '%\"scripted\"%'",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(failed.is_empty(), "{failed:#?}");
    }

    /// What is there now, and whether anybody works on it.
    async fn rows(&self, world: &World) -> (BTreeMap<String, Vec<Value>>, bool) {
        let (rows, works): (Value, bool) = sqlx::query_as(ROWS)
            .bind(world.ids().join("|"))
            .fetch_one(&self.pool)
            .await
            .unwrap();
        (serde_json::from_value(rows).unwrap(), works)
    }

    /// Tells a story to its end, and takes what is there at each point that is new.
    async fn record(&self, story: Story, seen: &mut BTreeSet<String>, lines: &mut String) {
        let mut world = World::new(story);
        // Long enough to find it waiting.
        world.next_check_ms = 2_000;
        self.worlds.put(world.clone(), 0);
        let input = instance_actor::Input::new(world.instance_id, 1);
        let actor = actor_id(world.instance_id, 1);
        self.engine
            .client()
            .start::<InstanceActor>(&actor, input)
            .await
            .unwrap();

        let mut events = BTreeSet::new();
        let mut write = |point: String, mut rows: BTreeMap<String, Vec<Value>>| {
            let new = |row: &Value| {
                events
                    .insert(json(["instance_id", "execution_id", "event_id"].map(|of| &row[of])).to_string())
            };
            rows.get_mut("history").unwrap().retain(new);
            let world = World {
                next_check_ms: 50,
                ..self
                    .worlds
                    .with(world.instance_id, |telling| telling.world.clone())
            };
            let recorded = Recorded { point, world, rows };
            lines.push_str(&serde_json::to_string(&recorded).unwrap());
            lines.push('\n');
        };
        for call in 0.. {
            let place = wait_for("a call, or the end", LIMIT, || async {
                let place = self
                    .worlds
                    .with(world.instance_id, |telling| telling.places.get(call).cloned());
                let ended = || async { self.status(world.instance_id).await != EngineStatus::Running };
                (place.is_some() || ended().await).then_some(place)
            })
            .await;
            let Some(place) = place else { break };
            let new = seen.insert(place.clone());
            if new {
                write(format!("{story:?}: {place}"), self.rows(&world).await.0);
            }
            self.worlds
                .with(world.instance_id, |telling| telling.let_go.send_replace(call + 1));
            if new && story.waits_after().iter().any(|name| place.starts_with(name)) {
                let rows = wait_for("it to wait for a time", LIMIT, || async {
                    let (rows, works) = self.rows(&world).await;
                    (!works).then_some(rows)
                })
                .await;
                write(format!("{story:?}: after {place}"), rows);
            }
        }
        self.ended(&format!("{story:?}"), world.instance_id).await;
    }
}

/// The rows of what has not ended, without who works on it and when, and whether anybody does.
const ROWS: &str = "
    with running as (
        select i.instance_id, i.current_execution_id as execution_id
        from duroxide.instances i join duroxide.executions e
            on e.instance_id = i.instance_id and e.execution_id = i.current_execution_id
        where e.status = 'Running' and i.instance_id ~ $1),
    orchestrator_queue as (
        select * from duroxide.orchestrator_queue where instance_id ~ $1 order by id),
    worker_queue as (
        select * from duroxide.worker_queue where instance_id ~ $1 order by id),
    rows (name, list) as (
        select 'instances', jsonb_agg(to_jsonb(i))
        from duroxide.instances i join running using (instance_id)
        union all select 'executions', jsonb_agg(to_jsonb(e))
        from duroxide.executions e join running using (instance_id, execution_id)
        union all select 'history', jsonb_agg(to_jsonb(h) order by h.event_id)
        from duroxide.history h join running using (instance_id, execution_id)
        union all select 'orchestrator_queue', jsonb_agg(
            to_jsonb(q) - array['id', 'lock_token', 'locked_until', 'attempt_count']) from orchestrator_queue q
        union all select 'worker_queue', jsonb_agg(
            to_jsonb(q) - array['id', 'lock_token', 'locked_until', 'attempt_count']) from worker_queue q)
    select jsonb_strip_nulls(jsonb_object_agg(name, list)),
        exists (select from worker_queue) or exists (select from orchestrator_queue where visible_at <= now())
    from rows";

/// Puts rows into a table as they are, except that whatever waits for a time has waited long enough.
async fn load(pool: &PgPool, table: &str, rows: &[Value]) {
    let columns: BTreeSet<&String> = rows
        .iter()
        .flat_map(|row| row.as_object().unwrap().keys())
        .collect();
    let columns: Vec<&str> = columns.into_iter().map(String::as_str).collect();
    let columns = columns.join(", ");
    let insert = format!(
        "insert into duroxide.{table} ({columns}) \
         select {columns} from jsonb_populate_recordset(null::duroxide.{table}, $1)"
    );
    sqlx::query(&insert).bind(json(rows)).execute(pool).await.unwrap();
    if table.ends_with("_queue") {
        let due = format!("update duroxide.{table} set visible_at = now()");
        sqlx::query(&due).execute(pool).await.unwrap();
    }
}

/// The points of a file, each with its whole history.
fn read(path: &Path) -> Vec<Recorded> {
    let mut told: BTreeMap<InstanceId, Vec<Value>> = BTreeMap::new();
    let text = std::fs::read_to_string(path).unwrap();
    let points = text.lines().map(|line| {
        let mut recorded: Recorded = serde_json::from_str(line).unwrap();
        let history = told.entry(recorded.world.instance_id).or_default();
        history.append(recorded.rows.get_mut("history").unwrap());
        let execution = |row: &Value| [row["instance_id"].clone(), row["execution_id"].clone()];
        let going_on: Vec<_> = recorded.rows["executions"].iter().map(execution).collect();
        let history = history.iter().filter(|row| going_on.contains(&execution(row)));
        let history = history.cloned().collect();
        recorded.rows.insert("history".to_owned(), history);
        recorded
    });
    points.collect()
}

fn histories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories")
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_earlier_versions_goes_on_from_every_point() {
    let mut points = Vec::new();
    for file in std::fs::read_dir(histories()).unwrap() {
        let path = file.unwrap().path();
        let version = path.file_stem().unwrap().display().to_string();
        points.extend(
            read(&path)
                .into_iter()
                .map(|recorded| (version.clone(), recorded)),
        );
    }
    for name in toygres_activities::NAMES {
        let called = points.iter().any(|(_, recorded)| recorded.point.contains(name));
        assert!(called, "{name} is new: record the histories of this version");
    }
    let under_way: BTreeSet<&str> = points
        .iter()
        .flat_map(|(_, recorded)| &recorded.rows["instances"])
        .filter_map(|row| row["orchestration_name"].as_str())
        .collect();
    let registry = toygres_orchestrations::registry();
    for name in registry.names() {
        let (name, _) = name.rsplit_once('@').unwrap();
        assert!(
            under_way.contains(name),
            "{name} is new: record the histories of this version"
        );
    }
    // Each with a database of its own: the points of a story are of the same instance.
    let played = stream::iter(points.into_iter().map(async |(version, recorded)| {
        let stage = Stage::new().await;
        for (table, rows) in &recorded.rows {
            load(&stage.pool, table, rows).await;
        }
        let (point, id) = (
            format!("{version}: {}", recorded.point),
            recorded.world.instance_id,
        );
        stage.worlds.put(recorded.world, usize::MAX);
        let running = stage.play().await;
        stage.ended(&point, id).await;
        stage.nothing_else_failed().await;
        running.shutdown(Duration::from_secs(1)).await;
    }));
    played.buffer_unordered(AT_THE_SAME_TIME).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the histories of the present version down: see the top of the file"]
async fn record_the_histories_of_this_version() {
    let stage = Stage::new().await;
    let running = stage.play().await;
    let (mut seen, mut lines) = (BTreeSet::new(), String::new());
    for story in Story::ALL {
        stage.record(story, &mut seen, &mut lines).await;
    }
    stage.nothing_else_failed().await;
    running.shutdown(Duration::from_secs(1)).await;
    std::fs::create_dir_all(histories()).unwrap();
    // What an earlier state of the same version wrote is kept: there may be servers of it.
    let version = env!("CARGO_PKG_VERSION");
    let others = (1..).map(|number| format!("{version}-{number}.jsonl"));
    let mut files = std::iter::once(format!("{version}.jsonl")).chain(others);
    let is_free = |name: &String| !histories().join(name).exists();
    std::fs::write(histories().join(files.find(is_free).unwrap()), lines).unwrap();
}
