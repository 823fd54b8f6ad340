//! Operations: what is being done, and what was.

use super::Service;
use super::instances::{Accepted, restrict};
use toygres_cms::{OperationFilter, Origin};
use toygres_models::instances::InstanceState;
use toygres_models::operations::{Operation, OperationKind};
use toygres_models::{Error, ErrorKind, OperationId, OwnerName, Result};

impl Service {
    /// `instance`: only those about this one, by name or id.
    pub(crate) async fn list_operations(
        &self,
        mut filter: OperationFilter,
        instance: Option<&str>,
        within: Option<&OwnerName>,
    ) -> Result<Vec<Operation>> {
        if !restrict(&mut filter.user_name, within) {
            return Ok(Vec::new());
        }
        if let Some(name) = instance {
            filter.instance_id = Some(self.get_instance(name, within).await?.id);
        }
        self.cms.list_operations(&filter).await
    }

    pub(crate) async fn get_operation(&self, id: &str, within: Option<&OwnerName>) -> Result<Operation> {
        self.cms.get_operation(parse(id)?, within).await
    }

    /// Does again what failed.
    pub(crate) async fn retry_operation(&self, id: &str, origin: &Origin) -> Result<Accepted> {
        let retried = self
            .cms
            .retry_operation(parse(id)?, self.default_quota, origin)
            .await?;
        // A creation got a new actor; a deletion has the one that is there, unless the instance had failed.
        let needs_actor = retried.operation.kind == OperationKind::Create
            || retried.instance.state == InstanceState::Failed;
        self.nudge(retried.instance.id, retried.incarnation, needs_actor)
            .await;
        Ok(Accepted::new(retried.instance, retried.operation, None, false))
    }
}

fn parse(id: &str) -> Result<OperationId> {
    id.parse().map_err(|_| {
        Error::new(
            ErrorKind::NotFound,
            "operation_not_found",
            format!("there is no operation {id:?}"),
        )
        .hint("see what there is with: toygres operations")
    })
}
