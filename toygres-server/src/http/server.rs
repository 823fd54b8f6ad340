//! `/health`, `/livez`, `/readyz`.

use super::App;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use toygres_models::server::{Probe, ServerHealth};

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

pub(crate) async fn health(State(app): State<App>) -> (StatusCode, Json<ServerHealth>) {
    let health = app.health().await;
    (status(health.status == "healthy"), Json(health))
}

pub(crate) async fn livez(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    let probe = app.liveness().await;
    (status(probe.ok), Json(probe))
}

pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    let probe = app.readiness().await;
    (status(probe.ok), Json(probe))
}
