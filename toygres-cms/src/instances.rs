//! Instances as the API sees them: asked for, looked up, listed, asked to go.

use crate::audit::{Origin, Subject, audit};
use crate::errors::{database, instance_not_found};
use crate::events::{self, EventKind};
use crate::idempotency::{self, Idempotency, StoredAnswer};
use crate::{Cms, credentials, operations, quotas, rows};
use sqlx::types::Json;
use sqlx::{PgConnection, QueryBuilder, Row};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use toygres_models::health::HealthStatus;
use toygres_models::instances::{DesiredState, Instance, InstanceState, NewInstance};
use toygres_models::operations::{Operation, OperationKind};
use toygres_models::quotas::QuotaLimits;
use toygres_models::{
    Error, ErrorKind, InstanceId, InstanceName, OperationId, OwnerName, PostgresVersion, Result, Secret,
};

/// What is needed to make an instance.
#[derive(Debug, Clone)]
pub struct CreateInstance<'a> {
    /// What was asked for.
    pub new: &'a NewInstance,
    /// Its version: the one asked for, or the default.
    pub postgres_version: PostgresVersion,
    /// The only machine that may act on it, on platforms where that matters.
    pub host: Option<&'a str>,
    /// How much its owner may have, unless that one has limits of its own.
    pub default_limits: QuotaLimits,
    /// Who asks.
    pub origin: &'a Origin,
    /// The request's own name, if it has one.
    pub idempotency: Option<Idempotency<'a>>,
}

/// What came of it.
#[derive(Debug)]
pub enum Created {
    /// It was written down.
    Fresh {
        /// The instance.
        instance: Instance,
        /// Its creation.
        operation: Operation,
        /// The actor to start.
        incarnation: i64,
        /// The password, if it was made here: the only time it is shown unasked.
        generated_password: Option<Secret>,
    },
    /// The same request had been done before; this is what was answered then.
    Replayed {
        /// The instance as it was.
        instance: Instance,
        /// Its creation as it was.
        operation: Operation,
        /// The actor by now.
        incarnation: i64,
    },
}

/// What came of asking for a deletion.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// The instance, to be deleted.
    pub instance: Instance,
    /// Its deletion.
    pub operation: Operation,
    /// The actor to wake, or to start.
    pub incarnation: i64,
    /// Whether nobody had asked before.
    pub fresh: bool,
}

/// Which instance: what a user writes for it. A text with the form of a hyphenated UUID is an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceSelector {
    /// The live one of this name, else the newest failed one.
    Name(InstanceName),
    /// This one, also when it is deleted.
    Id(InstanceId),
}

impl FromStr for InstanceSelector {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        const HYPHENATED_LENGTH: usize = 36;
        match text.parse() {
            Ok(id) if text.len() == HYPHENATED_LENGTH => Ok(Self::Id(id)),
            _ => text.parse().map(Self::Name).map_err(|error| {
                Error::new(
                    ErrorKind::Invalid,
                    "invalid_name",
                    format!("{text:?} is no instance's name: it {error}"),
                )
            }),
        }
    }
}

impl fmt::Display for InstanceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Which instances to list; all that are not deleted by default.
#[derive(Debug, Clone, Default)]
pub struct InstanceFilter {
    /// In this state; the only way to see deleted ones.
    pub state: Option<InstanceState>,
    /// With this health.
    pub health: Option<HealthStatus>,
    /// Of this owner.
    pub user_name: Option<OwnerName>,
    /// Whose name matches: `*` is any text, `?` any character.
    pub name_glob: Option<String>,
    /// With this tag.
    pub tag: Option<TagFilter>,
    /// At most so many.
    pub limit: Option<u32>,
    /// Those behind this one: the last one of the page before.
    pub after: Option<InstanceId>,
}

/// A tag to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFilter {
    /// Its key.
    pub key: String,
    /// Its value; any if absent.
    pub value: Option<String>,
}

impl Cms {
    /// Writes a new instance down, with its credentials, its creation, an event and an audit event, in one
    /// transaction. Requests with the same idempotency key wait for one another; one is done, the others are answered
    /// as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: code `name_taken`, or `name_being_deleted` when the name will be free soon.
    /// [`ErrorKind::Forbidden`]: code `owner_forbidden`, or `quota_exceeded`. [`ErrorKind::Invalid`], code `idempotency_key_reused`: the key was used for another request. Else see the
    /// crate.
    pub async fn create_instance(&self, request: CreateInstance<'_>) -> Result<Created> {
        let CreateInstance {
            new,
            postgres_version,
            host,
            default_limits,
            origin,
            idempotency,
        } = request;
        if let Some(owner) = &origin.owner
            && *owner != new.user_name
        {
            return Err(Error::new(
                ErrorKind::Forbidden,
                "owner_forbidden",
                format!(
                    "the caller may act for the owner {owner} only, not for {}",
                    new.user_name
                ),
            )
            .hint(format!("leave user_name out, or let it be {owner}")));
        }
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let connection = &mut *transaction;

        if let Some(idempotency) = &idempotency
            && let Some(answer) = idempotency::claim(connection, origin, idempotency).await?
        {
            let StoredAnswer { instance, operation } = answer;
            let incarnation = sqlx::query_scalar("select incarnation from cms.instances where id = $1")
                .bind(instance.id.0)
                .fetch_one(connection)
                .await
                .map_err(database)?;
            return Ok(Created::Replayed {
                instance,
                operation,
                incarnation,
            });
        }

        if quotas::lock(connection, &new.user_name, default_limits).await? {
            quotas::check(connection, &new.user_name, default_limits, new.storage_size_gb).await?;
        }
        let instance = insert(connection, new, postgres_version, host).await?;
        let generated_password = match &new.password {
            Some(_) => None,
            None => Some(credentials::generate_password()?),
        };
        if let Some(password) = new.password.as_ref().or(generated_password.as_ref()) {
            credentials::store(connection, &self.key, instance.id, password).await?;
        }
        let operation =
            request_operation(connection, origin, instance.id, OperationKind::Create, None).await?;
        if let Some(idempotency) = &idempotency {
            let answer = StoredAnswer {
                instance: instance.clone(),
                operation: operation.clone(),
            };
            idempotency::store(connection, origin, idempotency, &answer).await?;
        }
        transaction.commit().await.map_err(database)?;
        Ok(Created::Fresh {
            instance,
            operation,
            incarnation: FIRST_INCARNATION,
            generated_password,
        })
    }

    /// Writes down that the instance shall go, with an operation, an event and an audit event, in one transaction.
    /// Asking again gives the same operation.
    ///
    /// A failed instance stays `failed` until it is gone, since its name may be in use again; its actor has ended, so
    /// it gets a new incarnation.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `instance_not_found`, also when it is deleted already.
    /// [`ErrorKind::Conflict`], code `deletion_protected`. Else see the crate.
    pub async fn request_delete(&self, selector: &InstanceSelector, origin: &Origin) -> Result<Deletion> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        // Found first and locked then: a lock on "the first of this name" might wait for a row that is no longer it.
        let found = find(&mut transaction, selector, origin.owner.as_ref()).await?;
        let deletion = delete(&mut transaction, selector, found.id, origin, None).await?;
        transaction.commit().await.map_err(database)?;
        Ok(deletion)
    }

    /// The instance, if it is one of the owner `within`; any if absent.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `instance_not_found`. Else see the crate.
    pub async fn get_instance(
        &self,
        selector: &InstanceSelector,
        within: Option<&OwnerName>,
    ) -> Result<Instance> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        find(&mut connection, selector, within).await
    }

    /// Instances, oldest first. The next page begins behind the last one's id.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], code `unknown_cursor`, when `after` names no instance. Else see the crate.
    pub async fn list_instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>> {
        let mut query = QueryBuilder::new(format!("select {} from cms.instances i where ", rows::INSTANCE));
        match filter.state {
            // Written out, not bound, so that the planner can use the indexes of live and of deleted instances.
            None => query.push("i.state <> 'deleted'"),
            Some(InstanceState::Deleted) => query.push("i.state = 'deleted'"),
            Some(state) => query
                .push("i.state <> 'deleted' and i.state = ")
                .push_bind(state.as_str()),
        };
        if let Some(health) = filter.health {
            query.push(" and i.health_status = ").push_bind(health.as_str());
        }
        if let Some(user_name) = &filter.user_name {
            query.push(" and i.user_name = ").push_bind(user_name.as_str());
        }
        if let Some(glob) = &filter.name_glob {
            query.push(" and i.name like ").push_bind(like_pattern(glob));
        }
        match &filter.tag {
            None => {}
            Some(TagFilter { key, value: None }) => {
                query.push(" and i.tags ? ").push_bind(key);
            }
            Some(TagFilter {
                key,
                value: Some(value),
            }) => {
                let tags = BTreeMap::from([(key, value)]);
                query.push(" and i.tags @> ").push_bind(Json(tags));
            }
        }
        if let Some(after) = filter.after {
            let created_at: Option<chrono::DateTime<chrono::Utc>> =
                sqlx::query_scalar("select created_at from cms.instances where id = $1")
                    .bind(after.0)
                    .fetch_optional(&self.pool)
                    .await
                    .map_err(database)?;
            let created_at = created_at.ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    "unknown_cursor",
                    "the cursor is not one that this server gave",
                )
            })?;
            query.push(" and (i.created_at, i.id) > (").push_bind(created_at);
            query.push(", ").push_bind(after.0).push(")");
        }
        query.push(" order by i.created_at, i.id");
        if let Some(limit) = filter.limit {
            query.push(rows::limit_clause(limit));
        }
        query
            .build()
            .try_map(|row| rows::instance(&row))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)
    }

    /// The password of the role `postgres`; that it was asked for is audited.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: code `instance_not_found`, or `password_gone` when the instance is deleted.
    /// [`ErrorKind::Config`], code `master_key_wrong`. Else see the crate.
    pub async fn reveal_password(&self, selector: &InstanceSelector, origin: &Origin) -> Result<Secret> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let instance = find(&mut transaction, selector, origin.owner.as_ref()).await?;
        let subject = Subject {
            instance_id: Some(instance.id),
            ..Subject::default()
        };
        audit(&mut transaction, origin, "reveal_password", subject).await?;
        let password = credentials::load(&mut transaction, &self.key, instance.id).await?;
        let password = password.ok_or_else(|| {
            let message = format!("{} is deleted, and its password with it", instance.name);
            Error::new(ErrorKind::NotFound, "password_gone", message)
        })?;
        transaction.commit().await.map_err(database)?;
        Ok(password)
    }
}

/// The default of the column.
const FIRST_INCARNATION: i64 = 1;

async fn insert(
    connection: &mut PgConnection,
    new: &NewInstance,
    postgres_version: PostgresVersion,
    host: Option<&str>,
) -> Result<Instance> {
    let inserted = sqlx::query(&format!(
        "insert into cms.instances as i (id, name, user_name, state, postgres_version, storage_size_gb, cpu, memory_mb, \
         internal, namespace, tags, deletion_protection, host) \
         values ($1, $2, $3, 'creating', $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         on conflict (name) where state not in ('deleted', 'failed') do nothing returning {}",
        rows::INSTANCE
    ))
    .bind(InstanceId::generate().0)
    .bind(new.name.as_str())
    .bind(new.user_name.as_str())
    .bind(i32::from(postgres_version.major()))
    .bind(new.storage_size_gb)
    .bind(&new.cpu)
    .bind(new.memory_mb)
    .bind(new.internal)
    .bind(&new.namespace)
    .bind(Json(&new.tags))
    .bind(new.deletion_protection)
    .bind(host)
    .try_map(|row| rows::instance(&row))
    .fetch_optional(&mut *connection)
    .await
    .map_err(database)?;
    match inserted {
        Some(instance) => Ok(instance),
        None => Err(name_conflict(connection, &new.name).await?),
    }
}

pub(crate) async fn name_conflict(connection: &mut PgConnection, name: &InstanceName) -> Result<Error> {
    let being_deleted: Option<bool> = sqlx::query_scalar(
        "select desired_state = 'deleted' from cms.instances \
         where name = $1 and state not in ('deleted', 'failed')",
    )
    .bind(name.as_str())
    .fetch_optional(connection)
    .await
    .map_err(database)?;
    Ok(if being_deleted == Some(true) {
        let message = format!("the instance {name} is being deleted; its name is free once it is gone");
        Error::new(ErrorKind::Conflict, "name_being_deleted", message).hint(format!(
            "try again in a moment; `toygres get {name}` shows how far it is"
        ))
    } else {
        Error::new(
            ErrorKind::Conflict,
            "name_taken",
            format!("there is an instance named {name} already"),
        )
        .hint(format!(
            "choose another name, or see what is there with `toygres get {name}`"
        ))
    })
}

/// Writes down that the instance shall go, because of a new request, or once more after `retry_of` has failed.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    selector: &InstanceSelector,
    id: InstanceId,
    origin: &Origin,
    retry_of: Option<OperationId>,
) -> Result<Deletion> {
    let (instance, incarnation, desired_state) = lock(connection, id).await?;
    if instance.state == InstanceState::Deleted {
        return Err(instance_not_found(&selector.to_string()));
    }
    if desired_state == DesiredState::Deleted
        && let Some(operation) = operations::open_deletion(connection, id).await?
    {
        return Ok(Deletion {
            instance,
            operation,
            incarnation,
            fresh: false,
        });
    }
    if instance.deletion_protection {
        return Err(Error::new(
            ErrorKind::Conflict,
            "deletion_protected",
            format!("{} is protected against deletion", instance.name),
        )
        .hint(format!(
            "switch that off first: toygres update {} --deletion-protection off",
            instance.name
        )));
    }

    let (instance, incarnation) = sqlx::query(&format!(
        "update cms.instances i set desired_state = 'deleted', intent_at = now(), updated_at = now(), \
         state = case when state = 'failed' then state else 'deleting' end, \
         incarnation = case when state = 'failed' then incarnation + 1 else incarnation end \
         where id = $1 returning {INSTANCE}",
        INSTANCE = rows::INSTANCE
    ))
    .bind(id.0)
    .try_map(|row| Ok((rows::instance(&row)?, row.try_get("incarnation")?)))
    .fetch_one(&mut *connection)
    .await
    .map_err(database)?;
    let operation = request_operation(connection, origin, id, OperationKind::Delete, retry_of).await?;
    Ok(Deletion {
        instance,
        operation,
        incarnation,
        fresh: true,
    })
}

/// Writes down the operation, the audit event and the event of what was asked for: something new, or once more what
/// `retry_of` has failed to do.
pub(crate) async fn request_operation(
    connection: &mut PgConnection,
    origin: &Origin,
    instance_id: InstanceId,
    kind: OperationKind,
    retry_of: Option<OperationId>,
) -> Result<Operation> {
    let (event, action) = match (retry_of, kind) {
        (Some(_), _) => (EventKind::RetryRequested, "retry_operation"),
        (None, OperationKind::Create) => (EventKind::CreateRequested, "create_instance"),
        (None, OperationKind::Delete) => (EventKind::DeleteRequested, "delete_instance"),
    };
    let operation = operations::insert(connection, origin, instance_id, kind).await?;
    let failed = retry_of.map(|id| id.to_string());
    let subject = Subject {
        instance_id: Some(instance_id),
        operation_id: Some(operation.id),
        object: failed.as_deref(),
    };
    audit(connection, origin, action, subject).await?;
    let again = if retry_of.is_some() { " again" } else { "" };
    let message = format!("{kind} requested{again} by {}", origin.actor);
    events::record(connection, event, instance_id, Some(operation.id), &message).await?;
    Ok(operation)
}

pub(crate) async fn find(
    connection: &mut PgConnection,
    selector: &InstanceSelector,
    within: Option<&OwnerName>,
) -> Result<Instance> {
    let select = format!("select {} from cms.instances i where ", rows::INSTANCE);
    let mut query = QueryBuilder::new(select);
    match selector {
        InstanceSelector::Id(id) => query.push("i.id = ").push_bind(id.0),
        InstanceSelector::Name(name) => query
            .push("i.state <> 'deleted' and i.name = ")
            .push_bind(name.as_str()),
    };
    if let Some(owner) = within {
        query.push(" and i.user_name = ").push_bind(owner.as_str());
    }
    query.push(" order by i.state = 'failed', i.created_at desc limit 1");
    query
        .build()
        .try_map(|row| rows::instance(&row))
        .fetch_optional(connection)
        .await
        .map_err(database)?
        .ok_or_else(|| instance_not_found(&selector.to_string()))
}

pub(crate) async fn lock(
    connection: &mut PgConnection,
    id: InstanceId,
) -> Result<(Instance, i64, DesiredState)> {
    sqlx::query(&format!(
        "select {}, i.desired_state from cms.instances i where i.id = $1 for no key update",
        rows::INSTANCE
    ))
    .bind(id.0)
    .try_map(|row| {
        Ok((
            rows::instance(&row)?,
            row.try_get("incarnation")?,
            rows::parsed(&row, "desired_state")?,
        ))
    })
    .fetch_one(connection)
    .await
    .map_err(database)
}

/// The pattern of SQL's `like` for a glob; what is special in it alone is taken literally.
fn like_pattern(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len());
    for character in glob.chars() {
        match character {
            '*' => pattern.push('%'),
            '?' => pattern.push('_'),
            '%' | '_' | '\\' => pattern.extend(['\\', character]),
            other => pattern.push(other),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_a_name_or_an_id(text: &str) {
        match text.parse() {
            Ok(InstanceSelector::Name(name)) => assert_eq!(name.as_str(), text),
            Ok(InstanceSelector::Id(id)) => assert_eq!(id.to_string(), text.to_lowercase()),
            Err(error) => assert_eq!(error.code(), "invalid_name"),
        }
    }

    #[test]
    fn fuzz_selector() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            is_a_name_or_an_id(&text);
            matches_what_was_meant(&text);
        });
    }

    /// What a pattern of `like` lets through, read back as the glob that it was made of.
    fn matches_what_was_meant(glob: &str) {
        let pattern = like_pattern(glob);
        let mut read = String::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match character {
                '%' => read.push('*'),
                '_' => read.push('?'),
                '\\' => {
                    let literal = characters.next().unwrap();
                    assert!(matches!(literal, '%' | '_' | '\\'), "{pattern}");
                    read.push(literal);
                }
                other => read.push(other),
            }
        }
        assert_eq!(read, glob);
    }

    proptest! {
        #[test]
        fn a_selector_is_a_name_or_a_hyphenated_id(
            text in prop_oneof![
                any::<String>(),
                "[a-z][a-z0-9-]{0,45}",
                "[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}",
                "[{]?[0-9a-f]{32,36}[}]?",
            ],
        ) {
            is_a_name_or_an_id(&text);
        }

        #[test]
        fn a_glob_has_no_other_meaning_in_sql(any in ".*", near in r"[a*?%_\\]{0,9}") {
            for glob in [any, near] {
                matches_what_was_meant(&glob);
            }
        }
    }
}
