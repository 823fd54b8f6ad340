//! The API over HTTP: thin handlers that extract, call the service once and answer.

mod extract;
mod guard;
mod instances;
mod operations;
mod problem;
mod server;

pub(crate) use guard::current_traceparent;

use crate::service::Service;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use std::sync::Arc;

/// Bodies over this are refused with 413.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// What handlers are given.
pub(crate) type App = Arc<Service>;

/// Everything the server answers.
pub(crate) fn router(service: App) -> Router {
    Router::new()
        .route("/api/instances", get(instances::list).post(instances::create))
        .route(
            "/api/instances/{name}",
            get(instances::get).delete(instances::delete),
        )
        .route("/api/instances/{name}/connection", get(instances::connection))
        .route("/api/instances/{name}/events", get(instances::events))
        .route("/api/instances/{name}/health", get(instances::health))
        .route("/api/operations", get(operations::list))
        .route("/api/operations/{id}", get(operations::get))
        .route("/health", get(server::health))
        .route("/livez", get(server::livez))
        .route("/readyz", get(server::readyz))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(axum::middleware::from_fn(guard::guard))
        .with_state(service)
}
