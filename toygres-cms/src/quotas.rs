//! Quotas: how much an owner may have, and has.

use crate::audit::{Origin, Subject, audit};
use crate::errors::database;
use crate::{Cms, rows};
use sqlx::{PgConnection, QueryBuilder};
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::{Error, ErrorKind, OwnerName, Result};

/// What [`rows::quota`] reads: owners with limits of their own or with instances that hold a name.
const QUOTAS: &str = "select user_name, q.own is true as own, q.max_instances, q.max_storage_gb, \
         coalesce(u.instances, 0) as instances, coalesce(u.storage_gb, 0) as storage_gb \
     from (select *, true as own from cms.quotas) q full join ( \
         select user_name, count(*) as instances, sum(storage_size_gb) as storage_gb from cms.instances \
         where state not in ('deleted', 'failed') group by user_name) u using (user_name)";

impl Cms {
    /// Gives the owner limits of its own, in place of those that hold for every owner.
    ///
    /// # Errors
    /// See the crate.
    pub async fn set_quota(&self, owner: &OwnerName, limits: QuotaLimits, origin: &Origin) -> Result<()> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        sqlx::query(
            "insert into cms.quotas (user_name, max_instances, max_storage_gb) values ($1, $2, $3) \
             on conflict (user_name) do update \
             set max_instances = excluded.max_instances, max_storage_gb = excluded.max_storage_gb",
        )
        .bind(owner.as_str())
        .bind(limits.max_instances)
        .bind(limits.max_storage_gb)
        .execute(&mut *transaction)
        .await
        .map_err(database)?;
        audit(&mut transaction, origin, "set_quota", subject(owner)).await?;
        transaction.commit().await.map_err(database)
    }

    /// Takes the owner's own limits away, so that those of every owner hold: whether it had any.
    ///
    /// # Errors
    /// See the crate.
    pub async fn remove_quota(&self, owner: &OwnerName, origin: &Origin) -> Result<bool> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let removed = sqlx::query("delete from cms.quotas where user_name = $1")
            .bind(owner.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(database)?
            .rows_affected();
        if removed > 0 {
            audit(&mut transaction, origin, "remove_quota", subject(owner)).await?;
        }
        transaction.commit().await.map_err(database)?;
        Ok(removed > 0)
    }

    /// What the owner may have, and has.
    ///
    /// # Errors
    /// See the crate.
    pub async fn get_quota(&self, owner: &OwnerName, default: QuotaLimits) -> Result<Quota> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        get(&mut connection, owner, default).await
    }

    /// What every owner may have and has that has limits of its own, or an instance.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_quotas(&self, default: QuotaLimits) -> Result<Vec<Quota>> {
        sqlx::query(&format!("{QUOTAS} order by user_name"))
            .try_map(|row| rows::quota(&row, default))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)
    }
}

fn subject(owner: &OwnerName) -> Subject<'_> {
    Subject {
        object: Some(owner.as_str()),
        ..Subject::default()
    }
}

async fn get(connection: &mut PgConnection, owner: &OwnerName, default: QuotaLimits) -> Result<Quota> {
    let mut query = QueryBuilder::new(QUOTAS);
    query.push(" where user_name = ").push_bind(owner.as_str());
    let quota = query
        .build()
        .try_map(|row| rows::quota(&row, default))
        .fetch_optional(connection)
        .await
        .map_err(database)?;
    Ok(quota.unwrap_or_else(|| Quota {
        user_name: owner.clone(),
        limits: default,
        own: false,
        instances: 0,
        storage_gb: 0,
    }))
}

/// Makes other transactions that want more for the owner wait until this one ends, if anything limits the owner:
/// whether it does, and [`check`] is to follow.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    owner: &OwnerName,
    default: QuotaLimits,
) -> Result<bool> {
    let own = sqlx::query("select max_instances, max_storage_gb from cms.quotas where user_name = $1")
        .bind(owner.as_str())
        .try_map(|row| rows::quota_limits(&row))
        .fetch_optional(&mut *connection)
        .await
        .map_err(database)?;
    let limited = own.unwrap_or(default) != QuotaLimits::default();
    if limited {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('toygres: quota of ' || $1, 0))")
            .bind(owner.as_str())
            .execute(connection)
            .await
            .map_err(database)?;
    }
    Ok(limited)
}

/// Makes sure that the owner may have one more instance, with this storage. The transaction has the [`lock`].
pub(crate) async fn check(
    connection: &mut PgConnection,
    owner: &OwnerName,
    default: QuotaLimits,
    storage_gb: i32,
) -> Result<()> {
    let quota = get(connection, owner, default).await?;
    let exceeded = |message: String| {
        Err(Error::new(ErrorKind::Forbidden, "quota_exceeded", message)
            .hint("delete an instance that is not needed any more, or ask an administrator for more"))
    };
    match quota.limits.max_instances {
        Some(most) if quota.instances >= most => {
            return exceeded(format!(
                "the quota of {owner} is used up: {} of {most} instances",
                quota.instances
            ));
        }
        _ => {}
    }
    match quota.limits.max_storage_gb {
        Some(most) if quota.storage_gb + i64::from(storage_gb) > most => exceeded(format!(
            "the quota of {owner} has no room for {storage_gb} GiB more: {} of {most} GiB are used",
            quota.storage_gb
        )),
        _ => Ok(()),
    }
}
