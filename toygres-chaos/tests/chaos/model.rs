//! Random requests, crashes and outages against a model of what users were promised.

use crate::PATIENCE;
use crate::load::Load;
use crate::servers::Fleet;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use toygres_chaos::{Account, ServerProcess, long, seed};
use toygres_testing::{OtlpReceiver, wait_for};

/// How many names there are to quarrel over.
const NAMES: usize = 4;

/// What a user asks for.
#[derive(Debug, Clone)]
enum Request {
    Create(usize),
    Delete(usize),
    Tag(usize, u8),
    Protect(usize, bool),
    /// Of the names from 1 to that.
    CreateMany(usize),
    DeleteMany(Vec<usize>),
}

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// The server is killed and started again.
    Crash,
    /// The control database crashes and starts again.
    Outage,
}

#[derive(Debug, Clone)]
struct Step {
    request: Request,
    trouble: Trouble,
    /// How long after the request the trouble begins.
    after_ms: u64,
    /// Whether all that was begun is waited for afterwards.
    settle: bool,
}

fn request() -> impl Strategy<Value = Request> {
    let name = 0..NAMES;
    let some = prop::collection::btree_set(0..NAMES, 1..=NAMES)
        .prop_map(|names| names.into_iter().collect::<Vec<_>>());
    prop_oneof![
        4 => name.clone().prop_map(Request::Create),
        3 => name.clone().prop_map(Request::Delete),
        2 => (name.clone(), 0..3_u8).prop_map(|(name, value)| Request::Tag(name, value)),
        1 => (name, any::<bool>()).prop_map(|(name, on)| Request::Protect(name, on)),
        1 => (1..NAMES).prop_map(Request::CreateMany),
        1 => some.prop_map(Request::DeleteMany),
    ]
}

fn steps(trouble: bool) -> impl Strategy<Value = Vec<Step>> {
    let trouble = match trouble {
        true => prop_oneof![6 => Just(Trouble::None), 2 => Just(Trouble::Crash), 1 => Just(Trouble::Outage)]
            .boxed(),
        false => Just(Trouble::None).boxed(),
    };
    let step = (request(), trouble, 0..120_u64, prop::bool::weighted(0.3));
    let step = step.prop_map(|(request, trouble, after_ms, settle)| Step {
        request,
        trouble,
        after_ms,
        settle,
    });
    prop::collection::vec(step, 5..25)
}

/// An instance as users were told that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Promised {
    tag: Option<u8>,
    protected: bool,
    changes: usize,
}

/// What users were told.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<usize, (String, Promised)>,
    /// Those that were deleted, and how often they had been changed.
    gone: BTreeMap<String, Promised>,
}

fn name_of(number: usize) -> String {
    format!("name-{number}")
}

/// A model, and the server that it is held against.
struct Run {
    fleet: Fleet,
    load: Load,
    model: Model,
    troubles: usize,
}

impl Run {
    async fn step(&mut self, number: usize, step: &Step) {
        let Self {
            fleet,
            load,
            model,
            troubles,
        } = self;
        let disturbed = step.trouble != Trouble::None;
        let (load, asked) = (&*load, async {
            ask(load, model, number, &step.request, disturbed).await;
        });
        let pause = tokio::time::sleep(Duration::from_millis(step.after_ms));
        match step.trouble {
            Trouble::None => asked.await,
            Trouble::Crash => {
                *troubles += 1;
                tokio::join!(asked, async {
                    pause.await;
                    fleet.servers[0].kill();
                    fleet.servers[0].start_again().await;
                });
            }
            Trouble::Outage => {
                *troubles += 1;
                tokio::join!(asked, async {
                    pause.await;
                    fleet.postgres.crash();
                    fleet.postgres.restart().await;
                });
            }
        }
        if step.settle {
            quiet(load).await;
        }
    }

    /// What is there is what was promised: in the rows, on the platform, and in what events tell.
    async fn holds(&self) {
        let Self {
            fleet, load, model, ..
        } = self;
        quiet(load).await;
        let promised: BTreeMap<String, (&String, &Promised)> = model
            .live
            .iter()
            .map(|(number, (id, promised))| (name_of(*number), (id, promised)))
            .collect();
        let (_, list) = load.ask(Method::GET, "/api/instances", None, None).await;
        let list = list.as_array().unwrap();
        let names: BTreeSet<&str> = list
            .iter()
            .map(|instance| instance["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            promised.keys().map(String::as_str).collect(),
            "those there are"
        );
        for instance in list {
            let (id, promised) = promised[instance["name"].as_str().unwrap()];
            assert_eq!(instance["id"], **id, "{instance}");
            assert_eq!(instance["state"], "running", "{instance}");
            assert_eq!(instance["deletion_protection"], promised.protected, "{instance}");
            let tag = promised.tag.map(|tag| tag.to_string());
            assert_eq!(instance["tags"]["tag"].as_str(), tag.as_deref(), "{instance}");
        }
        // Files end in `.json`.
        let directory = ServerProcess::shared_directory(fleet.home.path());
        let files: BTreeSet<String> = std::fs::read_dir(&directory)
            .unwrap()
            .flatten()
            .filter_map(|file| {
                file.file_name()
                    .to_str()?
                    .strip_suffix(".json")
                    .map(str::to_owned)
            })
            .collect();
        assert_eq!(
            files,
            model.live.values().map(|(id, _)| id.clone()).collect(),
            "on the platform"
        );
        let made = std::fs::read_to_string(directory.join("made")).unwrap_or_default();
        let ids: BTreeSet<&str> = made.lines().collect();
        assert_eq!(ids.len(), made.lines().count(), "none was made twice");

        let all = model.live.values().map(|(id, promised)| (id, promised, false));
        let all: Vec<_> = all
            .chain(model.gone.iter().map(|(id, promised)| (id, promised, true)))
            .collect();
        for (id, promised, deleted) in &all {
            let path = format!("/api/instances/{id}/events");
            let (_, events) = load.ask(Method::GET, &path, None, None).await;
            let kinds: Vec<&str> = events
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["kind"].as_str().unwrap())
                .collect();
            let count = |kind: &str| kinds.iter().filter(|found| **found == kind).count();
            assert_eq!(kinds.first(), Some(&"create_requested"), "{kinds:?}");
            assert_eq!(count("create_requested"), 1, "{kinds:?}");
            assert_eq!(count("delete_requested"), usize::from(*deleted), "{kinds:?}");
            assert_eq!(count("updated"), promised.changes, "{kinds:?}");
            assert!(!deleted || kinds.last() == Some(&"state_changed"), "{kinds:?}");
            let sql = format!(
                "select string_agg(kind || ' ' || state, ', ' order by requested_at) from cms.operations where instance_id = '{id}'"
            );
            let operations: String = sqlx::query_scalar(&sql)
                .fetch_one(&mut fleet.connect().await)
                .await
                .unwrap();
            let expected: &[&str] = match deleted {
                false => &["create succeeded"],
                true => &[
                    "create succeeded, delete succeeded",
                    "create cancelled, delete succeeded",
                ],
            };
            assert!(expected.contains(&operations.as_str()), "{id}: {operations}");
        }
        let rows = fleet.count("select count(*) from cms.instances").await;
        assert_eq!(
            rows,
            i64::try_from(all.len()).unwrap(),
            "rows that nobody asked for"
        );
        let (_, stats) = load.ask(Method::GET, "/api/server/stats", None, None).await;
        let states = stats["operations_by_state"].as_array().unwrap();
        let told: i64 = states.iter().map(|state| state["count"].as_i64().unwrap()).sum();
        assert_eq!(
            told,
            fleet.count("select count(*) from cms.operations").await,
            "{stats}"
        );
        let drift = "select count(*) from cms.drift_findings where resolved_at is null";
        assert_eq!(fleet.count(drift).await, 0);
    }
}

/// Waits until nothing is underway.
async fn quiet(load: &Load) {
    wait_for("quiet", PATIENCE, || async {
        let (_, pending) = load
            .ask(Method::GET, "/api/operations?state=pending", None, None)
            .await;
        let (_, running) = load
            .ask(Method::GET, "/api/operations?state=running", None, None)
            .await;
        (pending == json!([]) && running == json!([])).then_some(())
    })
    .await;
}

/// Asks, and has the model believe the answer; what can't be answered so is a failure.
async fn ask(load: &Load, model: &mut Model, number: usize, request: &Request, disturbed: bool) {
    let key = format!("step-{number}");
    match request {
        Request::Create(name) => {
            let body = json!({ "name": name_of(*name), "password": "chaos-secret" });
            let asked = |key: String| {
                let body = body.clone();
                async move {
                    load.ask(Method::POST, "/api/instances", Some(&key), Some(&body))
                        .await
                }
            };
            created(model, *name, asked(key).await, asked).await;
        }
        Request::CreateMany(count) => {
            let body = json!({ "base_name": "name", "count": count, "password": "chaos-secret" });
            let results = answers(load, "/api/instances/bulk", Some(&key), &body).await;
            for (name, result) in (1..=*count).zip(&results) {
                let status =
                    StatusCode::from_u16(u16::try_from(result["status"].as_u64().unwrap()).unwrap()).unwrap();
                match status {
                    StatusCode::ACCEPTED => accepted(model, name, &result["accepted"]),
                    status => {
                        assert_eq!(status, StatusCode::CONFLICT, "{result}");
                        let taken = result["problem"]["code"] == "name_taken";
                        assert_eq!(taken, model.live.contains_key(&name), "{result}");
                    }
                }
            }
        }
        Request::Delete(name) => {
            let path = format!("/api/instances/{}", name_of(*name));
            let (status, body) = load.ask(Method::DELETE, &path, None, None).await;
            deleted(model, *name, status, &body, disturbed);
        }
        Request::DeleteMany(names) => {
            let body = json!({ "names": names.iter().map(|name| name_of(*name)).collect::<Vec<_>>() });
            let results = answers(load, "/api/instances/bulk/delete", None, &body).await;
            for (name, result) in names.iter().zip(&results) {
                let status =
                    StatusCode::from_u16(u16::try_from(result["status"].as_u64().unwrap()).unwrap()).unwrap();
                let body = match status {
                    StatusCode::ACCEPTED => &result["accepted"],
                    _ => &result["problem"],
                };
                deleted(model, *name, status, body, disturbed);
            }
        }
        Request::Tag(name, value) => {
            let body = json!({ "tags": { "tag": value.to_string() } });
            changed(load, model, *name, &body, |promised| promised.tag = Some(*value)).await;
        }
        Request::Protect(name, on) => {
            let body = json!({ "deletion_protection": on });
            changed(load, model, *name, &body, |promised| promised.protected = *on).await;
        }
    }
}

/// What is answered for each of many, once none is answered that it can't be done now.
async fn answers(load: &Load, path: &str, key: Option<&str>, body: &Value) -> Vec<Value> {
    wait_for("an answer for each", PATIENCE, || async {
        let (status, results) = load.ask(Method::POST, path, key, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{results}");
        let results = results.as_array().unwrap();
        let all = results.iter().all(|result| result["status"] != 503);
        all.then(|| results.clone())
    })
    .await
}

async fn created<F: Future<Output = (StatusCode, Value)>>(
    model: &mut Model,
    name: usize,
    first: (StatusCode, Value),
    again: impl Fn(String) -> F,
) {
    let (mut status, mut body) = first;
    let mut tries = 0;
    while status == StatusCode::CONFLICT && body["code"] == "name_being_deleted" {
        assert!(!model.live.contains_key(&name), "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        tries += 1;
        assert!(tries < 2000, "it is being deleted for ever: {body}");
        (status, body) = again(format!("again-{name}-{}", model.gone.len())).await;
    }
    match status {
        StatusCode::ACCEPTED => accepted(model, name, &body),
        status => {
            assert_eq!(status, StatusCode::CONFLICT, "{body}");
            assert_eq!(body["code"], "name_taken", "{body}");
            assert!(model.live.contains_key(&name), "nobody was told of {body}");
        }
    }
}

fn accepted(model: &mut Model, name: usize, body: &Value) {
    let id = body["instance"]["id"].as_str().unwrap().to_owned();
    let before = model.live.insert(name, (id, Promised::default()));
    assert!(before.is_none(), "{before:?} had the name of {body}");
}

fn deleted(model: &mut Model, name: usize, status: StatusCode, body: &Value, disturbed: bool) {
    match model.live.get(&name) {
        Some((_, promised)) if promised.protected => {
            assert_eq!(
                (status, body["code"].as_str()),
                (StatusCode::CONFLICT, Some("deletion_protected")),
                "{body}"
            );
        }
        Some(_) => {
            // An answer may be lost, and another says that it is gone.
            assert!(
                status == StatusCode::ACCEPTED || disturbed && status == StatusCode::NOT_FOUND,
                "{status}: {body}"
            );
            let (id, promised) = model.live.remove(&name).unwrap();
            model.gone.insert(id, promised);
        }
        // It may be on its way.
        None => assert!(
            [StatusCode::ACCEPTED, StatusCode::NOT_FOUND].contains(&status),
            "{status}: {body}"
        ),
    }
}

async fn changed(load: &Load, model: &mut Model, name: usize, body: &Value, change: impl Fn(&mut Promised)) {
    let path = format!("/api/instances/{}", name_of(name));
    let (status, answer) = load.ask(Method::PATCH, &path, None, Some(body)).await;
    match model.live.get_mut(&name) {
        Some((_, promised)) => {
            assert_eq!(status, StatusCode::OK, "{answer}");
            let before = promised.clone();
            change(promised);
            promised.changes += usize::from(*promised != before);
        }
        // It is on its way, or gone.
        None => assert!(
            [StatusCode::CONFLICT, StatusCode::NOT_FOUND].contains(&status),
            "{status}: {answer}"
        ),
    }
}

/// Runs random steps, as many times as that; says how often there was trouble.
fn runs(
    test: &'static str,
    trouble: bool,
    cases: u32,
    after: impl AsyncFn(&mut Run, &OtlpReceiver),
) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed(test).to_le_bytes());
    let config = Config {
        cases,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let troubles = std::cell::Cell::new(0);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&steps(trouble), |steps| {
        runtime.block_on(async {
            let receiver = OtlpReceiver::start().await;
            let settings = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())];
            let fleet = Fleet::start_with(&["all"], settings).await;
            let load = fleet.load(&[0]);
            let mut run = Run {
                fleet,
                load,
                model: Model::default(),
                troubles: 0,
            };
            for (number, step) in steps.iter().enumerate() {
                run.step(number, step).await;
            }
            run.holds().await;
            after(&mut run, &receiver).await;
            troubles.set(troubles.get() + run.troubles);
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    troubles.get()
}

#[test]
fn whatever_is_asked_and_whatever_fails_users_have_what_they_were_told() {
    let mut account = Account::new(
        "model",
        "random requests, with SIGKILL of the server and crashes of the database among them",
    );
    let troubles = runs(
        "model with troubles",
        true,
        if long() { 100 } else { 5 },
        async |_, _| {},
    );
    account.injected(troubles);
}

#[test]
fn without_troubles_the_counters_are_what_was_done() {
    let cases = if long() { 40 } else { 3 };
    runs("model without troubles", false, cases, async |run, receiver| {
        // The last export is that of the end.
        run.fleet.servers[0].terminate().await;
        let sql = "select kind || ' ' || state, count(*) from cms.operations group by 1 order by 1";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql)
            .fetch_all(&mut run.fleet.connect().await)
            .await
            .unwrap();
        let done: BTreeMap<String, i64> = rows.into_iter().collect();
        let mut told = BTreeMap::new();
        for point in receiver.metric("toygres_operations_total") {
            *told
                .entry(format!("{} {}", point.labels["kind"], point.labels["outcome"]))
                .or_insert(0) += point.value as i64;
        }
        told.retain(|_, count| *count > 0);
        assert_eq!(told, done);
    });
}
