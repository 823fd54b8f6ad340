//! `/api/operations`.

use super::App;
use super::extract::Params;
use super::instances::LimitParams;
use super::problem::Answer;
use axum::Json;
use axum::extract::{Path, State};
use toygres_cms::OperationFilter;
use toygres_models::operations::Operation;

pub(crate) async fn list(
    State(app): State<App>,
    Params(params): Params<LimitParams>,
) -> Answer<Json<Vec<Operation>>> {
    let filter = OperationFilter {
        limit: Some(params.rows()),
        ..OperationFilter::default()
    };
    Ok(Json(app.list_operations(&filter).await?))
}

pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<Operation>> {
    Ok(Json(app.get_operation(&id).await?))
}
