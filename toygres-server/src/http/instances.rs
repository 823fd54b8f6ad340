//! `/api/instances`.

use super::App;
use super::extract::{IdempotencyKey, JsonBody, Params, Who};
use super::problem::Answer;
use crate::service::Accepted;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use toygres_cms::{InstanceFilter, TagFilter};
use toygres_models::Error;
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{Connection, CreateInstanceRequest, Instance};
use toygres_models::names::ParseNameError;

/// Rows of a list if `limit` does not say.
const DEFAULT_LIMIT: u32 = 100;
/// The most rows of a list.
const MAX_LIMIT: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    state: Option<String>,
    health: Option<String>,
    user_name: Option<String>,
    name: Option<String>,
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitParams {
    limit: Option<u32>,
}

impl LimitParams {
    pub(crate) fn rows(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionParams {
    #[serde(default)]
    reveal: bool,
}

pub(crate) async fn create(
    State(app): State<App>,
    Who(origin): Who,
    IdempotencyKey(key): IdempotencyKey,
    body: JsonBody<CreateInstanceRequest>,
) -> Answer<Response> {
    let accepted = app
        .create_instance(body.value, key.as_deref(), &body.canonical, &origin)
        .await?;
    Ok(answer(accepted))
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Answer<Json<Vec<Instance>>> {
    let filter = InstanceFilter {
        state: params.state.map(|text| text.parse()).transpose()?,
        health: params.health.map(|text| text.parse()).transpose()?,
        user_name: params
            .user_name
            .map(|text| text.parse())
            .transpose()
            .map_err(|why| bad_filter("user_name", why))?,
        name_glob: params.name,
        tag: params.tag.map(|text| tag_filter(&text)),
        ..InstanceFilter::default()
    };
    Ok(Json(app.list_instances(&filter).await?))
}

pub(crate) async fn get(State(app): State<App>, Path(name): Path<String>) -> Answer<Json<Instance>> {
    Ok(Json(app.get_instance(&name).await?))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Who(origin): Who,
    Path(name): Path<String>,
) -> Answer<Response> {
    Ok(answer(app.delete_instance(&name, &origin).await?))
}

pub(crate) async fn connection(
    State(app): State<App>,
    Who(origin): Who,
    Path(name): Path<String>,
    Params(params): Params<ConnectionParams>,
) -> Answer<Response> {
    let connection: Connection = app.connection(&name, params.reveal, &origin).await?;
    // It may hold a password: nothing on the way may keep it.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(connection)).into_response())
}

pub(crate) async fn events(
    State(app): State<App>,
    Path(name): Path<String>,
    Params(params): Params<LimitParams>,
) -> Answer<Json<Vec<InstanceEvent>>> {
    Ok(Json(app.events(&name, params.rows()).await?))
}

pub(crate) async fn health(
    State(app): State<App>,
    Path(name): Path<String>,
    Params(params): Params<LimitParams>,
) -> Answer<Json<Vec<HealthCheck>>> {
    Ok(Json(app.health_checks(&name, params.rows()).await?))
}

fn bad_filter(name: &str, why: ParseNameError) -> Error {
    Error::invalid_fields(vec![why.in_field(name)])
}

/// `key` or `key=value`.
fn tag_filter(text: &str) -> TagFilter {
    match text.split_once('=') {
        Some((key, value)) => TagFilter {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        },
        None => TagFilter {
            key: text.to_owned(),
            value: None,
        },
    }
}

fn answer(accepted: Accepted) -> Response {
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/operations/{}", accepted.body.operation.id)) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if accepted.replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    (StatusCode::ACCEPTED, headers, Json(accepted.body)).into_response()
}
