//! What events and operations tell of the lives of instances: all that happened, once, in its order.

use super::{Promised, Run};
use reqwest::Method;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use toygres_activities::{DeployPostgres, RemovePostgres, TestConnection, VerifyGone, WaitForReady};
use toygres_engine::Activity;
use toygres_models::events::InstanceEvent;
use toygres_models::operations::{Operation, OperationKind, OperationState, Step, StepState};

/// Keeps every state and health that a row has ever had, whoever writes it, and whatever is told of it.
pub(super) const WITNESS: &str = "
    create table public.states (
        at bigint generated always as identity, instance_id uuid, state text, health text);
    create function public.see() returns trigger language plpgsql as $$ begin
        if tg_op = 'INSERT' or (new.state, new.health_status) is distinct from (old.state, old.health_status) then
            insert into public.states (instance_id, state, health) values (new.id, new.state, new.health_status);
        end if;
        return null;
    end $$;
    create trigger seen after insert or update on cms.instances for each row execute function public.see()";

const CREATE: [&str; 3] = [DeployPostgres::NAME, WaitForReady::NAME, TestConnection::NAME];
const DELETE: [&str; 2] = [RemovePostgres::NAME, VerifyGone::NAME];

/// What an instance's row says by what its events have told so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    state: &'static str,
    health: &'static str,
    /// Whether its creation was given up since it is to be deleted.
    cancelled: bool,
}

impl Told {
    /// What it says after one event more; `None`: such an event can't follow. Only where something failed is there
    /// anything that does not answer.
    fn followed_by(self, event: &InstanceEvent, disturbed: bool) -> Option<Self> {
        let now = |state, health| {
            Some(Self {
                state,
                health,
                ..self
            })
        };
        let words = event.message.split(':').next().unwrap_or_default();
        match (self.state, event.kind.as_str(), words) {
            ("", "create_requested", "create requested by loopback") => now("creating", "unknown"),
            ("creating" | "running" | "degraded", "updated", "changed by loopback") => Some(self),
            ("creating", "state_changed", "it is running") => now("running", "healthy"),
            ("running", "health_changed", "unhealthy") if disturbed => now("degraded", "unhealthy"),
            ("degraded", "health_changed", "healthy") => now("running", "healthy"),
            ("creating" | "running" | "degraded", "delete_requested", "delete requested by loopback") => {
                now("deleting", self.health)
            }
            ("deleting", "operation_cancelled", "the instance is being deleted")
                if self.health == "unknown" && !self.cancelled =>
            {
                Some(Self {
                    cancelled: true,
                    ..self
                })
            }
            // What was begun before the deletion was heard of.
            ("deleting", "health_changed", "unhealthy") if disturbed && self.health == "healthy" => {
                now("deleting", "unhealthy")
            }
            ("deleting", "health_changed", "healthy") if self.health == "unhealthy" => {
                now("deleting", "healthy")
            }
            ("deleting", "state_changed", "it is deleted") => now("deleted", "unknown"),
            _ => None,
        }
    }
}

/// A life, and what users know of it.
struct Life<'a> {
    id: &'a str,
    promised: &'a Promised,
    deleted: bool,
    /// Whether anything failed meanwhile.
    disturbed: bool,
    create: &'a Operation,
    delete: Option<&'a Operation>,
}

impl Run {
    /// The lives of all instances are told, and nothing else is.
    pub(super) async fn is_told(&self) {
        let mut database = self.fleet.connect().await;
        let operations: Vec<Operation> = self.list("/api/operations?limit=1000").await;
        let mut events = 0;
        for (id, promised, deleted) in self.model.lives() {
            let of = |kind| {
                let mut of = operations
                    .iter()
                    .filter(|operation| operation.instance_id.to_string() == id && operation.kind == kind);
                let (first, second) = (of.next(), of.next());
                assert!(second.is_none(), "{id}: {first:?} and again {second:?}");
                first
            };
            let delete = of(OperationKind::Delete);
            assert_eq!(delete.is_some(), deleted, "{id}: {delete:?}");
            let life = Life {
                id,
                promised,
                deleted,
                disturbed: self.troubles > 0,
                create: of(OperationKind::Create).unwrap(),
                delete,
            };
            let told: Vec<InstanceEvent> = self.list(&format!("/api/instances/{id}/events?limit=1000")).await;
            events += told.len();
            life.is_told_by(&told, &mut database).await;
            life.went_by_steps();
        }
        let there = self.fleet.count("select count(*) from cms.instance_events").await;
        assert_eq!(events as i64, there, "events of nobody");
        let lives = self.model.lives().count() as i64;
        let rows = self.fleet.count("select count(*) from cms.instances").await;
        assert_eq!(lives, rows, "instances that nobody asked for");
        let asked = self.model.lives().count() + self.model.gone.len();
        assert_eq!(operations.len(), asked, "operations that nobody asked for");
        let back = "select count(*) from (select created_at < lag(created_at) over (order by id) as falls \
                    from cms.instance_events) events where falls";
        assert_eq!(
            self.fleet.count(back).await,
            0,
            "events that are older than those before them"
        );
    }

    async fn list<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        let (_, list) = self.load.ask(Method::GET, path, None, None).await;
        serde_json::from_value(list).unwrap()
    }
}

impl Life<'_> {
    async fn is_told_by(&self, events: &[InstanceEvent], database: &mut PgConnection) {
        let Self { id, promised, .. } = self;
        let mut told = Told::default();
        // What the row has been, and the event that tells of it.
        let mut states = Vec::new();
        let (mut changes, mut changes_before_it_ran) = (Vec::new(), None);
        let mut last = 0;
        for event in events {
            let next = told.followed_by(event, self.disturbed);
            let next = next.unwrap_or_else(|| panic!("{event:?} can't follow {told:?} in {events:#?}"));
            assert!(event.id > last, "{id}: {events:#?}");
            last = event.id;
            assert_eq!(event.operation_id, self.operation_of(event), "{event:?}");
            if (next.state, next.health) != (told.state, told.health) {
                states.push((next.state.to_owned(), next.health.to_owned(), Some(event.id)));
            }
            match event.kind.as_str() {
                "updated" => changes.push(event.message.rsplit(": ").next().unwrap()),
                "state_changed" if next.state == "running" => changes_before_it_ran = Some(changes.len()),
                _ => {}
            }
            told = next;
        }
        let end = match self.deleted {
            true => ("deleted", "unknown"),
            false => ("running", "healthy"),
        };
        assert_eq!((told.state, told.health), end, "{id}: {events:#?}");
        assert_eq!(changes, promised.changes, "{id}: {events:#?}");
        if let Some(seen) = promised.ran_by {
            assert!(
                changes_before_it_ran.is_some_and(|before| before <= seen),
                "{id} was seen to run after {seen} changes: {events:#?}"
            );
        }
        let outcome = match changes_before_it_ran {
            Some(_) => OperationState::Succeeded,
            None => OperationState::Cancelled,
        };
        assert_eq!(self.create.state, outcome, "{id}: {events:#?}");
        let given_up = self.create.error.as_ref().map(|error| error.code.as_str());
        assert_eq!(
            given_up,
            told.cancelled.then_some("cancelled"),
            "{id}: {events:#?}"
        );
        if let Some(delete) = self.delete {
            assert_eq!(delete.state, OperationState::Succeeded, "{delete:?}");
        }

        // Each is told of by the transaction that brings it about.
        let sql = "select s.state, s.health, e.id from public.states s left join cms.instance_events e \
                   on e.instance_id = s.instance_id and e.xmin = s.xmin where s.instance_id = $1::uuid order by s.at, e.id";
        let seen: Vec<(String, String, Option<i64>)> = sqlx::query_as(sql)
            .bind(id)
            .fetch_all(&mut *database)
            .await
            .unwrap();
        assert_eq!(states, seen, "{id}: {events:#?}");

        let sql = "select action from cms.audit_events where instance_id = $1::uuid order by id";
        let audited: Vec<String> = sqlx::query_scalar(sql)
            .bind(id)
            .fetch_all(database)
            .await
            .unwrap();
        let mut asked = vec!["create_instance"];
        asked.extend(changes.iter().map(|_| "update_instance"));
        asked.extend(self.deleted.then_some("delete_instance"));
        assert_eq!(audited, asked, "{id}");
    }

    fn operation_of(&self, event: &InstanceEvent) -> Option<toygres_models::OperationId> {
        let operation = match (event.kind.as_str(), event.message.as_str()) {
            ("create_requested" | "operation_cancelled", _) | ("state_changed", "it is running") => {
                Some(self.create)
            }
            ("delete_requested" | "state_changed", _) => self.delete,
            _ => None,
        };
        operation.map(|operation| operation.id)
    }

    fn went_by_steps(&self) {
        for (operation, plan) in [
            (Some(self.create), CREATE.as_slice()),
            (self.delete, DELETE.as_slice()),
        ] {
            let Some(operation) = operation else { continue };
            let steps = &operation.steps;
            let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            // What was given up came as far as it came.
            let whole = operation.state == OperationState::Succeeded;
            assert!(
                plan.starts_with(&names) && (!whole || names == plan),
                "{operation:#?}"
            );
            let (begun, done) = (steps.len(), |step: &&Step| step.state == StepState::Succeeded);
            let done = steps.iter().take_while(done).count();
            assert!(done == begun || !whole && done + 1 == begun, "{operation:#?}");
            if self.disturbed {
                continue;
            }
            assert!(steps.iter().all(|step| step.attempts == 1), "{operation:#?}");
            let mut times = vec![Some(operation.requested_at), operation.started_at];
            times.extend(
                steps
                    .iter()
                    .flat_map(|step| [Some(step.started_at), step.finished_at]),
            );
            times.push(operation.finished_at);
            assert!(
                times.iter().all(Option::is_some) && times.is_sorted(),
                "{operation:#?}"
            );
        }
    }
}
