//! `/api/tokens`, `/api/quotas`, `/api/audit`.

use super::App;
use super::extract::{JsonBody, Params, Segment, Who};
use super::page::{DEFAULT_LIMIT, limit, page};
use super::problem::Answer;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use toygres_cms::AuditFilter;
use toygres_models::OwnerName;
use toygres_models::audit::AuditEvent;
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::tokens::{ApiToken, CreateTokenRequest, CreatedToken};
use utoipa::IntoParams;

/// Which part of the audit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditParams {
    /// Only what this one did, such as `token:ci`.
    #[param(pattern = r"^[^\u0000]*$")]
    actor: Option<String>,
    /// Only acts of this kind, such as `create_instance`.
    #[param(pattern = r"^[^\u0000]*$")]
    action: Option<String>,
    /// Only what was done to this instance, by name or id.
    #[param(pattern = r"^[^\u0000]*$")]
    instance: Option<String>,
    /// At most so many; 100 if absent. The header `Link` says where the next ones are.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: from the header `Link` of the page before.
    pub(super) cursor: Option<i64>,
}

/// Lists the tokens, newest first, revoked ones included.
#[utoipa::path(get, operation_id = "list", path = "/api/tokens", tag = "tokens",
    responses((status = 200, description = "The tokens", body = [ApiToken])),
    security(("token" = ["admin"])))]
pub(crate) async fn list_tokens(State(app): State<App>) -> Answer<Json<Vec<ApiToken>>> {
    Ok(Json(app.list_tokens().await?))
}

/// Makes a token, and shows its text this once. The first one has the scope `admin`, and from then on every request
/// takes a token.
#[utoipa::path(post, operation_id = "create", path = "/api/tokens", tag = "tokens",
    request_body = CreateTokenRequest,
    responses((status = 201, description = "The token", body = CreatedToken)),
    security(("token" = ["admin"])))]
pub(crate) async fn create_token(
    State(app): State<App>,
    who: Who,
    body: JsonBody<CreateTokenRequest>,
) -> Answer<Response> {
    let created = app.create_token(body.value, &who.origin).await?;
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(created)).into_response())
}

/// Revokes a token: it is refused from now on.
#[utoipa::path(delete, operation_id = "revoke", path = "/api/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The token's id or name")),
    responses((status = 200, description = "The token", body = ApiToken)),
    security(("token" = ["admin"])))]
pub(crate) async fn revoke_token(
    State(app): State<App>,
    who: Who,
    Segment(id): Segment,
) -> Answer<Json<ApiToken>> {
    Ok(Json(app.revoke_token(&id, &who.origin).await?))
}

/// Lists what owners may have, and have.
#[utoipa::path(get, operation_id = "list", path = "/api/quotas", tag = "quotas",
    responses((status = 200, description = "The quotas", body = [Quota])),
    security(("token" = ["admin"])))]
pub(crate) async fn list_quotas(State(app): State<App>) -> Answer<Json<Vec<Quota>>> {
    Ok(Json(app.list_quotas().await?))
}

/// Sets what an owner may have. What is absent is not limited.
#[utoipa::path(put, operation_id = "set", path = "/api/quotas/{user_name}", tag = "quotas",
    params(("user_name" = OwnerName, Path, description = "The owner")),
    request_body = QuotaLimits,
    responses((status = 200, description = "The quota", body = Quota)),
    security(("token" = ["admin"])))]
pub(crate) async fn set_quota(
    State(app): State<App>,
    who: Who,
    Segment(user_name): Segment,
    body: JsonBody<QuotaLimits>,
) -> Answer<Json<Quota>> {
    Ok(Json(app.set_quota(&user_name, body.value, &who.origin).await?))
}

/// Removes an owner's own quota: what holds for every owner then holds for it.
#[utoipa::path(delete, operation_id = "remove", path = "/api/quotas/{user_name}", tag = "quotas",
    params(("user_name" = OwnerName, Path, description = "The owner")),
    responses((status = 204, description = "It is removed")),
    security(("token" = ["admin"])))]
pub(crate) async fn remove_quota(
    State(app): State<App>,
    who: Who,
    Segment(user_name): Segment,
) -> Answer<StatusCode> {
    app.remove_quota(&user_name, &who.origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists who changed what, newest first.
#[utoipa::path(get, operation_id = "list", path = "/api/audit", tag = "audit", params(AuditParams),
    responses((status = 200, description = "The audit", body = [AuditEvent])),
    security(("token" = ["admin"])))]
pub(crate) async fn audit(
    State(app): State<App>,
    uri: Uri,
    Params(params): Params<AuditParams>,
) -> Answer<Response> {
    let limit = limit(params.limit)?.or(Some(DEFAULT_LIMIT));
    let filter = AuditFilter {
        actor: params.actor,
        action: params.action,
        limit,
        before: params.cursor,
        ..AuditFilter::default()
    };
    let events = app.list_audit(filter, params.instance.as_deref()).await?;
    Ok(page(events, limit, &uri, |event| event.id.to_string()))
}
