//! Operations: what is being done, and what was.

use super::Service;
use toygres_cms::OperationFilter;
use toygres_models::operations::Operation;
use toygres_models::{Error, ErrorKind, OperationId, Result};

impl Service {
    pub(crate) async fn list_operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>> {
        self.cms.list_operations(filter).await
    }

    pub(crate) async fn get_operation(&self, id: &str) -> Result<Operation> {
        let not_found = || {
            Error::new(
                ErrorKind::NotFound,
                "operation_not_found",
                format!("there is no operation {id:?}"),
            )
            .hint("see what there is with: toygres operations")
        };
        let id: OperationId = id.parse().map_err(|_| not_found())?;
        self.cms.get_operation(id).await
    }
}
