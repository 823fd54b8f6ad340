//! Before every handler: who asks, may it do that, and not too often.

use super::App;
use super::extract::{Who, peer};
use super::guard::current_traceparent;
use super::problem::{Failed, no_method};
use crate::service::Principal;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use toygres_cms::Origin;
use toygres_models::tokens::TokenScope;
use toygres_models::{Error, ErrorKind, TokenId};
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::{OpenApi, RefOr};

/// After so many requests, clients that have been silent are forgotten.
const FORGET_EVERY: u64 = 4096;

/// Whose requests are counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Token(TokenId),
    Address(Option<IpAddr>),
}

type Limiter = RateLimiter<
    Client,
    DefaultKeyedStateStore<Client>,
    MonotonicClock,
    NoOpMiddleware<<MonotonicClock as Clock>::Instant>,
>;

/// What an operation takes.
pub(crate) struct Taken {
    pub(crate) path: String,
    pub(crate) method: Method,
    /// None: nothing.
    pub(crate) scope: Option<TokenScope>,
    has_query: bool,
}

/// What guards the handlers.
pub(crate) struct Gate {
    app: App,
    /// What each operation of the API takes, by path. What is not here is not served.
    operations: HashMap<String, Vec<Taken>>,
    limiter: Limiter,
    asked: AtomicU64,
}

impl Gate {
    /// Reads from the document what each operation takes, so that what is published is what holds.
    pub(crate) fn new(app: App, document: &OpenApi, rate_per_second: NonZeroU32) -> Self {
        let mut operations: HashMap<String, Vec<Taken>> = HashMap::new();
        for taken in taken(document) {
            operations.entry(taken.path.clone()).or_default().push(taken);
        }
        let burst = rate_per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Self {
            app,
            operations,
            limiter: RateLimiter::new(
                Quota::per_second(rate_per_second).allow_burst(burst),
                DefaultKeyedStateStore::default(),
                MonotonicClock,
            ),
            asked: AtomicU64::new(0),
        }
    }

    /// Who asks; refused if it may not, or asks too often.
    async fn admit(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        wanted: TokenScope,
    ) -> Result<Who, Failed> {
        let principal = match bearer(headers) {
            Ok(token) => self.app.identify(token).await,
            Err(error) => Err(error),
        };
        let client = match &principal {
            Ok(Principal { token: Some(id), .. }) => Client::Token(*id),
            _ => Client::Address(peer),
        };
        // Also who is refused.
        self.count(&client)?;
        let principal = principal?;
        if let Some(owner) = &principal.owner {
            tracing::Span::current().record("user_name", owner.as_str());
        }
        if principal.is_anonymous() {
            check_origin(headers)?;
        }
        let who = Who {
            scope: principal.scope,
            token: principal.token,
            origin: Origin {
                actor: principal.actor,
                traceparent: current_traceparent(),
                owner: principal.owner,
            },
        };
        who.require(wanted)?;
        Ok(who)
    }

    fn count(&self, client: &Client) -> Result<(), Failed> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(client).map_err(|not_until| {
            let wait = not_until.wait_time_from(MonotonicClock.now());
            let error = Error::new(ErrorKind::Throttled, "rate_limited", "too many requests")
                .hint("wait as the header Retry-After says; TOYGRES_RATE_LIMIT_PER_SECOND is the limit");
            Failed::from(error).retry_after(wait)
        })
    }
}

/// What each operation of the document takes.
pub(crate) fn taken(document: &OpenApi) -> Vec<Taken> {
    let mut all = Vec::new();
    for (path, item) in &document.paths.paths {
        let operations = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            // Nothing said takes everything: what is open says so.
            let scope = match operation.security.as_deref() {
                Some([requirement]) => requirement_scope(requirement),
                _ => Some(TokenScope::Admin),
            };
            let parameters = operation.parameters.iter().flatten();
            let has_query = parameters
                .into_iter()
                .any(|it| matches!(it, RefOr::T(it) if it.parameter_in == ParameterIn::Query));
            all.push(Taken {
                path: path.clone(),
                method,
                scope,
                has_query,
            });
        }
    }
    all
}

fn requirement_scope(requirement: &utoipa::openapi::security::SecurityRequirement) -> Option<TokenScope> {
    let value = serde_json::to_value(requirement).unwrap_or_default();
    match value.as_object() {
        Some(object) if object.is_empty() => None,
        _ => {
            let word = value["token"][0].as_str().unwrap_or_default();
            Some(word.parse().unwrap_or(TokenScope::Admin))
        }
    }
}

/// The middleware.
pub(crate) async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    if !is_readable(request.uri().path()) || !is_readable(request.uri().query().unwrap_or_default()) {
        let error = Error::new(
            ErrorKind::Malformed,
            "bad_path",
            "the address is not percent-encoded UTF-8, or holds a NUL character",
        );
        return Failed::from(error).into_response();
    }
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return next.run(request).await;
    };
    let known = gate.operations.get(path.as_str()).map_or(&[][..], Vec::as_slice);
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let Some(taken) = known.iter().find(|known| known.method == method) else {
        let allowed: Vec<Method> = known.iter().map(|known| known.method.clone()).collect();
        return no_method(&allowed);
    };
    let Some(wanted) = taken.scope else {
        return next.run(request).await;
    };
    // Else `DELETE ...?dry_run=true` would delete.
    if !taken.has_query && request.uri().query().is_some_and(|query| !query.is_empty()) {
        let error = Error::new(ErrorKind::Malformed, "bad_query", "there is no query string here");
        return Failed::from(error).into_response();
    }
    let peer = peer(request.extensions());
    // The body may not be shared between threads while somebody waits, so it is not lent.
    let headers = request.headers().clone();
    match gate.admit(&headers, peer, wanted).await {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(failed) => failed.into_response(),
    }
}

/// Whether it is what it seems to be once decoded (RFC 3986, section 2.1). No text of toygres may hold a NUL, and the
/// database takes none that does.
fn is_readable(text: &str) -> bool {
    let is_code =
        |rest: &str| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    text.split('%').skip(1).all(is_code)
        && percent_decode_str(text)
            .decode_utf8()
            .is_ok_and(|text| !text.contains('\0'))
}

/// The token of the header `Authorization` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.filter(|token| !token.is_empty()).map(Some).ok_or_else(|| {
        Error::new(
            ErrorKind::Unauthenticated,
            "token_invalid",
            "the header Authorization holds no token",
        )
        .hint("send it as: Authorization: Bearer TOKEN")
    })
}

/// The API is open to this machine. A web page in a browser here must not reach it, neither by a name that its owner
/// points at this machine (`Host`) nor by a request across origins (`Origin`, or where there is none, as for images and
/// links, `Sec-Fetch-Site`).
fn check_origin(headers: &HeaderMap) -> Result<(), Error> {
    let refused = |header: &str| {
        Error::new(
            ErrorKind::Forbidden,
            "origin_refused",
            format!("by its header {header} the request does not come from this machine"),
        )
        .hint("use http://127.0.0.1 or http://localhost")
    };
    // A client of HTTP/1.1 always sends it (RFC 9112, section 3.2).
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        return Err(refused("Host"));
    }
    if headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site")
    {
        return Err(refused("Sec-Fetch-Site"));
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str().ok()) {
        None => Ok(()),
        Some(Some(origin)) if origin_host(origin).is_some_and(is_loopback) => Ok(()),
        Some(_) => Err(refused("Origin")),
    }
}

fn origin_host(origin: &str) -> Option<&str> {
    origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn an_address_is_readable_or_refused() {
        for good in ["", "/api/instances/a%20b", "name=%C3%A4*&tag=x%25", "%e2%82%ac"] {
            assert!(is_readable(good), "{good}");
        }
        for bad in ["%", "%0", "%zz", "a%00b", "%ff", "%c3x", "%+1"] {
            assert!(!is_readable(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_stands_behind_the_word_bearer() {
        let token =
            |value| bearer(&headers(&[("authorization", value)])).map(|token| token.map(str::to_owned));
        assert_eq!(token("Bearer abc").unwrap().as_deref(), Some("abc"));
        assert_eq!(token("bearer abc").unwrap().as_deref(), Some("abc"));
        for bad in ["", "abc", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(token(bad).unwrap_err().code(), "token_invalid", "{bad}");
        }
        assert!(bearer(&headers(&[])).unwrap().is_none());
    }

    #[test]
    fn only_this_machine_is_let_in() {
        for good in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(check_origin(&headers(&[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "127.0.0.1:80:80",
        ] {
            assert!(check_origin(&headers(&[("host", bad)])).is_err(), "{bad}");
        }
        assert!(check_origin(&headers(&[])).is_err());
        let with = |origin| check_origin(&headers(&[("host", "localhost"), ("origin", origin)]));
        assert!(with("http://localhost:3000").is_ok());
        assert!(with("https://localhost:3000").is_ok());
        for bad in ["null", "http://evil.example", "https://evil.example"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    /// As a path, as an address of the server, and as a token.
    fn is_taken_or_refused(text: &str) {
        // What is readable can be decoded, and holds no NUL.
        if is_readable(text) {
            let decoded = percent_decode_str(text).decode_utf8().unwrap();
            assert!(!decoded.contains('\0'));
        }
        let is_this_machine = |host: &str| {
            let parsed: Option<axum::http::uri::Authority> = host.parse().ok();
            parsed.is_some_and(|it| matches!(it.host(), "localhost" | "127.0.0.1" | "[::1]"))
        };
        for (header, prefix) in [("host", ""), ("origin", "http://")] {
            let Ok(value) = HeaderValue::from_str(&format!("{prefix}{text}")) else {
                continue;
            };
            let mut headers = headers(&[("host", "localhost")]);
            headers.insert(header, value);
            if check_origin(&headers).is_ok() {
                assert!(is_this_machine(text), "{header} {text}");
            }
        }
        if let Ok(value) = HeaderValue::from_str(text) {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            match bearer(&headers) {
                Ok(token) => assert!(token.is_some_and(|token| !token.is_empty())),
                Err(error) => assert_eq!(error.code(), "token_invalid"),
            }
        }
    }

    #[test]
    fn fuzz_path_and_headers() {
        bolero::check!().for_each(|bytes: &[u8]| is_taken_or_refused(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_header_or_address_holds_it_is_taken_or_refused(
            any in ".*",
            path in "(/|[.]|%[0-9a-g]{0,2}|[a-z]){0,20}",
            host in r"(localhost|127[.]0[.]0[.]1|\[::1\]|[a-z.@]{0,9})(:[0-9a-z]{0,6})?(@[a-z.]{0,9})?",
            token in r"(?i)(bearer|basic)? *[!-~]{0,9}",
        ) {
            for text in [any, path, host, token] {
                is_taken_or_refused(&text);
            }
        }
    }
}
