//! `/api/server/orchestrations`: the engine, for operators.

use super::App;
use super::extract::{JsonBody, Params, Segment, Who};
use super::page::{DEFAULT_LIMIT, at_least, limit, page};
use super::problem::Answer;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use toygres_engine::OrchestrationFilter;
use toygres_models::orchestrations::{
    CancelRequest, Flow, HistoryEvent, Orchestration, OrchestrationDetails, OrchestrationStatus,
    RaiseEventRequest,
};
use utoipa::{IntoParams, ToSchema};

/// Which orchestrations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Only those that are so.
    status: Option<OrchestrationStatus>,
    /// Only those of this name, such as `instance-actor`.
    #[param(pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// Only those about this instance, by name or id.
    #[param(pattern = r"^[^\u0000]*$")]
    instance: Option<String>,
    /// Only those whose id begins so.
    #[param(pattern = r"^[^\u0000]*$")]
    prefix: Option<String>,
    /// At most so many; 100 if absent. The header `Link` says where the next ones are.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: from the header `Link` of the page before.
    #[param(pattern = r"^[^\u0000]*$")]
    pub(super) cursor: Option<String>,
}

/// Which part of the history.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryParams {
    /// Of which execution; the newest if absent.
    #[param(minimum = 1)]
    pub(super) execution: Option<i64>,
    /// Events behind this one.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// At most so many; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What goes on from here.
#[derive(Serialize, ToSchema)]
pub(crate) struct Recreated {
    /// The id of the orchestration or operation that goes on.
    pub(super) id: String,
}

/// Lists orchestrations, newest first.
#[utoipa::path(get, path = "/api/server/orchestrations", tag = "orchestrations", params(ListParams),
    responses((status = 200, description = "The orchestrations", body = [Orchestration])),
    security(("token" = ["admin"])))]
pub(crate) async fn list(
    State(app): State<App>,
    uri: Uri,
    Params(params): Params<ListParams>,
) -> Answer<Response> {
    let limit = limit(params.limit)?.unwrap_or(DEFAULT_LIMIT);
    let filter = OrchestrationFilter {
        status: params.status,
        name: params.name,
        id_prefix: params.prefix,
        instance_id: None,
        limit,
        after: params.cursor,
    };
    let orchestrations = app
        .list_orchestrations(filter, params.instance.as_deref())
        .await?;
    Ok(page(orchestrations, Some(limit), &uri, |orchestration| {
        orchestration.id.clone()
    }))
}

/// Shows an orchestration with its executions and those that it began.
#[utoipa::path(get, path = "/api/server/orchestrations/{id}", tag = "orchestrations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's id")),
    responses((status = 200, description = "The orchestration", body = OrchestrationDetails)),
    security(("token" = ["admin"])))]
pub(crate) async fn get(State(app): State<App>, Segment(id): Segment) -> Answer<Json<OrchestrationDetails>> {
    Ok(Json(app.get_orchestration(&id).await?))
}

/// Shows the history of one execution, oldest first.
#[utoipa::path(get, path = "/api/server/orchestrations/{id}/history", tag = "orchestrations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's id"), HistoryParams),
    responses((status = 200, description = "The events", body = [HistoryEvent])),
    security(("token" = ["admin"])))]
pub(crate) async fn history(
    State(app): State<App>,
    Segment(id): Segment,
    Params(params): Params<HistoryParams>,
) -> Answer<Json<Vec<HistoryEvent>>> {
    let limit = limit(params.limit)?.unwrap_or(DEFAULT_LIMIT);
    let after = at_least(0, "after", params.after)?.unwrap_or(0);
    let execution = at_least(1, "execution", params.execution)?;
    Ok(Json(
        app.orchestration_history(&id, execution, after, limit).await?,
    ))
}

/// Cancels an orchestration that works for an actor; the actor undoes its work or begins it anew. Not for actors.
#[utoipa::path(post, path = "/api/server/orchestrations/{id}/cancel", tag = "orchestrations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's id")),
    request_body(content = Option<CancelRequest>),
    responses((status = 202, description = "It is being cancelled", body = OrchestrationDetails)),
    security(("token" = ["admin"])))]
pub(crate) async fn cancel(
    State(app): State<App>,
    who: Who,
    Segment(id): Segment,
    body: JsonBody<CancelRequest>,
) -> Answer<(StatusCode, Json<OrchestrationDetails>)> {
    let details = app.cancel_orchestration(&id, body.value, &who.origin).await?;
    Ok((StatusCode::ACCEPTED, Json(details)))
}

/// Raises an event that the orchestration waits for.
#[utoipa::path(post, path = "/api/server/orchestrations/{id}/raise-event", tag = "orchestrations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's id")),
    request_body = RaiseEventRequest,
    responses((status = 202, description = "It is told", body = OrchestrationDetails)),
    security(("token" = ["admin"])))]
pub(crate) async fn raise_event(
    State(app): State<App>,
    who: Who,
    Segment(id): Segment,
    body: JsonBody<RaiseEventRequest>,
) -> Answer<(StatusCode, Json<OrchestrationDetails>)> {
    let details = app.raise_event(&id, body.value, &who.origin).await?;
    Ok((StatusCode::ACCEPTED, Json(details)))
}

/// Replaces a dead actor by a new incarnation, or does again the failed operation that the orchestration worked on.
#[utoipa::path(post, path = "/api/server/orchestrations/{id}/recreate", tag = "orchestrations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's id")),
    responses((status = 202, description = "It is begun anew", body = Recreated)),
    security(("token" = ["admin"])))]
pub(crate) async fn recreate(
    State(app): State<App>,
    who: Who,
    Segment(id): Segment,
) -> Answer<(StatusCode, Json<Recreated>)> {
    let id = app.recreate_orchestration(&id, &who.origin).await?;
    Ok((StatusCode::ACCEPTED, Json(Recreated { id })))
}

/// Lists how each orchestration goes, made from the steps that its code runs.
#[utoipa::path(get, path = "/api/server/orchestration-flows", tag = "orchestrations",
    responses((status = 200, description = "The flows", body = [Flow])),
    security(("token" = ["admin"])))]
pub(crate) async fn flows(State(app): State<App>) -> Json<Vec<Flow>> {
    Json(app.flows())
}

/// Shows how an orchestration goes.
#[utoipa::path(get, path = "/api/server/orchestration-flows/{name}", tag = "orchestrations",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "The orchestration's name")),
    responses((status = 200, description = "The flow", body = Flow)),
    security(("token" = ["admin"])))]
pub(crate) async fn flow(State(app): State<App>, Segment(name): Segment) -> Answer<Json<Flow>> {
    Ok(Json(app.flow(&name)?))
}
