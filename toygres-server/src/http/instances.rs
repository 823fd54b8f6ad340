//! `/api/instances`.

use super::App;
use super::extract::{IdempotencyKey, JsonBody, Params, Segment, Who, entity_tag, entity_tag_matches};
use super::page::{DEFAULT_LIMIT, limit, page};
use super::problem::{Answer, item_problem};
use crate::service::{Accepted, Logs};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use toygres_cms::{InstanceFilter, TagFilter};
use toygres_models::events::InstanceEvent;
use toygres_models::health::{HealthCheck, HealthStatus};
use toygres_models::instances::{
    BulkCreateRequest, BulkDeleteRequest, BulkResult, Connection, CreateInstanceRequest, Instance,
    InstanceAccepted, InstanceState, PatchInstanceRequest,
};
use toygres_models::tokens::TokenScope;
use toygres_models::{InstanceId, OwnerName, Result};
use utoipa::IntoParams;

/// Lines of a log, if `tail` does not say.
const DEFAULT_TAIL: u32 = 100;
/// The most lines of a log.
const MAX_TAIL: u32 = 10_000;

/// Which instances.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Only those in this state; the only way to see deleted ones.
    state: Option<InstanceState>,
    /// Only those of this health.
    health: Option<HealthStatus>,
    /// Only those of this owner.
    user_name: Option<OwnerName>,
    /// Only those whose name matches: `*` is any text, `?` any character.
    #[param(example = "demo*", pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// Only those with this tag: `key` or `key=value`.
    #[param(example = "team=web", pattern = r"^[^\u0000]*$")]
    pub(super) tag: Option<String>,
    /// At most so many, and the header `Link` says where the next ones are. The whole list if absent.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<u32>,
    /// Where the page begins: from the header `Link` of the page before.
    pub(super) cursor: Option<InstanceId>,
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// At most so many; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Those behind the one with this id; the newest if absent.
    after: Option<i64>,
}

/// How many.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LimitParams {
    /// At most so many; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Whether to show the password.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ConnectionParams {
    /// Whether to show the password: takes the scope `write`, and is audited.
    #[serde(default)]
    #[param(required = false)]
    reveal: bool,
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// How many of the last lines; 100 if absent.
    #[param(maximum = 10000)]
    tail: Option<u32>,
    /// Whether to go on with what is written from now on.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
}

/// Lists instances, oldest first.
#[utoipa::path(get, path = "/api/instances", tag = "instances", params(ListParams),
    responses((status = 200, description = "The instances", body = [Instance])),
    security(("token" = ["read"])))]
pub(crate) async fn list(
    State(app): State<App>,
    who: Who,
    uri: Uri,
    Params(params): Params<ListParams>,
) -> Answer<Response> {
    let limit = limit(params.limit)?;
    let filter = InstanceFilter {
        state: params.state,
        health: params.health,
        user_name: params.user_name,
        name_glob: params.name,
        tag: params.tag.map(|text| tag_filter(&text)),
        limit,
        after: params.cursor,
    };
    let instances = app.list_instances(filter, who.origin.owner.as_ref()).await?;
    Ok(page(instances, limit, &uri, |instance| instance.id.to_string()))
}

/// Makes an instance: writes it down, and has the work begun.
#[utoipa::path(post, path = "/api/instances", tag = "instances",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "The request's own name: sent again with it, the same request is done once", min_length = 1, max_length = 255)),
    request_body = CreateInstanceRequest,
    responses((status = 202, description = "It is being made", body = InstanceAccepted)),
    security(("token" = ["write"])))]
pub(crate) async fn create(
    State(app): State<App>,
    who: Who,
    key: IdempotencyKey,
    body: JsonBody<CreateInstanceRequest>,
) -> Answer<Response> {
    let accepted = app
        .create_instance(body.value, key.of(&who).as_deref(), &body.canonical, &who.origin)
        .await?;
    Ok(answer(accepted))
}

/// Makes many instances: one result each, and one that fails does not stop the others.
#[utoipa::path(post, path = "/api/instances/bulk", tag = "instances",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "The request's own name: sent again with it, the same request is done once", min_length = 1, max_length = 255)),
    request_body = BulkCreateRequest,
    responses((status = 200, description = "What came of each", body = [BulkResult])),
    security(("token" = ["write"])))]
pub(crate) async fn create_bulk(
    State(app): State<App>,
    who: Who,
    key: IdempotencyKey,
    body: JsonBody<BulkCreateRequest>,
) -> Answer<Response> {
    let results = app
        .create_instances(body.value, key.of(&who).as_deref(), &body.canonical, &who.origin)
        .await?;
    Ok(bulk_answer(results))
}

/// Deletes many instances with all their data: one result each, and one that fails does not stop the others.
#[utoipa::path(post, path = "/api/instances/bulk/delete", tag = "instances",
    request_body = BulkDeleteRequest,
    responses((status = 200, description = "What came of each", body = [BulkResult])),
    security(("token" = ["write"])))]
pub(crate) async fn delete_bulk(
    State(app): State<App>,
    who: Who,
    body: JsonBody<BulkDeleteRequest>,
) -> Answer<Response> {
    Ok(bulk_answer(app.delete_instances(body.value, &who.origin).await?))
}

/// Shows an instance, by name; a deleted one by its id.
#[utoipa::path(get, path = "/api/instances/{name}", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` that is known already")),
    responses((status = 200, description = "The instance", body = Instance,
            headers(("ETag" = String, description = "Changes with anything that is shown"))),
        (status = 304, description = "It is as it was")),
    security(("token" = ["read"])))]
pub(crate) async fn get(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    headers: HeaderMap,
) -> Answer<Response> {
    let instance = app.get_instance(&name, who.origin.owner.as_ref()).await?;
    let tag = entity_tag(&instance);
    if entity_tag_matches(&headers, header::IF_NONE_MATCH, &tag) == Some(true) {
        return Ok((StatusCode::NOT_MODIFIED, tagged(&tag)).into_response());
    }
    Ok((tagged(&tag), Json(instance)).into_response())
}

/// Changes tags and deletion protection. With `If-Match` only if nobody has changed it since it was read.
#[utoipa::path(patch, path = "/api/instances/{name}", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the instance as it was read")),
    request_body = PatchInstanceRequest,
    responses((status = 200, description = "The instance as it is now", body = Instance,
            headers(("ETag" = String, description = "Changes with anything that is shown"))),
        (status = 412, description = "It is not as it was read", body = toygres_models::problem::Problem,
            content_type = "application/problem+json")),
    security(("token" = ["write"])))]
pub(crate) async fn update(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    headers: HeaderMap,
    body: JsonBody<PatchInstanceRequest>,
) -> Answer<Response> {
    let unchanged = |instance: &Instance| {
        entity_tag_matches(&headers, header::IF_MATCH, &entity_tag(instance)).unwrap_or(true)
    };
    let instance = app
        .update_instance(&name, body.value, &unchanged, &who.origin)
        .await?;
    Ok((tagged(&entity_tag(&instance)), Json(instance)).into_response())
}

/// Deletes an instance with all its data. Asked again, it gives the same operation.
#[utoipa::path(delete, path = "/api/instances/{name}", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id")),
    responses((status = 202, description = "It is being deleted", body = InstanceAccepted)),
    security(("token" = ["write"])))]
pub(crate) async fn delete(State(app): State<App>, who: Who, Segment(name): Segment) -> Answer<Response> {
    Ok(answer(app.delete_instance(&name, &who.origin).await?))
}

/// Shows how to connect; the password only if asked for.
#[utoipa::path(get, path = "/api/instances/{name}/connection", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"), ConnectionParams),
    responses((status = 200, description = "How to connect", body = Connection)),
    security(("token" = ["read"])))]
pub(crate) async fn connection(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    Params(params): Params<ConnectionParams>,
) -> Answer<Response> {
    if params.reveal {
        who.require(TokenScope::Write)?;
    }
    let connection: Connection = app.connection(&name, params.reveal, &who.origin).await?;
    // It may hold a password: nothing on the way may keep it.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(connection)).into_response())
}

/// Gives the certificate that clients check those of instances by: libpq's `sslrootcert`.
#[utoipa::path(get, path = "/api/certificate-authority", tag = "instances",
    responses((status = 200, description = "The certificate, PEM", body = String,
            content_type = "application/x-pem-file"),
        (status = 404, description = "Instances take no TLS here", body = toygres_models::problem::Problem,
            content_type = "application/problem+json")),
    security(("token" = ["read"])))]
pub(crate) async fn certificate_authority(State(app): State<App>) -> Answer<Response> {
    let content_type = [(header::CONTENT_TYPE, "application/x-pem-file")];
    Ok((content_type, app.certificate_authority()?).into_response())
}

/// Lists what happened to an instance, oldest first.
#[utoipa::path(get, path = "/api/instances/{name}/events", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"), EventParams),
    responses((status = 200, description = "The events", body = [InstanceEvent])),
    security(("token" = ["read"])))]
pub(crate) async fn events(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    Params(params): Params<EventParams>,
) -> Answer<Json<Vec<InstanceEvent>>> {
    let rows = limit(params.limit)?.unwrap_or(DEFAULT_LIMIT);
    let events = app
        .events(&name, rows, params.after, who.origin.owner.as_ref())
        .await?;
    Ok(Json(events))
}

/// Lists an instance's health checks, newest first.
#[utoipa::path(get, path = "/api/instances/{name}/health", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"), LimitParams),
    responses((status = 200, description = "The checks", body = [HealthCheck])),
    security(("token" = ["read"])))]
pub(crate) async fn health(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    Params(params): Params<LimitParams>,
) -> Answer<Json<Vec<HealthCheck>>> {
    let rows = limit(params.limit)?.unwrap_or(DEFAULT_LIMIT);
    Ok(Json(
        app.health_checks(&name, rows, who.origin.owner.as_ref()).await?,
    ))
}

/// Shows the last lines of an instance's own log; with `follow` also those to come.
#[utoipa::path(get, path = "/api/instances/{name}/logs", tag = "instances",
    params(("name" = String, Path, pattern = r"^[^\u0000]*$", description = "Name or id"), LogParams),
    responses((status = 200, description = "Lines of text", body = String, content_type = "text/plain")),
    security(("token" = ["read"])))]
pub(crate) async fn logs(
    State(app): State<App>,
    who: Who,
    Segment(name): Segment,
    Params(params): Params<LogParams>,
) -> Answer<Response> {
    let tail = tail(params.tail)?;
    let body = match app
        .logs(&name, tail, params.follow, who.origin.owner.as_ref())
        .await?
    {
        Logs::Whole(lines) => {
            let mut text = lines.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            Body::from(text)
        }
        Logs::Followed { lines, stop, permit } => {
            let lines = lines.map(move |line| {
                // Held for as long as the stream is open.
                let _ = &permit;
                line.map(|line| Bytes::from(format!("{line}\n")))
            });
            let over = app.until_refused(who.token);
            Body::from_stream(lines.take_until(stop.cancelled_owned()).take_until(over))
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body).into_response())
}

/// Checks how many lines were asked for.
pub(crate) fn tail(wanted: Option<u32>) -> Result<usize> {
    match wanted.unwrap_or(DEFAULT_TAIL) {
        lines if lines <= MAX_TAIL => Ok(lines as usize),
        _ => Err(toygres_models::Error::invalid_field(
            "tail",
            format!("must be a whole number up to {MAX_TAIL}"),
        )),
    }
}

/// `key` or `key=value`.
pub(super) fn tag_filter(text: &str) -> TagFilter {
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

fn tagged(tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    headers
}

pub(super) fn answer(accepted: Accepted) -> Response {
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

fn bulk_answer(results: Vec<(String, Result<Accepted>)>) -> Response {
    let results: Vec<BulkResult> = results
        .into_iter()
        .map(|(name, result)| match result {
            Ok(accepted) => BulkResult {
                name,
                status: StatusCode::ACCEPTED.as_u16(),
                accepted: Some(accepted.body),
                problem: None,
            },
            Err(error) => {
                let problem = item_problem(&error);
                if problem.status >= 500 {
                    tracing::error!(code = error.code(), detail = error.detail(), "{error}");
                }
                BulkResult {
                    name,
                    status: problem.status,
                    accepted: None,
                    problem: Some(problem),
                }
            }
        })
        .collect();
    ([(header::CACHE_CONTROL, "no-store")], Json(results)).into_response()
}
