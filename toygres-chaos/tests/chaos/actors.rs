//! Actors are cancelled, panic, lose their history, are poisoned and forgotten by the engine: they are made whole, and other
//! instances are looked after as before.

use crate::PATIENCE;
use crate::servers::Fleet;
use sqlx::{Connection as _, PgPool};
use std::time::Instant;
use toygres_chaos::{Account, Effect, Fault, Stalls};
use toygres_engine::{Engine, EngineConfig};
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::OperationState;
use toygres_models::{InstanceId, Secret};
use toygres_testing::wait_for;

/// What happens to an orchestration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Cancelled,
    Panicked,
    Unreadable,
    Poisoned,
    Forgotten,
}

/// What happens while the actor works on an operation: to the actor itself, or else to its child. The engine deletes no
/// child of a parent that lives.
const DAMAGES: [(Damage, bool); 9] = [
    (Damage::Cancelled, true),
    (Damage::Panicked, true),
    (Damage::Unreadable, true),
    (Damage::Poisoned, true),
    (Damage::Forgotten, true),
    (Damage::Cancelled, false),
    (Damage::Panicked, false),
    (Damage::Unreadable, false),
    (Damage::Poisoned, false),
];

impl Damage {
    fn words(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Panicked => "ended by a panic",
            Self::Unreadable => "its history made unreadable",
            Self::Poisoned => "poisoned by too many attempts",
            Self::Forgotten => "deleted from the engine",
        }
    }

    /// What is done to the engine's rows of it, `$1`.
    fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Cancelled | Self::Panicked => &[],
            // As a newer version might have written it.
            Self::Unreadable => {
                &["update duroxide.history set event_data = '{\"unknown\": true}' where instance_id = $1"]
            }
            Self::Poisoned => {
                &["update duroxide.orchestrator_queue set attempt_count = 100 where instance_id = $1"]
            }
            Self::Forgotten => &[
                "delete from duroxide.history where instance_id = $1",
                "delete from duroxide.executions where instance_id = $1",
                "delete from duroxide.orchestrator_queue where instance_id = $1",
                "delete from duroxide.worker_queue where instance_id = $1",
                "delete from duroxide.instance_locks where instance_id = $1",
                "delete from duroxide.instances where instance_id = $1",
            ],
        }
    }

    async fn strike(self, fleet: &Fleet, id: &str) {
        match self {
            Self::Cancelled => engine(fleet)
                .await
                .client()
                .cancel(id, "by a test")
                .await
                .unwrap(),
            Self::Panicked => {
                let server = &fleet.servers[0];
                server.plan_panic(id);
                engine(fleet).await.client().wake(id).await.unwrap();
                wait_for("the panic", PATIENCE, || async {
                    server.has_panicked().then_some(())
                })
                .await;
            }
            Self::Unreadable | Self::Poisoned | Self::Forgotten => {
                change_rows(fleet, self.statements(), id).await;
            }
        }
    }
}

async fn change_rows(fleet: &Fleet, statements: &[&'static str], id: &str) {
    // At once, and while nobody works on it.
    wait_for("the rows", PATIENCE, || async {
        let mut connection = fleet.connect().await;
        let mut transaction = connection.begin().await.unwrap();
        // First, since nobody takes what is being changed.
        let mut changed = 0;
        for statement in statements {
            let done = sqlx::query(statement).bind(id).execute(&mut *transaction).await.ok()?;
            changed += done.rows_affected();
        }
        let locks = "select count(*) from duroxide.instance_locks where instance_id = $1 and locked_until > extract(epoch from clock_timestamp()) * 1000";
        let locked: i64 = sqlx::query_scalar(locks).bind(id).fetch_one(&mut *transaction).await.unwrap();
        if locked > 0 {
            return None;
        }
        transaction.commit().await.ok()?;
        (changed > 0).then_some(())
    })
    .await;
}

async fn incarnation(fleet: &Fleet, id: InstanceId) -> i64 {
    fleet
        .count(&format!(
            "select incarnation from cms.instances where id = '{id}'"
        ))
        .await
}

async fn engine(fleet: &Fleet) -> Engine {
    let config = EngineConfig::new(Secret::new(fleet.database_url.clone()));
    let pool = PgPool::connect(&fleet.database_url).await.unwrap();
    Engine::connect(config, pool).await.unwrap()
}

/// The id of the orchestration of this name that works on the operation.
async fn child(fleet: &Fleet, name: &str, accepted: &InstanceAccepted) -> String {
    let sql = "select instance_id from duroxide.instances where instance_id like $1";
    let like = format!("{name}-{}-%", accepted.operation.id);
    let found = sqlx::query_scalar(sql).bind(like);
    found.fetch_one(&mut fleet.connect().await).await.unwrap()
}

/// Has an operation wait at this step.
fn waits(activity: &str) -> Fault {
    Fault::before_step(activity, Effect::Unavailable, 1_000_000)
}

/// Two more good checks, by an actor that lives.
async fn whole(fleet: &Fleet, id: InstanceId) {
    let checks = format!("select count(*) from cms.health_checks where instance_id = '{id}' and healthy");
    let before = fleet.count(&checks).await;
    wait_for("two more checks", PATIENCE, || async {
        (fleet.count(&checks).await >= before + 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_watches_is_made_whole_and_others_are_watched_as_before() {
    let fleet = Fleet::start(&["all"]).await;
    let load = fleet.load(&[0]);
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(load.create(&format!("other-{number}")).await);
    }
    let victim = load.create("victim").await;
    let id = victim.instance.id;
    let stalls = Stalls::begin();
    let damages = [
        Damage::Cancelled,
        Damage::Panicked,
        Damage::Unreadable,
        Damage::Poisoned,
        Damage::Forgotten,
    ];
    for damage in damages {
        let what = damage.words();
        let mut account = Account::new("actor", format!("the actor of a running instance {what}"));
        let actor = format!("actor-{id}-{}", incarnation(&fleet, id).await);
        let begun = Instant::now();
        damage.strike(&fleet, &actor).await;
        // Nothing is checked by an actor that is gone, so that these are those of another.
        whole(&fleet, id).await;
        account.injected(1);
        account.recovered(begun.elapsed());
    }
    // Nobody else noticed: checks of the others kept their second, but for what a busy machine takes.
    let gap = "select max(extract(epoch from gap))::float8 from (select checked_at - lag(checked_at) over \
               (partition by instance_id order by checked_at) as gap from cms.health_checks where instance_id <> $1) g";
    let longest: f64 = sqlx::query_scalar(gap)
        .bind(id.0)
        .fetch_one(&mut fleet.connect().await)
        .await
        .unwrap();
    let stalled = stalls.total().as_secs_f64();
    eprintln!(
        "the longest pause between two checks of another instance was {longest} s; stood still for {stalled} s"
    );
    assert!(
        longest < 10.0 + stalled,
        "{longest} s without a check of another instance; the machine stood still for {stalled} s"
    );
    for other in others.iter().chain([&victim]) {
        load.delete(other).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_makes_an_instance_is_made_whole() {
    let fleet = Fleet::start(&["all"]).await;
    let server = &fleet.servers[0];
    let load = fleet.load(&[0]);
    for (damage, actor) in DAMAGES {
        let what = damage.words();
        let whose = if actor { "the actor of" } else { "the creation of" };
        let mut account = Account::new("actor", format!("{whose} an instance that is being made {what}"));
        server.plan(Some(&waits("wait-for-ready")));
        let created = server.create("victim").await;
        let id = created.instance.id;
        wait_for("the create to wait", PATIENCE, || async {
            (server.hits() > 2).then_some(())
        })
        .await;
        let orchestration = match actor {
            true => format!("actor-{id}-1"),
            false => child(&fleet, "create-instance", &created).await,
        };
        let begun = Instant::now();
        damage.strike(&fleet, &orchestration).await;
        if actor {
            wait_for("another try", PATIENCE, || async {
                let begun = "select count(*) from duroxide.instances where instance_id like $1";
                let like = format!("create-instance-{}-%", created.operation.id);
                let tries: i64 = sqlx::query_scalar(begun)
                    .bind(like)
                    .fetch_one(&mut fleet.connect().await)
                    .await
                    .unwrap();
                (tries > 1 || damage == Damage::Forgotten).then_some(())
            })
            .await;
            server.plan(None);
        }
        let operation = load.ended(&created).await;
        account.injected(1);
        account.recovered(begun.elapsed());
        if actor {
            assert_eq!(
                operation.state,
                OperationState::Succeeded,
                "{what}: {operation:?}"
            );
            whole(&fleet, id).await;
        } else {
            // It is not known how far it came: all of it is undone, and that is said.
            assert_eq!(operation.state, OperationState::Failed, "{what}: {operation:?}");
            assert!(operation.error.is_some(), "{what}: {operation:?}");
            let directory = toygres_chaos::ServerProcess::shared_directory(server.home());
            assert!(
                !directory.join(format!("{id}.json")).exists(),
                "{what}: it is undone"
            );
        }
        server.plan(None);
        load.delete(&created).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_deletes_an_instance_is_made_whole() {
    let fleet = Fleet::start(&["all"]).await;
    let server = &fleet.servers[0];
    let load = fleet.load(&[0]);
    for (number, (damage, actor)) in DAMAGES.into_iter().enumerate() {
        let what = damage.words();
        let whose = if actor { "the actor of" } else { "the deletion of" };
        let mut account = Account::new(
            "actor",
            format!("{whose} an instance that is being deleted {what}"),
        );
        let name = format!("victim-{number}");
        let created = load.create(&name).await;
        let id = created.instance.id;
        server.plan(Some(&waits("remove-postgres")));
        let deleted = server.request_delete(&name).await;
        wait_for("the delete to wait", PATIENCE, || async {
            (server.hits() > 1).then_some(())
        })
        .await;
        let orchestration = match actor {
            true => format!("actor-{id}-{}", incarnation(&fleet, id).await),
            false => child(&fleet, "delete-instance", &deleted).await,
        };
        let begun = Instant::now();
        damage.strike(&fleet, &orchestration).await;
        server.plan(None);
        let operation = load.ended(&deleted).await;
        account.injected(1);
        account.recovered(begun.elapsed());
        assert_eq!(
            operation.state,
            OperationState::Succeeded,
            "{whose} {what}: {operation:?}"
        );
        let directory = toygres_chaos::ServerProcess::shared_directory(server.home());
        assert!(
            !directory.join(format!("{id}.json")).exists(),
            "{what}: it is removed"
        );
    }
}
