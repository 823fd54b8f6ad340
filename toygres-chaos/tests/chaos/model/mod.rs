//! Random requests, crashes and outages against a model of what users were promised.

mod counters;
mod requests;
mod story;
mod totals;

use crate::PATIENCE;
use crate::load::Load;
use crate::servers::Fleet;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use requests::{Step, Trouble, ask, steps};
use reqwest::Method;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use toygres_chaos::{Account, ServerProcess, SharedPlatform, long, seed};
use toygres_models::InstanceId;
use toygres_testing::{OtlpReceiver, wait_for};

/// How many names there are to quarrel over.
const NAMES: usize = 4;

/// An instance as users were told that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Promised {
    tag: Option<u8>,
    protected: bool,
    /// What was changed, in the words of events.
    changes: Vec<&'static str>,
    /// How many changes there had been when it was first seen to run.
    ran_by: Option<usize>,
}

/// What users were told.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<usize, (String, Promised)>,
    /// Those that were deleted.
    gone: BTreeMap<String, Promised>,
    /// How often it was answered that something is going to be deleted.
    deletions_accepted: u64,
}

impl Model {
    /// Everything that was ever made, and whether it was deleted.
    fn lives(&self) -> impl Iterator<Item = (&str, &Promised, bool)> {
        let live = self
            .live
            .values()
            .map(|(id, promised)| (id.as_str(), promised, false));
        let gone = self
            .gone
            .iter()
            .map(|(id, promised)| (id.as_str(), promised, true));
        live.chain(gone)
    }
}

fn name_of(number: usize) -> String {
    format!("name-{number}")
}

/// What stands for an instance on the platform.
fn file_of(fleet: &Fleet, id: InstanceId) -> PathBuf {
    let directory = ServerProcess::shared_directory(fleet.home.path());
    SharedPlatform::new(&directory, fleet.postgres.port()).file(id)
}

/// A model, and the server that it is held against.
struct Run {
    fleet: Fleet,
    load: Load,
    model: Model,
    troubles: usize,
    begun: Instant,
    /// What is on the platform from the beginning and belongs to nobody: it is told of, and left alone.
    stray: InstanceId,
}

impl Run {
    async fn start(receiver: &OtlpReceiver) -> Self {
        let mut fleet = Fleet::start(&[]).await;
        let stray = InstanceId::generate();
        let document = json!({ "id": stray, "name": "stray" }).to_string();
        std::fs::write(file_of(&fleet, stray), document).unwrap();
        let options = fleet.options(vec![
            ("TOYGRES_MODE", "all".to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "250".to_owned()),
            // The engine's history is what is counted.
            ("TOYGRES_PRUNE_INTERVAL_SECONDS", "86400".to_owned()),
        ]);
        fleet.servers.push(ServerProcess::start(options).await);
        for witness in [story::WITNESS, counters::HISTORY] {
            let made = sqlx::raw_sql(witness);
            made.execute(&mut fleet.connect().await).await.unwrap();
        }
        Self {
            load: fleet.load(&[0]),
            fleet,
            model: Model::default(),
            troubles: 0,
            begun: Instant::now(),
            stray,
        }
    }

    /// Has another server take the place of the first one, and gives the receiver of what it exports.
    async fn begin_anew(&mut self) -> OtlpReceiver {
        let receiver = OtlpReceiver::start().await;
        let server = &mut self.fleet.servers[0];
        server.kill();
        server.set("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url());
        // As if the time of one that was killed had run out.
        let freed = sqlx::query("delete from cms.leases");
        freed.execute(&mut self.fleet.connect().await).await.unwrap();
        self.fleet.servers[0].start_again().await;
        receiver
    }

    async fn step(&mut self, number: usize, step: &Step) {
        let Self {
            fleet,
            load,
            model,
            troubles,
            ..
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
            for (_, promised) in model.live.values_mut() {
                promised.ran_by.get_or_insert(promised.changes.len());
            }
        }
    }

    /// What belonged to nobody goes, and what is told of it.
    async fn lose_stray(&self) {
        std::fs::remove_file(file_of(&self.fleet, self.stray)).unwrap();
        wait_for("the sweep", PATIENCE, || async {
            let (_, drift) = self.load.ask(Method::GET, "/api/server/drift", None, None).await;
            (drift == json!([])).then_some(())
        })
        .await;
    }

    /// What is there is what was promised: in the rows, on the platform, in what is told of it, and in all numbers.
    async fn holds(&self) {
        quiet(&self.load).await;
        self.is_there().await;
        self.is_told().await;
        self.is_counted().await;
    }

    async fn is_there(&self) {
        let Self {
            fleet, load, model, ..
        } = self;
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
        let live = model.live.values().map(|(id, _)| id.clone());
        assert_eq!(
            files,
            live.chain([self.stray.to_string()]).collect(),
            "on the platform"
        );
        let made = std::fs::read_to_string(directory.join("made")).unwrap_or_default();
        let ids: BTreeSet<&str> = made.lines().collect();
        assert_eq!(ids.len(), made.lines().count(), "none was made twice");
        // Who sweeps looks every few seconds.
        let drift = wait_for("the sweep", PATIENCE, || async {
            let (_, drift) = load.ask(Method::GET, "/api/server/drift", None, None).await;
            (drift != json!([])).then_some(drift)
        })
        .await;
        let drift = drift.as_array().unwrap();
        assert!(
            drift.len() == 1 && drift[0]["kind"] == "unknown_object",
            "{drift:?}"
        );
        assert_eq!(drift[0]["instance_id"], self.stray.to_string(), "{drift:?}");
    }
}

/// Waits until nothing is underway, and what did not answer does.
async fn quiet(load: &Load) {
    wait_for("quiet", PATIENCE, || async {
        for path in [
            "/api/operations?state=pending",
            "/api/operations?state=running",
            "/api/instances?state=degraded",
        ] {
            let (_, list) = load.ask(Method::GET, path, None, None).await;
            if list != json!([]) {
                return None;
            }
        }
        Some(())
    })
    .await;
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
        max_shrink_time: 300_000,
        failure_persistence: None,
        ..Config::default()
    };
    let troubles = std::cell::Cell::new(0);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&steps(trouble), |steps| {
        runtime.block_on(async {
            let receiver = OtlpReceiver::start().await;
            let mut run = Run::start(&receiver).await;
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
    let cases = if long() { 100 } else { 5 };
    let troubles = runs("model with troubles", true, cases, async |run, _| {
        // The first thing that it does is to look, so that nobody waits for its next time.
        let receiver = run.begin_anew().await;
        run.is_shown(&receiver).await;
    });
    account.injected(troubles);
}

#[test]
fn without_troubles_the_counters_are_what_was_done() {
    let cases = if long() { 40 } else { 3 };
    runs("model without troubles", false, cases, async |run, receiver| {
        run.is_shown(receiver).await;
        run.lose_stray().await;
        run.is_shown(receiver).await;
        // The last export is that of the end.
        run.fleet.servers[0].terminate().await;
        run.was_counted(receiver).await;
    });
}
