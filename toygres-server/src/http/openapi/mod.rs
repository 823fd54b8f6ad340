//! The contract: the OpenAPI document, made from the handlers, and a page to read and try it.

mod examples;

use super::problem::no_method;
use super::{App, administration, events, instances, operations, orchestrations, server};
use axum::http::{Method, StatusCode};
use axum::{Json, Router};
use toygres_models::problem::{CONTENT_TYPE, Problem};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "toygres",
        description = "PostgreSQL as a service. Errors are problem documents (RFC 9457) with a stable `code`, a \
            `trace_id` that finds the request in the logs, and what to do next.\n\nBound to loopback without any \
            token the API is open to that machine; else every request takes one: `Authorization: Bearer TOKEN`. The \
            scope it takes stands with each operation; each scope allows what the lesser ones do (`read`, `write`, \
            `admin`).",
        license(name = "MIT", identifier = "MIT"),
    ),
    tags(
        (name = "instances", description = "PostgreSQL servers"),
        (name = "operations", description = "What was asked for, step by step"),
        (name = "events", description = "What happens"),
        (name = "tokens", description = "Who may call the API"),
        (name = "quotas", description = "What owners may have"),
        (name = "audit", description = "Who changed what"),
        (name = "orchestrations", description = "The durable workflows beneath, for operators"),
        (name = "server", description = "The server itself"),
    ),
    components(schemas(Problem)),
)]
struct Base;

/// Every operation of the API.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::create_bulk))
        .routes(routes!(instances::delete_bulk))
        .routes(routes!(instances::get, instances::update, instances::delete))
        .routes(routes!(instances::connection))
        .routes(routes!(instances::certificate_authority))
        .routes(routes!(instances::events))
        .routes(routes!(instances::health))
        .routes(routes!(instances::logs))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(events::operation))
        .routes(routes!(operations::retry))
        .routes(routes!(events::all))
        .routes(routes!(administration::list_tokens, administration::create_token))
        .routes(routes!(administration::revoke_token))
        .routes(routes!(administration::list_quotas))
        .routes(routes!(administration::set_quota, administration::remove_quota))
        .routes(routes!(administration::audit))
        .routes(routes!(orchestrations::list))
        .routes(routes!(orchestrations::get))
        .routes(routes!(orchestrations::history))
        .routes(routes!(orchestrations::cancel))
        .routes(routes!(orchestrations::raise_event))
        .routes(routes!(orchestrations::recreate))
        .routes(routes!(orchestrations::flows))
        .routes(routes!(orchestrations::flow))
        .routes(routes!(server::stats))
        .routes(routes!(server::workers))
        .routes(routes!(server::config))
        .routes(routes!(server::logs))
        .routes(routes!(server::drift))
        .routes(routes!(server::fix_drift))
        .routes(routes!(server::health))
        .routes(routes!(server::livez))
        .routes(routes!(server::readyz))
        .routes(routes!(contract))
}

/// Gives this document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "server",
    responses((status = 200, description = "The document", body = serde_json::Value)),
    security(()))]
async fn contract() -> Json<OpenApi> {
    Json(document())
}

/// The page, with all that it needs.
pub(super) fn page() -> Router {
    let page: Router = SwaggerUi::new("/docs")
        .config(Config::new(["/api/openapi.json"]))
        .into();
    page.method_not_allowed_fallback(async || no_method(&[Method::GET]))
}

/// The whole document.
#[must_use]
fn document() -> OpenApi {
    let mut document = routes().split_for_parts().1;
    let components = document.components.get_or_insert_default();
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", token);
    components.responses.extend(shared());
    for (path, item) in &mut document.paths.paths {
        for operation in operations_of(item) {
            complete(path, operation);
        }
    }
    document
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

/// Adds what every operation of its kind can answer, and examples.
fn complete(path: &str, operation: &mut Operation) {
    let has = |place: ParameterIn| {
        operation
            .parameters
            .iter()
            .flatten()
            .any(|parameter| matches!(parameter, RefOr::T(it) if it.parameter_in == place))
    };
    let is_open = matches!(operation.security.as_deref(), Some([requirement])
        if serde_json::to_value(requirement).is_ok_and(|value| value == serde_json::json!({})));
    let mut add = |status: u16| {
        let shared = RefOr::Ref(Ref::from_response_name(shared_name(status)));
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert(shared);
    };
    // An address that can't be read, also where there is nothing to read in it.
    add(400);
    if !is_open {
        [401, 403, 429, 503].into_iter().for_each(&mut add);
    }
    if path.contains('{') || has(ParameterIn::Query) {
        [404, 422].into_iter().for_each(&mut add);
    }
    if operation.request_body.is_some() || path.contains('{') {
        add(409);
    }
    if operation.request_body.is_some() {
        [413, 415, 422].into_iter().for_each(&mut add);
    }
    // Unique in the whole document: `instances_list`.
    let tag = operation.tags.iter().flatten().next();
    if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
        operation.operation_id = Some(format!("{tag}_{id}"));
    }
    examples::add(operation);
}

/// What many operations can answer, with a code as an example.
const SHARED: &[(u16, &str, &str)] = &[
    (400, "The request can't be read", "malformed_json"),
    (401, "There is no token, or it is not valid", "token_missing"),
    (
        403,
        "The token does not allow this, or a quota is used up",
        "scope_missing",
    ),
    (404, "There is no such thing", "instance_not_found"),
    (409, "It contradicts the present state", "name_taken"),
    (413, "The body is larger than 64 KiB", "body_too_large"),
    (415, "The body is not JSON", "not_json"),
    (
        422,
        "A value is not allowed; `errors` says which and why",
        "invalid_fields",
    ),
    (
        429,
        "Too many requests, or streams; `Retry-After` says how long to wait",
        "rate_limited",
    ),
    (
        503,
        "The control database does not answer; `Retry-After` says how long to wait",
        "database_unavailable",
    ),
];

fn shared_name(status: u16) -> String {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    status.canonical_reason().unwrap_or_default().replace(' ', "")
}

fn shared() -> impl Iterator<Item = (String, RefOr<Response>)> {
    SHARED.iter().map(|(status, description, code)| {
        let mut content = Content::new(Some(RefOr::Ref(Ref::from_schema_name(Problem::name()))));
        content.example = Some(examples::problem(*status, description, code));
        let response = ResponseBuilder::new()
            .description(*description)
            .content(CONTENT_TYPE, content)
            .build();
        (shared_name(*status), RefOr::T(response))
    })
}

#[cfg(test)]
mod tests {
    use super::super::gate::taken;
    use super::*;

    #[test]
    fn golden_the_contract_is_published() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let mut text = serde_json::to_string_pretty(&document()).unwrap();
        text.push('\n');
        if std::fs::read_to_string(path).unwrap_or_default() != text {
            let now = std::env::temp_dir().join("openapi.json");
            std::fs::write(&now, &text).unwrap();
            panic!(
                "docs/openapi.json is not what the code says: cp {} docs/openapi.json",
                now.display()
            );
        }
    }

    #[test]
    fn every_operation_has_examples_and_says_what_it_is_for() {
        for (path, item) in &mut document().paths.paths {
            for operation in operations_of(item) {
                let id = operation.operation_id.clone().unwrap_or_default();
                assert!(operation.summary.is_some(), "{path} {id} has no summary");
                if let Some(RefOr::T(body)) = &operation.request_body {
                    for content in body.content.values() {
                        assert!(
                            matches!(content, RefOr::T(it) if it.example.is_some()),
                            "{path} {id}: the request has no example"
                        );
                    }
                }
                for (status, response) in &operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    for content in response.content.values() {
                        assert!(
                            matches!(content, RefOr::T(it) if it.example.is_some()),
                            "{path} {id}: the answer {status} has no example"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_takes_no_token_is_on_this_list() {
        let open = taken(&document())
            .into_iter()
            .filter(|taken| taken.scope.is_none());
        let mut open: Vec<_> = open.map(|taken| (taken.method, taken.path)).collect();
        open.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = ["/api/openapi.json", "/health", "/livez", "/readyz"];
        assert_eq!(open, expected.map(|path| (Method::GET, path.to_owned())));
    }
}
