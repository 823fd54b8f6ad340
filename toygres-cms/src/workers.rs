//! The processes of the control plane.

use crate::errors::database;
use crate::{Cms, rows};
use std::time::Duration;
use toygres_models::Result;
use toygres_models::server::Worker;
use uuid::Uuid;

impl Cms {
    /// Says that the process lives, as of now by the database's clock, and forgets those that have not said so for an
    /// hour.
    ///
    /// # Errors
    /// See the crate.
    pub async fn heartbeat(&self, worker: &Worker) -> Result<()> {
        // Locked rows are left to whoever has them, so that two that forget the same ones don't wait for each other.
        sqlx::query(
            "with forgotten as (delete from cms.workers where id in ( \
                 select id from cms.workers where last_seen_at < now() - interval '1 hour' and id <> $1 \
                 for update skip locked)) \
             insert into cms.workers (id, host, pid, version, mode, started_at, last_seen_at, orchestration_slots, \
                 activity_slots, activities_running) \
             values ($1, $2, $3, $4, $5, $6, now(), $7, $8, $9) \
             on conflict (id) do update set last_seen_at = now(), activities_running = excluded.activities_running",
        )
        .bind(worker.id)
        .bind(&worker.host)
        .bind(worker.pid)
        .bind(&worker.version)
        .bind(&worker.mode)
        .bind(worker.started_at)
        .bind(worker.orchestration_slots)
        .bind(worker.activity_slots)
        .bind(worker.activities_running)
        .execute(&self.pool)
        .await
        .map_err(database)?;
        Ok(())
    }

    /// The processes that said within this time that they live, longest-lived first.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_workers(&self, within: Duration) -> Result<Vec<Worker>> {
        sqlx::query(
            "select * from cms.workers where last_seen_at >= now() - make_interval(secs => $1) \
             order by started_at, id",
        )
        .bind(within.as_secs_f64())
        .try_map(|row| rows::worker(&row))
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)
    }

    /// Forgets the process: it ends.
    ///
    /// # Errors
    /// See the crate.
    pub async fn remove_worker(&self, id: Uuid) -> Result<()> {
        sqlx::query("delete from cms.workers where id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(database)?;
        Ok(())
    }
}
