//! Changes of what the user says about an instance.

use crate::audit::{Origin, Subject, audit};
use crate::errors::{database, instance_not_found};
use crate::events::{self, EventKind};
use crate::instances::{find, lock};
use crate::{Cms, InstanceSelector, rows};
use sqlx::types::Json;
use toygres_models::instances::{DesiredState, Instance, InstanceState, PatchInstanceRequest};
use toygres_models::{Error, ErrorKind, Result};

impl Cms {
    /// Changes the instance's tags and deletion protection, if `precondition` holds for it as it is now; nobody can
    /// change it in between. Gives it as it is then. A patch that changes nothing writes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `instance_not_found`, also when it is deleted. [`ErrorKind::Conflict`], code
    /// `being_deleted`. [`ErrorKind::PreconditionFailed`], code `changed_meanwhile`. [`ErrorKind::Invalid`] when it
    /// would have too many tags. Else see the crate.
    pub async fn update_instance(
        &self,
        selector: &InstanceSelector,
        patch: &PatchInstanceRequest,
        precondition: &(dyn Fn(&Instance) -> bool + Sync),
        origin: &Origin,
    ) -> Result<Instance> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let found = find(&mut transaction, selector, origin.owner.as_ref()).await?;
        let (instance, _, desired_state) = lock(&mut transaction, found.id).await?;
        if instance.state == InstanceState::Deleted {
            return Err(instance_not_found(&selector.to_string()));
        }
        if desired_state == DesiredState::Deleted {
            let message = format!("{} is being deleted, so it can't be changed", instance.name);
            return Err(Error::new(ErrorKind::Conflict, "being_deleted", message));
        }
        if !precondition(&instance) {
            return Err(Error::new(
                ErrorKind::PreconditionFailed,
                "changed_meanwhile",
                format!("{} is not as the caller has seen it", instance.name),
            )
            .hint("read it again, and decide anew"));
        }
        let tags = patch.merge_tags(&instance.tags)?;
        let protection = patch.deletion_protection.unwrap_or(instance.deletion_protection);
        let mut changes = Vec::new();
        if tags != instance.tags {
            changes.push("tags");
        }
        if protection != instance.deletion_protection {
            changes.push(if protection {
                "deletion protection on"
            } else {
                "deletion protection off"
            });
        }
        if changes.is_empty() {
            return Ok(instance);
        }

        let instance = sqlx::query(&format!(
            "update cms.instances i set tags = $2, deletion_protection = $3, updated_at = now() where id = $1 \
             returning {}",
            rows::INSTANCE
        ))
        .bind(instance.id.0)
        .bind(Json(tags))
        .bind(protection)
        .try_map(|row| rows::instance(&row))
        .fetch_one(&mut *transaction)
        .await
        .map_err(database)?;
        let subject = Subject {
            instance_id: Some(instance.id),
            ..Subject::default()
        };
        audit(&mut transaction, origin, "update_instance", subject).await?;
        let message = format!("changed by {}: {}", origin.actor, changes.join(", "));
        events::record(&mut transaction, EventKind::Updated, instance.id, None, &message).await?;
        transaction.commit().await.map_err(database)?;
        Ok(instance)
    }
}
