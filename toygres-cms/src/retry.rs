//! Doing again what has failed.

use crate::audit::Origin;
use crate::errors::database;
use crate::instances::{delete, find, lock, name_conflict, request_operation};
use crate::{Cms, InstanceSelector, operations, quotas, rows};
use sqlx::{PgConnection, Row};
use toygres_models::instances::{DesiredState, Instance, InstanceState};
use toygres_models::operations::{Operation, OperationKind, OperationState};
use toygres_models::quotas::QuotaLimits;
use toygres_models::{Error, ErrorKind, OperationId, Result};

/// What came of asking for an operation once more.
#[derive(Debug, Clone)]
pub struct Retried {
    /// The instance it is about.
    pub instance: Instance,
    /// The new operation, of the same kind as the failed one.
    pub operation: Operation,
    /// The actor to start.
    pub incarnation: i64,
}

impl Cms {
    /// Writes down that what has failed shall be done again, with a new operation, an event and an audit event, in one
    /// transaction. A creation goes on with the same instance, which keeps its password and gets a new actor. Its
    /// owner may have `default_limits`, unless that one has limits of its own.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `operation_not_found`. [`ErrorKind::Conflict`]: code `operation_not_failed`;
    /// `operation_superseded` when the instance is not failed any more; `being_deleted`; `name_taken` or
    /// `name_being_deleted` when another instance has the name by now. [`ErrorKind::Forbidden`], code
    /// `quota_exceeded`. For a deletion also those of [`request_delete`](Self::request_delete). Else see the crate.
    pub async fn retry_operation(
        &self,
        id: OperationId,
        default_limits: QuotaLimits,
        origin: &Origin,
    ) -> Result<Retried> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let connection = &mut *transaction;
        let failed = operations::get(connection, id, origin.owner.as_ref()).await?;
        // Needs no lock: how an operation has ended does not change any more.
        if failed.state != OperationState::Failed {
            return Err(not_failed(&failed));
        }
        let retried = match failed.kind {
            OperationKind::Create => create_again(connection, &failed, default_limits, origin).await?,
            OperationKind::Delete => {
                let selector = InstanceSelector::Id(failed.instance_id);
                let deletion = delete(connection, &selector, failed.instance_id, origin, Some(id)).await?;
                Retried {
                    instance: deletion.instance,
                    operation: deletion.operation,
                    incarnation: deletion.incarnation,
                }
            }
        };
        transaction.commit().await.map_err(database)?;
        Ok(retried)
    }
}

async fn create_again(
    connection: &mut PgConnection,
    failed: &Operation,
    default_limits: QuotaLimits,
    origin: &Origin,
) -> Result<Retried> {
    let selector = InstanceSelector::Id(failed.instance_id);
    let found = find(connection, &selector, None).await?;
    // Before the instance's row, as in a creation.
    let limited = quotas::lock(connection, &found.user_name, default_limits).await?;
    let (instance, _, desired_state) = lock(connection, found.id).await?;
    let conflict = |code, message| Err(Error::new(ErrorKind::Conflict, code, message));
    if instance.state != InstanceState::Failed {
        let message = format!(
            "the instance {} of the failed operation is {} by now, so there is nothing to do again",
            instance.name, instance.state
        );
        return conflict("operation_superseded", message);
    }
    if desired_state == DesiredState::Deleted {
        let message = format!("{} is being deleted, so it is not made again", instance.name);
        return conflict("being_deleted", message);
    }
    if limited {
        let storage_gb = instance.storage_size_gb;
        quotas::check(connection, &instance.user_name, default_limits, storage_gb).await?;
    }

    // As if it had never been begun, but for its password and the machine it belongs to.
    let again = sqlx::query(&format!(
        "update cms.instances i set state = 'creating', state_reason = null, incarnation = incarnation + 1, \
         first_ready_at = null, system_identifier = null, consecutive_failures = 0, intent_at = now(), \
         progressed_at = now(), updated_at = now() \
         where id = $1 and not exists (select from cms.instances other \
             where other.name = i.name and other.state not in ('deleted', 'failed')) returning {}",
        rows::INSTANCE
    ))
    .bind(instance.id.0)
    .try_map(|row| Ok((rows::instance(&row)?, row.try_get("incarnation")?)))
    .fetch_optional(&mut *connection)
    .await
    .map_err(database)?;
    let Some((instance, incarnation)) = again else {
        return Err(name_conflict(connection, &instance.name).await?);
    };
    let operation = request_operation(
        connection,
        origin,
        instance.id,
        OperationKind::Create,
        Some(failed.id),
    )
    .await?;
    Ok(Retried {
        instance,
        operation,
        incarnation,
    })
}

fn not_failed(operation: &Operation) -> Error {
    let hint = match operation.state {
        OperationState::Pending | OperationState::Running => {
            "it is being worked on; wait until it has ended".to_owned()
        }
        OperationState::Cancelled => {
            "something newer was asked for; ask anew if it is still wanted".to_owned()
        }
        OperationState::Succeeded | OperationState::Failed => {
            format!("`toygres get {}` shows what came of it", operation.instance_name)
        }
    };
    let message = format!(
        "only a failed operation can be retried; this one is {}",
        operation.state
    );
    Error::new(ErrorKind::Conflict, "operation_not_failed", message).hint(hint)
}
