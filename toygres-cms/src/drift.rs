//! Drift: differences between what is there and what the rows say, found by sweeps and actors.

use crate::audit::{Origin, Subject, audit};
use crate::errors::database;
use crate::{Cms, rows};
use toygres_models::server::Drift;
use toygres_models::{Error, ErrorKind, InstanceId, Result};

/// A difference between what is there and what the rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftFinding {
    /// What sort of difference: lower-case letters and underscores.
    pub kind: String,
    /// What it is about, as the platform names it.
    pub object: String,
    /// The instance it names, which may have no row.
    pub instance_id: Option<InstanceId>,
    /// A sentence for people.
    pub message: String,
}

/// What [`rows::drift`] reads.
const DRIFT: &str = "id, kind, object, host, instance_id, message, first_seen_at, last_seen_at";
/// What no sweep has seen for so long was found on a machine that is gone.
const FORGOTTEN_AFTER: &str = "interval '1 day'";

impl Cms {
    /// Records all that a sweep found. What an earlier sweep found and this one did not is resolved. `host`: the machine
    /// that swept, if only what is on it can be seen there; what others have found is then left to them.
    ///
    /// # Errors
    /// See the crate.
    pub async fn record_drift(&self, findings: &[DriftFinding], host: Option<&str>) -> Result<()> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        sqlx::query(
            "insert into cms.drift_findings (source, kind, object, instance_id, message, host) \
             select distinct on (kind, object) 'sweep', kind, object, instance_id, message, $5 \
             from unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) as seen (kind, object, instance_id, message) \
             order by kind, object \
             on conflict (source, kind, object) where resolved_at is null do update \
             set message = excluded.message, instance_id = excluded.instance_id, host = excluded.host, \
             last_seen_at = now()",
        )
        .bind(findings.iter().map(|finding| finding.kind.as_str()).collect::<Vec<_>>())
        .bind(findings.iter().map(|finding| finding.object.as_str()).collect::<Vec<_>>())
        .bind(findings.iter().map(|finding| finding.instance_id.map(|id| id.0)).collect::<Vec<_>>())
        .bind(findings.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>())
        .bind(host)
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
        // now() is the same in the whole transaction: what was just seen bears it.
        sqlx::query(&format!(
            "update cms.drift_findings set resolved_at = now() \
             where source = 'sweep' and resolved_at is null and last_seen_at < now() \
             and (host is null or host = $1 or last_seen_at < now() - {FORGOTTEN_AFTER})"
        ))
        .bind(host)
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
        transaction.commit().await.map_err(database)
    }

    /// The findings and alarms that are not resolved, oldest first.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_drift(&self) -> Result<Vec<Drift>> {
        sqlx::query(&format!(
            "select {DRIFT} from cms.drift_findings where resolved_at is null order by id"
        ))
        .try_map(|row| rows::drift(&row))
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)
    }

    /// The finding, if it is not resolved.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `drift_not_found`. Else see the crate.
    pub async fn get_drift(&self, id: i64) -> Result<Drift> {
        sqlx::query(&format!(
            "select {DRIFT} from cms.drift_findings where id = $1 and resolved_at is null"
        ))
        .bind(id)
        .try_map(|row| rows::drift(&row))
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?
        .ok_or_else(|| drift_not_found(id))
    }

    /// Records that somebody has put it right. A sweep may have noticed that first: it is audited all the same.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `drift_not_found`. Else see the crate.
    pub async fn resolve_drift(&self, id: i64, origin: &Origin) -> Result<()> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let drift = sqlx::query(&format!(
            "update cms.drift_findings set resolved_at = coalesce(resolved_at, now()) where id = $1 returning {DRIFT}"
        ))
        .bind(id)
        .try_map(|row| rows::drift(&row))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?
        .ok_or_else(|| drift_not_found(id))?;
        let subject = Subject {
            instance_id: drift.instance_id,
            object: Some(&drift.object),
            ..Subject::default()
        };
        audit(&mut transaction, origin, "fix_drift", subject).await?;
        transaction.commit().await.map_err(database)
    }
}

fn drift_not_found(id: i64) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "drift_not_found",
        format!("there is no difference {id}, or it is gone by now"),
    )
    .hint("`toygres server drift` shows those there are")
}
