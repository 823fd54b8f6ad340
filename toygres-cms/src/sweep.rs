//! What the sweeper needs: one node at a time looks for instances whose actor is gone, drift, and old rows.

use crate::audit::Origin;
use crate::errors::database;
use crate::events::EventKind;
use crate::{Cms, rows};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashMap;
use std::time::Duration;
use toygres_models::instances::InstanceState;
use toygres_models::{InstanceId, Result, drift};
use uuid::Uuid;

/// An instance that needs a living actor.
#[derive(Debug, Clone)]
pub struct WantedActor {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its actor.
    pub incarnation: i64,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Time since somebody last wanted something new of it, or its actor was replaced.
    pub age: Duration,
    /// Time since its actor last got something done.
    pub since_progress: Duration,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Health checks.
    pub health_checks: Duration,
    /// Events.
    pub events: Duration,
    /// Operations that have ended, with their steps.
    pub operations: Duration,
    /// Idempotency keys.
    pub idempotency_keys: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Retention {
    fn default() -> Self {
        Self {
            health_checks: 7 * DAY,
            events: 400 * DAY,
            operations: 400 * DAY,
            idempotency_keys: DAY,
        }
    }
}

/// How many rows were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Health checks.
    pub health_checks: u64,
    /// Events.
    pub events: u64,
    /// Operations.
    pub operations: u64,
    /// Idempotency keys.
    pub idempotency_keys: u64,
}

/// As good as for ever; much longer is before the first date that the database knows.
const LONGEST: Duration = DAY.saturating_mul(365 * 1000);

/// Rows removed by one statement: few enough not to be in anybody's way.
const PRUNE_BATCH: i64 = 5_000;

impl Cms {
    /// Takes the lease, or holds it for longer: whether `holder` has it now, for `ttl` by the database's clock.
    ///
    /// # Errors
    /// See the crate.
    pub async fn try_lease(&self, name: &str, holder: Uuid, ttl: Duration) -> Result<bool> {
        let taken = sqlx::query(
            "insert into cms.leases as l (name, holder, expires_at) \
             values ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
             on conflict (name) do update set holder = excluded.holder, expires_at = excluded.expires_at \
             where l.holder = excluded.holder or l.expires_at <= clock_timestamp()",
        )
        .bind(name)
        .bind(holder)
        .bind(ttl.as_secs_f64())
        .execute(&self.pool)
        .await
        .map_err(database)?;
        Ok(taken.rows_affected() == 1)
    }

    /// Gives the lease back, if `holder` has it.
    ///
    /// # Errors
    /// See the crate.
    pub async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        sqlx::query("delete from cms.leases where name = $1 and holder = $2")
            .bind(name)
            .bind(holder)
            .execute(&self.pool)
            .await
            .map_err(database)?;
        Ok(())
    }

    /// Every instance that needs a living actor: it has not ended, or an operation of it has not.
    ///
    /// # Errors
    /// See the crate.
    pub async fn actors_wanted(&self) -> Result<Vec<WantedActor>> {
        sqlx::query(
            "select id, incarnation, state, extract(epoch from now() - intent_at)::float8 as age, \
                 extract(epoch from now() - progressed_at)::float8 as since_progress \
             from cms.instances where id in ( \
                 select id from cms.instances where state not in ('deleted', 'failed') \
                 union select instance_id from cms.operations where state in ('pending', 'running')) \
             order by id",
        )
        .try_map(|row: PgRow| {
            let seconds = |column| {
                Ok::<_, sqlx::Error>(Duration::from_secs_f64(row.try_get::<f64, _>(column)?.max(0.0)))
            };
            Ok(WantedActor {
                instance_id: InstanceId(row.try_get("id")?),
                incarnation: row.try_get("incarnation")?,
                state: rows::parsed(&row, "state")?,
                age: seconds("age")?,
                since_progress: seconds("since_progress")?,
            })
        })
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)
    }

    /// Replaces the instance's actor: gives the new incarnation, or `None` if it is not `expected_incarnation` any
    /// more, or the instance is gone. From then on every write of the old actor is refused. `asked`: who wants it, if
    /// it is not the sweeper, for the audit.
    ///
    /// # Errors
    /// See the crate.
    pub async fn replace_actor(
        &self,
        instance_id: InstanceId,
        expected_incarnation: i64,
        asked: Option<&Origin>,
    ) -> Result<Option<i64>> {
        sqlx::query_scalar(
            "with changed as ( \
                 update cms.instances set incarnation = incarnation + 1, intent_at = now(), progressed_at = now() \
                 where id = $1 and incarnation = $2 and state <> 'deleted' returning id, incarnation), \
             event as ( \
                 insert into cms.instance_events (instance_id, kind, message) \
                 select id, $3, format('its actor was replaced, now number %s', incarnation) from changed), \
             audit as ( \
                 insert into cms.audit_events (actor, action, instance_id, trace_id) \
                 select $4, 'replace_actor', id, $5 from changed where $4 is not null) \
             select incarnation from changed",
        )
        .bind(instance_id.0)
        .bind(expected_incarnation)
        .bind(EventKind::ActorReplaced.as_str())
        .bind(asked.map(|origin| &origin.actor))
        .bind(asked.and_then(Origin::trace_id))
        .fetch_optional(&self.pool)
        .await
        .map_err(database)
    }

    /// Records that operations have not ended although they were asked for so long ago: an alarm, and an event, until they
    /// do. Gives the messages of the new alarms.
    ///
    /// # Errors
    /// See the crate.
    pub async fn record_overdue(&self, after: Duration) -> Result<Vec<(InstanceId, String)>> {
        // An operation that somebody is just writing to, as its end does, is left for the next time: once it is locked
        // its end waits, and then ends the alarm.
        sqlx::query(
            "with overdue as ( \
                 select instance_id, id, kind, requested_at from cms.operations \
                 where state in ('pending', 'running') and requested_at < now() - make_interval(secs => $1) \
                 for no key update skip locked), \
             alarms as ( \
                 insert into cms.drift_findings (source, kind, object, instance_id, message) \
                 select distinct on (instance_id) 'actor', $2, instance_id, instance_id, \
                     format('the %s %s was asked for at %s and has not ended', kind, id, \
                         to_char(requested_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) \
                 from overdue order by instance_id, requested_at \
                 on conflict (source, kind, object) where resolved_at is null do nothing \
                 returning instance_id, message) \
             insert into cms.instance_events (instance_id, operation_id, kind, message) \
             select instance_id, (select id from overdue where instance_id = alarms.instance_id \
                 order by requested_at limit 1), $3, message from alarms returning instance_id, message",
        )
        .bind(after.as_secs_f64())
        .bind(drift::OPERATION_OVERDUE)
        .bind(EventKind::Alarm.as_str())
        .try_map(|row: PgRow| Ok((InstanceId(row.try_get("instance_id")?), row.try_get("message")?)))
        .fetch_all(&self.pool)
        .await
        .map_err(database)
    }

    /// Does `work` if the instance has ended, and keeps it from being made again until that is done: what is left of it
    /// can be removed. `None`: it has not ended, and nothing was done.
    ///
    /// # Errors
    /// See the crate; and those of `work`.
    pub async fn while_ended<T>(
        &self,
        id: InstanceId,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let ended: Option<bool> = sqlx::query_scalar(
            "select state = 'deleted' or (state = 'failed' and desired_state = 'running') \
             from cms.instances where id = $1 for no key update",
        )
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?;
        if ended != Some(true) {
            return Ok(None);
        }
        let done = work.await?;
        transaction.commit().await.map_err(database)?;
        Ok(Some(done))
    }

    /// The states of those instances that have a row.
    ///
    /// # Errors
    /// See the crate.
    pub async fn owners(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, InstanceState>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query("select id, state from cms.instances where id = any($1)")
            .bind(ids)
            .try_map(|row| Ok((InstanceId(row.try_get("id")?), rows::parsed(&row, "state")?)))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)?;
        Ok(rows.into_iter().collect())
    }

    /// Removes what is older than it is kept. Instances and the audit are kept for ever.
    ///
    /// # Errors
    /// See the crate. What was removed before it failed stays removed.
    pub async fn prune(&self, retention: &Retention) -> Result<Pruned> {
        Ok(Pruned {
            idempotency_keys: self
                .prune_table("idempotency_keys", "created_at", retention.idempotency_keys)
                .await?,
            health_checks: self
                .prune_table("health_checks", "checked_at", retention.health_checks)
                .await?,
            events: self
                .prune_table("instance_events", "created_at", retention.events)
                .await?,
            operations: self
                .prune_table("operations", "finished_at", retention.operations)
                .await?,
        })
    }

    async fn prune_table(&self, table: &'static str, column: &'static str, keep: Duration) -> Result<u64> {
        let statement = format!(
            "delete from cms.{table} where ctid = any(array( \
             select ctid from cms.{table} where {column} < now() - make_interval(secs => $1) \
             order by {column} limit $2 for update skip locked))"
        );
        let mut removed = 0;
        loop {
            let batch = sqlx::query(&statement)
                .bind(keep.min(LONGEST).as_secs_f64())
                .bind(PRUNE_BATCH)
                .execute(&self.pool)
                .await
                .map_err(database)?
                .rows_affected();
            removed += batch;
            if batch < PRUNE_BATCH.unsigned_abs() {
                return Ok(removed);
            }
        }
    }

    /// How far the database's clock is ahead of this machine's, at least: the answer was written at some time between
    /// question and answer, and the nearest of these times is taken.
    ///
    /// # Errors
    /// See the crate.
    pub async fn clock_skew(&self) -> Result<TimeDelta> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let before = Utc::now();
        let there: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&mut *connection)
            .await
            .map_err(database)?;
        let after = Utc::now();
        Ok(there - there.clamp(before.min(after), after))
    }
}
