//! What orchestrations really do, in order: running work is replayed against it.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod stand_ins;

use serde_json::{Value, json};
use stand_ins::{Answers, not_ready, ready, refused, stand_ins, tested};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use toygres_activities::record_end::End;
use toygres_activities::{
    DeployPostgres, LoadIntent, RecordHealthCheck, RemovePostgres, TestConnection, VerifyGone, WaitForReady,
};
use toygres_engine::{Activity, Engine, EngineClient, EngineConfig, Orchestration};
use toygres_models::orchestrations::{OrchestrationNode, OrchestrationStatus};
use toygres_models::{ErrorKind, InstanceId, OperationId, Result, Scope, Secret};
use toygres_orchestrations::{
    CreateInstance, DeleteInstance, InstanceActor, actor_id, create_instance, delete_instance, instance_actor,
};
use toygres_testing::{TestDatabase, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

/// What the activities of an instance answer: each its own, one after the other, then as if all were well.
type Scripted = BTreeMap<&'static str, VecDeque<Result<Value>>>;

#[derive(Default)]
struct Script {
    by_instance: Mutex<BTreeMap<String, Scripted>>,
}

impl Answers for Script {
    async fn answer(&self, activity: &'static str, scope: Scope, _: Value) -> Result<Value> {
        let mut script = self.by_instance.lock().unwrap();
        let scripted = script
            .get_mut(&scope.instance_id.to_string())
            .and_then(|answers| answers.get_mut(activity))
            .and_then(VecDeque::pop_front);
        scripted.unwrap_or_else(|| Ok(usual(activity)))
    }
}

fn usual(activity: &str) -> Value {
    match activity {
        LoadIntent::NAME => intent("running", "running", None, 50),
        RecordHealthCheck::NAME => checked("running", "running", 50),
        TestConnection::NAME => tested(true),
        WaitForReady::NAME => ready(),
        _ => Value::Null,
    }
}

fn intent(state: &str, desired: &str, operation: Option<&str>, next_check_ms: u64) -> Value {
    let operation = operation.map(|kind| json!({"id": OperationId::generate(), "kind": kind}));
    let intent =
        json!({"state": state, "desired_state": desired, "operation": operation, "failed_checks": 0});
    json!({"intent": intent, "create_deadline_ms": 60_000, "next_check_ms": next_check_ms})
}

fn checked(state: &str, desired: &str, next_check_ms: u64) -> Value {
    let intent = json!({"state": state, "desired_state": desired, "operation": null, "failed_checks": 0});
    json!({"intent": intent, "next_check_ms": next_check_ms})
}

fn differs() -> Value {
    let mut tested = tested(true);
    tested["differences"] = json!(["the service is missing"]);
    tested
}

/// What a platform says that knows whether deploying again would help.
fn known(reason: &str, differs: bool) -> Value {
    let mut seen = not_ready(reason);
    seen["differs"] = json!(differs);
    seen
}

struct Stage {
    client: EngineClient,
    script: Arc<Script>,
}

/// One scenario: an instance of its own, and what its activities answer.
struct Scene<'a> {
    stage: &'a Stage,
    scope: Scope,
}

impl Stage {
    fn scene(&self) -> Scene<'_> {
        let scope = Scope {
            instance_id: InstanceId::generate(),
            incarnation: 1,
            operation_id: Some(OperationId::generate()),
        };
        Scene { stage: self, scope }
    }
}

impl Scene<'_> {
    fn answers<A: Activity>(self, answers: impl IntoIterator<Item = Result<Value>>) -> Self {
        let mut script = self.stage.script.by_instance.lock().unwrap();
        let of_this = script.entry(self.scope.instance_id.to_string()).or_default();
        of_this.insert(A::NAME, answers.into_iter().collect());
        drop(script);
        self
    }

    async fn create(self, title: &str, deadline_ms: u64) -> String {
        let id = format!("create-{}", self.scope.instance_id);
        let input = create_instance::Input {
            scope: self.scope,
            deadline_ms,
        };
        self.run::<CreateInstance>(title, &id, input).await
    }

    async fn delete(self, title: &str) -> String {
        let id = format!("delete-{}", self.scope.instance_id);
        let input = delete_instance::Input {
            scope: self.scope,
            end: End::Deleted,
            failed: None,
        };
        self.run::<DeleteInstance>(title, &id, input).await
    }

    async fn act(self, title: &str) -> String {
        let id = actor_id(self.scope.instance_id, 1);
        let input = instance_actor::Input::new(self.scope.instance_id, 1);
        self.run::<InstanceActor>(title, &id, input).await
    }

    async fn run<O: Orchestration>(self, title: &str, id: &str, input: O::Input) -> String {
        let client = &self.stage.client;
        client.start::<O>(id, input).await.unwrap();
        let details = wait_for(title, LIMIT, || async {
            let details = client.details(id).await.ok()?;
            (details.orchestration.status != OrchestrationStatus::Running).then_some(details)
        })
        .await;
        let mut told = format!("{title}\n");
        tell(client, &details.tree, &mut told).await;
        told
    }
}

/// What an orchestration and its children scheduled, an execution a line.
async fn tell(client: &EngineClient, node: &OrchestrationNode, told: &mut String) {
    let executions = client.details(&node.id).await.unwrap().executions;
    for execution in executions.iter().rev() {
        let history = client
            .history(&node.id, Some(execution.execution_id), 0, 1000)
            .await
            .unwrap();
        let mut scheduled: Vec<_> = history
            .iter()
            .filter_map(|event| match event.kind.as_str() {
                "activity_scheduled" | "sub_orchestration_scheduled" => event.name.as_deref(),
                "timer_created" => Some("(timer)"),
                "queue_subscribed" => Some("(wake)"),
                _ => None,
            })
            .collect();
        // A child that takes long on a busy machine is asked for, and waited for again.
        while let Some(asked) = scheduled.iter().position(|name| *name == "child-status") {
            let waits_again = scheduled.get(asked + 1) == Some(&"(timer)");
            scheduled.drain(asked..=asked + usize::from(waits_again));
        }
        let scheduled = scheduled.join(", ");
        writeln!(told, "  {} {}: {scheduled}", node.name, execution.status).unwrap();
    }
    for child in &node.children {
        Box::pin(tell(client, child, told)).await;
    }
}

/// As many scenarios as there are ways through the orchestrations.
async fn play(stage: &Stage) -> String {
    let away = || refused(ErrorKind::Unavailable);
    let superseded = || refused(ErrorKind::Superseded);
    let broken = || refused(ErrorKind::Internal);
    let minute = 60_000;
    let create = || Ok(intent("creating", "running", Some("create"), 50));
    let delete = || Ok(intent("running", "deleted", Some("delete"), 50));
    let over = || Ok(intent("deleted", "deleted", None, 50));
    let told = tokio::join!(
        stage.scene().create("a create", minute),
        stage
            .scene()
            .answers::<WaitForReady>([Ok(not_ready("starting")), Ok(not_ready("crash_loop"))])
            .answers::<TestConnection>([away()])
            .create("a create that has to wait, and to deploy again", minute),
        stage
            .scene()
            .answers::<DeployPostgres>([away(), away(), away(), away(), away()])
            .create("a create whose platform is away for a while", minute),
        stage
            .scene()
            .answers::<WaitForReady>([Ok(not_ready("queued"))])
            .create("a create without patience", 0),
        stage
            .scene()
            .answers::<DeployPostgres>([broken()])
            .create("a create that can't be", minute),
        stage.scene().delete("a delete"),
        stage
            .scene()
            .answers::<VerifyGone>([away(), away()])
            .delete("a delete that takes a while"),
        stage
            .scene()
            .answers::<RemovePostgres>([superseded()])
            .delete("a delete that somebody else does"),
        stage
            .scene()
            .answers::<LoadIntent>([create(), Ok(usual(LoadIntent::NAME)), delete(), over()])
            .answers::<RecordHealthCheck>([
                Ok(checked("running", "running", 50)),
                Ok(checked("running", "running", 50)),
                Ok(checked("running", "running", 50)),
                Ok(checked("running", "running", 50)),
                Ok(checked("running", "deleted", 50)),
                Ok(checked("deleted", "deleted", 50)),
            ])
            .act("an actor from beginning to end"),
        stage
            .scene()
            .answers::<LoadIntent>([create(), over()])
            .answers::<DeployPostgres>([broken()])
            .act("an actor whose create fails"),
        stage
            .scene()
            .answers::<LoadIntent>([create(), delete(), over()])
            .answers::<DeployPostgres>([superseded()])
            .act("an actor whose create is overtaken by a deletion"),
        stage
            .scene()
            .answers::<LoadIntent>([Ok(usual(LoadIntent::NAME)), over()])
            .answers::<TestConnection>([Ok(tested(false)), Ok(tested(false)), Ok(tested(false))])
            .answers::<DeployPostgres>([Ok(Value::Null), broken()])
            .answers::<RecordHealthCheck>([
                Ok(checked("degraded", "running", 50)),
                Ok(checked("degraded", "running", 50)),
                Ok(checked("deleted", "deleted", 50)),
            ])
            .act("an actor that repairs"),
        stage
            .scene()
            .answers::<LoadIntent>([broken(), over()])
            .act("an actor that meets a defect"),
        stage
            .scene()
            .answers::<TestConnection>([superseded()])
            .act("an actor that another one has replaced"),
        stage
            .scene()
            .answers::<TestConnection>([Ok(tested(false))])
            .answers::<DeployPostgres>([superseded()])
            .act("an actor that is replaced while it repairs"),
        woken(stage),
        stage
            .scene()
            .answers::<LoadIntent>([Ok(usual(LoadIntent::NAME)), over()])
            .answers::<TestConnection>([Ok(differs()), Ok(tested(true))])
            .answers::<RecordHealthCheck>([
                Ok(checked("running", "running", 50)),
                Ok(checked("deleted", "deleted", 50)),
            ])
            .act("an actor that makes right what differs"),
        stage
            .scene()
            .answers::<WaitForReady>([
                Ok(known("image_pull", false)),
                Ok(known("crash_loop", false)),
                Ok(known("image_pull", true)),
            ])
            .create("a create whose platform knows what helps", minute),
        stage
            .scene()
            .answers::<WaitForReady>([
                Ok(not_ready("starting")),
                Ok(not_ready("crash_loop")),
                Ok(not_ready("starting")),
                Ok(not_ready("crash_loop")),
                Ok(not_ready("starting")),
            ])
            .create("a create that waits for the same things in turn", 1000),
    );
    let told = [
        told.0, told.1, told.2, told.3, told.4, told.5, told.6, told.7, told.8, told.9, told.10, told.11,
        told.12, told.13, told.14, told.15, told.16, told.17, told.18,
    ];
    told.join("\n")
}

async fn woken(stage: &Stage) -> String {
    let scene = stage.scene().answers::<LoadIntent>([
        Ok(usual(LoadIntent::NAME)),
        Ok(intent("deleted", "deleted", None, 50)),
    ]);
    let scene = scene.answers::<RecordHealthCheck>([Ok(checked("running", "running", 3_600_000))]);
    let id = actor_id(scene.scope.instance_id, 1);
    let wake = async {
        wait_for("it to listen", LIMIT, || async {
            let history = stage.client.history(&id, None, 0, 100).await.ok()?;
            let waits = history.iter().any(|event| event.kind == "queue_subscribed");
            waits.then_some(())
        })
        .await;
        stage.client.wake(&id).await.unwrap();
    };
    let (told, ()) = tokio::join!(scene.act("an actor that is woken"), wake);
    told
}

#[tokio::test]
async fn golden_runs_are_those_that_running_work_is_replayed_against() {
    let database = TestDatabase::new().await;
    let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
    let config = EngineConfig::new(Secret::new(database.url.clone()));
    let engine = Engine::connect(config, pool).await.unwrap();
    let script = Arc::new(Script::default());
    let running = engine
        .start(stand_ins(Arc::clone(&script)), toygres_orchestrations::registry())
        .await;
    let stage = Stage {
        client: engine.client(),
        script,
    };
    let told = play(&stage).await;
    running.shutdown(Duration::from_secs(1)).await;
    assert_eq!(
        told,
        include_str!("../runs.txt"),
        "runs.txt: another order strands the work that runs; make it another version instead\n{told}"
    );
}

/// A flow as it is drawn: what each node calls, and which leads to which.
struct Drawn<'a> {
    calls: BTreeMap<&'a str, Vec<&'a str>>,
    ways: Vec<(&'a str, &'a str)>,
}

impl<'a> Drawn<'a> {
    fn read(mermaid: &'a str) -> Self {
        let mut calls = BTreeMap::new();
        let mut ways = Vec::new();
        let mut lines = mermaid.lines();
        assert_eq!(lines.next(), Some("flowchart TD"));
        for line in lines.map(str::trim) {
            if let Some((from, to)) = line.split_once(" -->") {
                let (words, to) = to.rsplit_once(' ').unwrap();
                let quoted =
                    words.starts_with("|\"") && words.ends_with("\"|") && words.matches('"').count() == 2;
                assert!(words.is_empty() || quoted, "{line}");
                ways.push((from, to));
                continue;
            }
            let end = line.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap();
            let (node, shape) = line.split_at(end);
            let [open, label, close] = shape.split('"').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let shapes = ["[ ]", "[[ ]]", "([ ])", "[/ /]", "{ }", "> ]"];
            assert!(shapes.contains(&format!("{open} {close}").as_str()), "{line}");
            let named = match open {
                "[" | "[[" => label.split(", then ").collect(),
                _ => Vec::new(),
            };
            assert!(calls.insert(node, named).is_none(), "{node} is there twice");
        }
        for (from, to) in &ways {
            assert!(
                calls.contains_key(from) && calls.contains_key(to),
                "{from} --> {to}"
            );
        }
        Self { calls, ways }
    }

    /// Adds where one gets to from nodes whose calls are all made. A place is a node and how many calls were made.
    fn spread(&self, places: &mut BTreeSet<(&'a str, usize)>) {
        let mut new: Vec<_> = places.iter().copied().collect();
        while let Some((node, made)) = new.pop() {
            if made == self.calls[node].len() {
                for (_, to) in self.ways.iter().filter(|(from, _)| *from == node) {
                    if places.insert((*to, 0)) {
                        new.push((*to, 0));
                    }
                }
            }
        }
    }

    /// Follows what was called, tries again included, to an end of this name.
    fn leads<'b>(&self, called: impl IntoIterator<Item = &'b str>, end: &str) -> bool {
        let mut places = BTreeSet::from([("Start", 0)]);
        self.spread(&mut places);
        for name in called {
            let again = |&(node, made): &(&'a str, usize)| made > 0 && self.calls[node][made - 1] == name;
            let mut next: BTreeSet<_> = places.iter().filter(|place| again(place)).copied().collect();
            for (node, made) in &places {
                if self.calls[node].get(*made) == Some(&name) {
                    next.insert((*node, made + 1));
                }
            }
            if next.is_empty() {
                return false;
            }
            places = next;
            self.spread(&mut places);
        }
        places.contains(&(end, 0)) || self.ways.contains(&("Any", end))
    }
}

#[test]
fn golden_runs_go_the_ways_that_are_drawn() {
    let flows = toygres_orchestrations::flows();
    let drawn: BTreeMap<_, _> = flows
        .iter()
        .map(|flow| (flow.name.as_str(), Drawn::read(&flow.mermaid)))
        .collect();
    let mut called: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in include_str!("../runs.txt")
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
    {
        let (head, steps) = run.split_once(": ").unwrap();
        let (name, status) = head.split_once(' ').unwrap();
        let steps: Vec<_> = steps.split(", ").filter(|step| !step.starts_with('(')).collect();
        let end = match status {
            "completed" => "Completed",
            "failed" => "Failed",
            _ => "ContinuedAsNew",
        };
        assert!(drawn[name].leads(steps.iter().copied(), end), "not drawn: {run}");
        called.entry(name).or_default().extend(steps);
    }
    for (name, drawn) in &drawn {
        let shown: BTreeSet<_> = drawn.calls.values().flatten().copied().collect();
        assert_eq!(
            called[name], shown,
            "{name} calls what it shows, and shows what it calls"
        );
    }
    let delete = &drawn["delete-instance"];
    let (right, wrong) = (
        ["cms-begin-operation", "remove-postgres"],
        ["remove-postgres", "verify-gone"],
    );
    assert!(delete.leads(right, "Failed") && !delete.leads(wrong, "Failed"));
    assert!(!delete.leads(right, "Completed"), "it has not ended there");
}
