//! `/health`, `/livez`, `/readyz`, and `/api/server`: the server itself.

use super::App;
use super::extract::{Params, Segment, Who};
use super::instances::tail;
use super::problem::Answer;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use toygres_models::server::{Drift, EffectiveSetting, Probe, ServerHealth, ServerStats, Worker};
use toygres_models::{Error, ErrorKind};
use utoipa::IntoParams;

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// How many of the last lines; 100 if absent.
    #[param(maximum = 10000)]
    tail: Option<u32>,
}

/// Says whether the server can work, and its version.
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, description = "It is healthy", body = ServerHealth),
        (status = 503, description = "It is not", body = ServerHealth)),
    security(()))]
pub(crate) async fn health(State(app): State<App>) -> (StatusCode, Json<ServerHealth>) {
    let health = app.health().await;
    (status(health.status == "healthy"), Json(health))
}

/// Says whether the process does anything at all: if not, start it again.
#[utoipa::path(get, path = "/livez", tag = "server",
    responses((status = 200, description = "It lives", body = Probe),
        (status = 503, description = "It does not", body = Probe)),
    security(()))]
pub(crate) async fn livez(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    let probe = app.liveness().await;
    (status(probe.ok), Json(probe))
}

/// Says whether requests would be served now, and what is wrong if not.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses((status = 200, description = "It is ready", body = Probe),
        (status = 503, description = "It is not", body = Probe)),
    security(()))]
pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    let probe = app.readiness().await;
    (status(probe.ok), Json(probe))
}

/// Shows how much there is of everything.
#[utoipa::path(get, path = "/api/server/stats", tag = "server",
    responses((status = 200, description = "The numbers", body = ServerStats)),
    security(("token" = ["admin"])))]
pub(crate) async fn stats(State(app): State<App>) -> Answer<Json<ServerStats>> {
    Ok(Json(app.stats().await?))
}

/// Lists the processes of the control plane.
#[utoipa::path(get, path = "/api/server/workers", tag = "server",
    responses((status = 200, description = "The processes", body = [Worker])),
    security(("token" = ["admin"])))]
pub(crate) async fn workers(State(app): State<App>) -> Answer<Json<Vec<Worker>>> {
    Ok(Json(app.list_workers().await?))
}

/// Shows the configuration in effect, and where each value comes from. Secrets are not shown.
#[utoipa::path(get, path = "/api/server/config", tag = "server",
    responses((status = 200, description = "The settings", body = [EffectiveSetting])),
    security(("token" = ["admin"])))]
pub(crate) async fn config(State(app): State<App>) -> Json<Vec<EffectiveSetting>> {
    Json(app.settings().to_vec())
}

/// Shows the last lines of this process's own log.
#[utoipa::path(get, path = "/api/server/logs", tag = "server", params(LogParams),
    responses((status = 200, description = "The lines, each an object", body = [serde_json::Value])),
    security(("token" = ["admin"])))]
pub(crate) async fn logs(
    State(app): State<App>,
    Params(params): Params<LogParams>,
) -> Answer<Json<Vec<serde_json::Value>>> {
    Ok(Json(app.server_log(tail(params.tail)?).await?))
}

/// Lists the differences between what is there and what should be.
#[utoipa::path(get, path = "/api/server/drift", tag = "server",
    responses((status = 200, description = "The differences", body = [Drift])),
    security(("token" = ["admin"])))]
pub(crate) async fn drift(State(app): State<App>) -> Answer<Json<Vec<Drift>>> {
    Ok(Json(app.list_drift().await?))
}

/// Puts a difference right: removes, with its data, what belongs to no instance.
#[utoipa::path(post, path = "/api/server/drift/{id}/fix", tag = "server",
    params(("id" = i64, Path, description = "The difference's id")),
    responses((status = 200, description = "What was put right", body = Drift)),
    security(("token" = ["admin"])))]
pub(crate) async fn fix_drift(State(app): State<App>, who: Who, Segment(id): Segment) -> Answer<Json<Drift>> {
    let id: i64 = id.parse().map_err(|_| {
        Error::new(
            ErrorKind::NotFound,
            "drift_not_found",
            format!("there is no difference {id:?}"),
        )
        .hint("see what there is with: toygres server drift")
    })?;
    Ok(Json(app.fix_drift(id, &who.origin).await?))
}
