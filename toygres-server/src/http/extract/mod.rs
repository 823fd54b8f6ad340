//! What handlers take from a request. What can't be read is refused here, and never shown again: a value in the
//! wrong place may be a password.

mod json;

use super::problem::Failed;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::SocketAddr;
use toygres_cms::Origin;
use toygres_models::instances::{
    BulkCreateRequest, BulkDeleteRequest, CreateInstanceRequest, Instance, PatchInstanceRequest,
};
use toygres_models::orchestrations::{CancelRequest, RaiseEventRequest};
use toygres_models::quotas::QuotaLimits;
use toygres_models::tokens::{CreateTokenRequest, TokenScope};
use toygres_models::{Error, ErrorKind, TokenId};

/// A field of a body: its name, what it must be, whether it must be there.
type Field = (&'static str, &'static str, bool);

/// A body that can be read.
pub(crate) trait Body: DeserializeOwned {
    const FIELDS: &'static [Field];
    /// Whether no body at all, or null, stands for an empty object.
    const OPTIONAL: bool = false;
}

macro_rules! instance_fields {
    ($($own:expr),+) => {
        &[
            $($own,)+
            ("password", "a string", false),
            ("user_name", "a string", false),
            ("postgres_version", "a string such as \"17\"", false),
            ("storage_size_gb", "a whole number", false),
            ("cpu", "a string such as \"500m\"", false),
            ("memory_mb", "a whole number", false),
            ("internal", "true or false", false),
            ("namespace", "a string", false),
            ("tags", "an object of strings", false),
            ("deletion_protection", "true or false", false),
        ]
    };
}

impl Body for CreateInstanceRequest {
    const FIELDS: &'static [Field] = instance_fields!(("name", "a string", true));
}

impl Body for BulkCreateRequest {
    const FIELDS: &'static [Field] =
        instance_fields!(("base_name", "a string", true), ("count", "a whole number", true));
}

impl Body for BulkDeleteRequest {
    const FIELDS: &'static [Field] = &[("names", "an array of strings", true)];
}

impl Body for PatchInstanceRequest {
    const FIELDS: &'static [Field] = &[
        ("tags", "an object of strings or nulls", false),
        ("deletion_protection", "true or false", false),
    ];
}

impl Body for CreateTokenRequest {
    const FIELDS: &'static [Field] = &[
        ("name", "a string", true),
        ("scope", "\"read\", \"write\" or \"admin\"", true),
        ("user_name", "a string", false),
        ("expires_in_days", "a whole number", false),
    ];
}

impl Body for QuotaLimits {
    const FIELDS: &'static [Field] = &[
        ("max_instances", "a whole number", false),
        ("max_storage_gb", "a whole number", false),
    ];
}

impl Body for CancelRequest {
    const FIELDS: &'static [Field] = &[("reason", "a string", false)];
    const OPTIONAL: bool = true;
}

impl Body for RaiseEventRequest {
    const FIELDS: &'static [Field] = &[("name", "\"wake\"", true)];
}

/// A JSON body, with a form that is the same for the same content.
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) canonical: Vec<u8>,
}

impl<S: Send + Sync, T: Body> FromRequest<S> for JsonBody<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let is_json = is_json(request.headers());
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    Error::new(
                        ErrorKind::TooLarge,
                        "body_too_large",
                        "the body is larger than 64 KiB",
                    )
                } else {
                    malformed("body_unreadable", "the body did not arrive whole")
                }
            })?;
        if T::OPTIONAL && bytes.is_empty() {
            return Ok(parse(b"{}")?);
        }
        // Also keeps web forms out, which a page could send across origins without asking.
        if !is_json {
            let error = malformed("not_json", "the body must be JSON")
                .hint("send the header: Content-Type: application/json");
            return Err(Failed::with_status(error, StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        Ok(parse(&bytes)?)
    }
}

/// `application/json`, or a structured syntax on top of it such as a merge patch (RFC 6839, section 3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    matches!(
        media_type.as_str(),
        "application/json" | "application/merge-patch+json"
    )
}

fn malformed(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, code, message)
}

fn parse<T: Body>(bytes: &[u8]) -> Result<JsonBody<T>, Error> {
    let value = match json::strict(bytes)? {
        Value::Null if T::OPTIONAL => Value::Object(serde_json::Map::new()),
        value => value,
    };
    let Value::Object(object) = &value else {
        return Err(malformed("malformed_json", "the body must be a JSON object"));
    };
    let names = || {
        T::FIELDS
            .iter()
            .map(|(name, ..)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(unknown) = object
        .keys()
        .find(|key| !T::FIELDS.iter().any(|(name, ..)| name == key))
    {
        return Err(
            malformed("unknown_field", format!("there is no field {unknown:?}"))
                .hint(format!("the fields are: {}", names())),
        );
    }
    if let Some((missing, ..)) = T::FIELDS
        .iter()
        .find(|(name, _, required)| *required && !object.contains_key(*name))
    {
        return Err(malformed(
            "missing_field",
            format!("the field \"{missing}\" is missing"),
        ));
    }
    let canonical = value.to_string().into_bytes();
    let value = serde_path_to_error::deserialize(value).map_err(|why| {
        let path = why.path().to_string();
        let field = path.split('.').next().unwrap_or_default();
        let wanted = T::FIELDS
            .iter()
            .find(|(name, ..)| *name == field)
            .map_or("another type", |(_, wanted, _)| wanted);
        malformed(
            "wrong_type",
            format!("the field \"{path}\" has the wrong type: \"{field}\" must be {wanted}"),
        )
    })?;
    Ok(JsonBody { value, canonical })
}

/// The query string; what it holds that is not known is refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        Ok(Self(read_query(&parts.uri)?))
    }
}

/// What the query string of an address asks for.
pub(super) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Error> {
    let read = Query::try_from_uri(uri).map(|Query(params)| params);
    read.map_err(|rejection| {
        let text = rejection.body_text();
        let why = text.split_once(": ").map_or(text.as_str(), |(_, why)| why);
        malformed("bad_query", format!("the query string is wrong: {why}"))
            .hint("see what may stand behind the ? at /docs")
    })
}

/// The one variable segment of the path.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(_) => Err(malformed("bad_path", "the path is not valid UTF-8").into()),
        }
    }
}

/// Who asks, and what it may do.
#[derive(Clone)]
pub(crate) struct Who {
    pub(crate) origin: Origin,
    pub(crate) scope: TokenScope,
    pub(crate) token: Option<TokenId>,
}

impl Who {
    /// Refuses what the caller's scope does not allow.
    pub(crate) fn require(&self, wanted: TokenScope) -> Result<(), Failed> {
        if self.scope.allows(wanted) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Forbidden,
            "scope_missing",
            format!(
                "this takes a token of the scope {wanted}; yours has {}",
                self.scope
            ),
        )
        .hint("ask an administrator for another token: toygres token create")
        .into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        // Set for every request that reaches a handler.
        let who = parts.extensions.get::<Self>().cloned();
        who.ok_or_else(|| Error::internal("nobody asked who is asking").into())
    }
}

/// The address that the request came from, where the transport knows it.
pub(crate) fn peer(parts: &axum::http::Extensions) -> Option<std::net::IpAddr> {
    parts
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip())
}

/// A header of entity tags (RFC 9110, section 13.1): those of `If-Match` or `If-None-Match`.
pub(crate) fn entity_tag_matches(headers: &HeaderMap, name: header::HeaderName, tag: &str) -> Option<bool> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    // A star stands for itself alone: in a list it is part of somebody else's tag.
    let is_match = |list: &str| list.trim() == "*" || list.split(',').any(|one| one.trim() == tag);
    Some(values.filter_map(|value| value.to_str().ok()).any(is_match))
}

/// The instance's entity tag: changes with anything that is shown of it.
pub(crate) fn entity_tag(instance: &Instance) -> String {
    use sha2::Digest;
    let shown = serde_json::to_vec(instance).unwrap_or_default();
    let hash = sha2::Sha256::digest(shown);
    let hex: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// The `Idempotency-Key` header.
pub(crate) struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// The key, for this caller alone: the name of a token may be another one's later.
    pub(crate) fn of(self, who: &Who) -> Option<String> {
        let key = self.0?;
        Some(match who.token {
            Some(id) => format!("{id}/{key}"),
            None => key,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        Ok(Self(idempotency_key(&parts.headers)?))
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(malformed(
            "bad_idempotency_key",
            "the Idempotency-Key must be 1 to 255 visible ASCII characters",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::events::last_event_number;
    use axum::http::HeaderValue;

    fn code(body: &str) -> (String, String) {
        match parse::<CreateInstanceRequest>(body.as_bytes()) {
            Ok(_) => ("ok".into(), String::new()),
            Err(error) => (error.code().to_owned(), error.message().to_owned()),
        }
    }

    /// What is taken is taken again, as the same, when it is written as an idempotency key's request is.
    fn is_taken_or_refused<T: Body>(bytes: &[u8]) {
        match parse::<T>(bytes) {
            Ok(body) => {
                let again = parse::<T>(&body.canonical).map(|body| body.canonical);
                assert_eq!(again.ok(), Some(body.canonical));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Malformed),
        }
    }

    #[test]
    fn fuzz_body() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_taken_or_refused::<CreateInstanceRequest>(bytes);
            is_taken_or_refused::<BulkCreateRequest>(bytes);
            is_taken_or_refused::<BulkDeleteRequest>(bytes);
            is_taken_or_refused::<PatchInstanceRequest>(bytes);
            is_taken_or_refused::<CreateTokenRequest>(bytes);
            is_taken_or_refused::<QuotaLimits>(bytes);
            is_taken_or_refused::<CancelRequest>(bytes);
            is_taken_or_refused::<RaiseEventRequest>(bytes);
        });
    }

    const TAG: &str = "\"0123456789ab\"";

    /// What stands in any of the headers that are read here.
    fn is_read_or_refused(bytes: &[u8]) {
        let Ok(value) = HeaderValue::from_bytes(bytes) else {
            return;
        };
        let with = |name: header::HeaderName| HeaderMap::from_iter([(name, value.clone())]);
        let named = |name: &'static str| with(header::HeaderName::from_static(name));
        match idempotency_key(&named("idempotency-key")) {
            // Another one is another request.
            Ok(key) => assert_eq!(key.map(String::into_bytes).as_deref(), Some(bytes)),
            Err(error) => assert_eq!(error.code(), "bad_idempotency_key"),
        }
        match last_event_number(&named("last-event-id")) {
            Ok(None) => assert!(bytes.is_empty()),
            Ok(Some(number)) => {
                let digits = bytes.trim_ascii().iter().filter(|byte| byte.is_ascii_digit());
                let digits = String::from_utf8(digits.copied().collect()).unwrap();
                assert_eq!(digits.parse(), Ok(number.unsigned_abs()));
            }
            Err(error) => assert_eq!(error.code(), "bad_last_event_id"),
        }
        // A tag stands in the list as a whole, and a star by itself.
        let text = String::from_utf8_lossy(bytes);
        let parts: Vec<&str> = text.split('"').collect();
        let is_in = || parts.windows(3).any(|part| part[1] == TAG.trim_matches('"'));
        if entity_tag_matches(&with(header::IF_MATCH), header::IF_MATCH, TAG) == Some(true) {
            assert!(text.trim() == "*" || is_in(), "{text}");
        }
        if is_json(&with(header::CONTENT_TYPE)) {
            let text = text.trim_start().to_ascii_lowercase();
            assert!(
                text.starts_with("application/") && text.contains("json"),
                "{text}"
            );
        }
    }

    #[test]
    fn fuzz_headers() {
        bolero::check!().for_each(is_read_or_refused);
    }

    #[test]
    fn a_star_in_somebody_elses_tag_is_no_star() {
        let matches = |text| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(text))]);
            entity_tag_matches(&headers, header::IF_MATCH, TAG).unwrap()
        };
        for good in [
            "*",
            " * ",
            TAG,
            "\"x\", \"0123456789ab\"",
            "\"0123456789ab\",\"x,*,y\"",
        ] {
            assert!(matches(good), "{good}");
        }
        for bad in [
            "",
            "\"x,*,y\"",
            "\"*\"",
            "*, *",
            "0123456789ab",
            "W/\"0123456789ab\"",
        ] {
            assert!(!matches(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_header_holds_it_is_read_or_refused(
            any: Vec<u8>, number in "[+-]?[0-9]{0,20}", tags in "((W/)?\"(0123456789ab|[*x,]{0,3})\"|\\*|, ?){0,5}",
            kind in "(?i)(application/)?(json|merge-patch\\+json|x)( ?;.{0,9})?", key in "[ -~]{0,300}",
        ) {
            is_read_or_refused(&any);
            for text in [number, tags, kind, key] {
                is_read_or_refused(text.as_bytes());
            }
        }

        #[test]
        fn a_body_is_taken_as_it_was_sent(
            token in "[a-z]{0,9}", days: Option<i64>, reason: Option<String>, limits: (Option<i64>, Option<i64>),
        ) {
            let written = |value: serde_json::Value| value.to_string().into_bytes();
            let body = serde_json::json!({ "name": token, "scope": "read", "expires_in_days": days });
            let taken = parse::<CreateTokenRequest>(&written(body)).unwrap().value;
            proptest::prop_assert_eq!((taken.name, taken.expires_in_days), (token.clone(), days));
            let body = serde_json::json!({ "reason": reason });
            proptest::prop_assert_eq!(parse::<CancelRequest>(&written(body)).unwrap().value.reason, reason);
            let body = serde_json::json!({ "max_instances": limits.0, "max_storage_gb": limits.1 });
            let taken = parse::<QuotaLimits>(&written(body)).unwrap().value;
            proptest::prop_assert_eq!((taken.max_instances, taken.max_storage_gb), limits);
            let body = serde_json::json!({ "name": token });
            proptest::prop_assert_eq!(parse::<RaiseEventRequest>(&written(body)).unwrap().value.name, token);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_shown() {
        assert_eq!(code(r#"{"name":"a"}"#).0, "ok");
        assert_eq!(code(r#"{"name":"a","memory_mb":256.0}"#).0, "ok");
        for (body, expected, place) in [
            (r#"{"name":"a",}"#, "malformed_json", "column 13"),
            ("", "malformed_json", "line 1"),
            ("[]", "malformed_json", "object"),
            (r#"{"name":"a","colour":"canary"}"#, "unknown_field", "colour"),
            (r#"{"password":"canary"}"#, "missing_field", "name"),
            (
                r#"{"name":"a","storage_size_gb":"canary"}"#,
                "wrong_type",
                "storage_size_gb",
            ),
            (r#"{"name":"a","password":["canary"]}"#, "wrong_type", "password"),
            (
                r#"{"name":"a","tags":{"x":{"canary":1}}}"#,
                "wrong_type",
                "tags.x",
            ),
            (r#"{"name":"a","memory_mb":1.5}"#, "wrong_type", "memory_mb"),
            (r#"{"name":"a","name":"b"}"#, "duplicate_field", "name"),
            (
                r#"{"name":"a","tags":{"x":"1","x":"canary"}}"#,
                "duplicate_field",
                "x",
            ),
        ] {
            let (code, message) = code(body);
            assert_eq!(code, expected, "{body}");
            assert!(message.contains(place), "{body}: {message}");
            assert!(!message.contains("canary"), "{message}");
        }
    }

    #[test]
    fn the_canonical_form_does_not_depend_on_order_or_spaces() {
        let form = |body: &str| {
            parse::<CreateInstanceRequest>(body.as_bytes())
                .map(|b| b.canonical)
                .ok()
        };
        assert_eq!(
            form(r#"{"name":"a","password":"secret1"}"#),
            form(r#"{ "password":"secret1", "name":"a" }"#)
        );
        assert_ne!(form(r#"{"name":"a"}"#), form(r#"{"name":"b"}"#));
    }
}
