//! `/api/operations`.

use super::App;
use super::extract::{Params, Segment, Who};
use super::instances::answer;
use super::page::{DEFAULT_LIMIT, limit, page};
use super::problem::Answer;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Deserialize;
use toygres_cms::OperationFilter;
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::{Operation, OperationKind, OperationState};
use toygres_models::{OperationId, OwnerName};
use utoipa::IntoParams;

/// Which operations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Only those about this instance, by name or id.
    #[param(pattern = r"^[^\u0000]*$")]
    instance: Option<String>,
    /// Only those in this state.
    state: Option<OperationState>,
    /// Only those of this kind.
    kind: Option<OperationKind>,
    /// Only those about instances of this owner.
    user_name: Option<OwnerName>,
    /// At most so many; 100 if absent. The header `Link` says where the next ones are.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: from the header `Link` of the page before.
    pub(super) cursor: Option<OperationId>,
}

/// Lists operations with their steps, newest first.
#[utoipa::path(get, path = "/api/operations", tag = "operations", params(ListParams),
    responses((status = 200, description = "The operations", body = [Operation])),
    security(("token" = ["read"])))]
pub(crate) async fn list(
    State(app): State<App>,
    who: Who,
    uri: Uri,
    Params(params): Params<ListParams>,
) -> Answer<Response> {
    let limit = limit(params.limit)?.or(Some(DEFAULT_LIMIT));
    let filter = OperationFilter {
        state: params.state,
        kind: params.kind,
        user_name: params.user_name,
        limit,
        before: params.cursor,
        ..OperationFilter::default()
    };
    let operations = app
        .list_operations(filter, params.instance.as_deref(), who.origin.owner.as_ref())
        .await?;
    Ok(page(operations, limit, &uri, |operation| {
        operation.id.to_string()
    }))
}

/// Shows an operation with its steps.
#[utoipa::path(get, path = "/api/operations/{id}", tag = "operations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The operation's id")),
    responses((status = 200, description = "The operation", body = Operation)),
    security(("token" = ["read"])))]
pub(crate) async fn get(State(app): State<App>, who: Who, Segment(id): Segment) -> Answer<Json<Operation>> {
    Ok(Json(app.get_operation(&id, who.origin.owner.as_ref()).await?))
}

/// Does again what failed, as a new operation with the same input.
#[utoipa::path(post, path = "/api/operations/{id}/retry", tag = "operations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The operation's id")),
    responses((status = 202, description = "It is being done again", body = InstanceAccepted)),
    security(("token" = ["write"])))]
pub(crate) async fn retry(State(app): State<App>, who: Who, Segment(id): Segment) -> Answer<Response> {
    Ok(answer(app.retry_operation(&id, &who.origin).await?))
}
