//! What handlers take from a request. What can't be read is refused here, and never shown again: a value in the
//! wrong place may be a password.

use super::problem::Failed;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toygres_cms::Origin;
use toygres_models::instances::CreateInstanceRequest;
use toygres_models::{Error, ErrorKind};

/// A field of a body: its name, what it must be, whether it must be there.
type Field = (&'static str, &'static str, bool);

/// A body that can be read.
pub(crate) trait Body: DeserializeOwned {
    const FIELDS: &'static [Field];
}

impl Body for CreateInstanceRequest {
    const FIELDS: &'static [Field] = &[
        ("name", "a string", true),
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
    ];
}

/// A JSON body, with a form that is the same for the same content.
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) canonical: Vec<u8>,
}

impl<S: Send + Sync, T: Body> FromRequest<S> for JsonBody<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let is_json = request
            .headers()
            .get(axum::http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| {
                value
                    .split(';')
                    .next()
                    .unwrap_or("")
                    .trim()
                    .eq_ignore_ascii_case("application/json")
            });
        // Also keeps web forms out, which a page could send across origins without asking.
        if !is_json {
            return Err(malformed("not_json", "the body must be JSON")
                .hint("send the header: Content-Type: application/json")
                .into());
        }
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                    Error::new(
                        ErrorKind::TooLarge,
                        "body_too_large",
                        "the body is larger than 64 KiB",
                    )
                } else {
                    malformed("body_unreadable", "the body did not arrive whole")
                }
            })?;
        Ok(parse(&bytes)?)
    }
}

fn malformed(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, code, message)
}

fn parse<T: Body>(bytes: &[u8]) -> Result<JsonBody<T>, Error> {
    let value: Value = serde_json::from_slice(bytes).map_err(|why| {
        malformed(
            "malformed_json",
            format!(
                "the body is not valid JSON: look at line {}, column {}",
                why.line(),
                why.column()
            ),
        )
    })?;
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

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(malformed("bad_query", "the query string can't be read")
                .context(rejection.body_text())
                .hint("check the names and values behind the ?")
                .into()),
        }
    }
}

/// Who asks.
pub(crate) struct Who(pub(crate) Origin);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Failed;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Failed> {
        Ok(Self(Origin {
            actor: "loopback".to_owned(),
            trace_id: Some(super::guard::trace_id()),
        }))
    }
}

/// The `Idempotency-Key` header.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        match value.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => Err(malformed(
                "bad_idempotency_key",
                "the Idempotency-Key must be 1 to 255 visible ASCII characters",
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> (String, String) {
        match parse::<CreateInstanceRequest>(body.as_bytes()) {
            Ok(_) => ("ok".into(), String::new()),
            Err(error) => (error.code().to_owned(), error.message().to_owned()),
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_shown() {
        assert_eq!(code(r#"{"name":"a"}"#).0, "ok");
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
