//! The API over HTTP: thin handlers that extract, call the service once and answer.

mod administration;
mod events;
mod extract;
mod gate;
mod guard;
mod instances;
mod openapi;
mod operations;
mod orchestrations;
mod page;
mod problem;
mod server;

pub(crate) use guard::current_traceparent;

use crate::config::ServerConfig;
use crate::service::Service;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Method, header};
use axum::middleware::{from_fn, from_fn_with_state};
use gate::Gate;
use std::sync::Arc;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Bodies over this are refused with 413.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// What handlers are given.
pub(crate) type App = Arc<Service>;

/// Everything the server answers.
pub(crate) fn router(service: App, config: &ServerConfig) -> Router {
    let (api, document) = openapi::routes().split_for_parts();
    let gate = Arc::new(Gate::new(
        service.clone(),
        &document,
        config.rate_limit_per_second,
    ));
    let router = api
        .fallback(problem::no_route)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(from_fn_with_state(gate, gate::admit))
        .with_state(service.clone())
        .merge(openapi::page())
        .layer(from_fn(guard::guard))
        .layer(from_fn_with_state(service, guard::part));
    if config.cors_origins.is_empty() {
        router
    } else {
        router.layer(cors(config))
    }
}

fn cors(config: &ServerConfig) -> CorsLayer {
    let idempotency = [
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("idempotency-replayed"),
    ];
    let [key, replayed] = idempotency;
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(config.cors_origins.iter().cloned()))
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            key,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([
            header::ETAG,
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            replayed,
            HeaderName::from_static("x-trace-id"),
        ])
}
