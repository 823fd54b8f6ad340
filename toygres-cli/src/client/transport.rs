//! Requests, time limits, repetitions, problem documents.

use super::paths::next_page;
use crate::args::Chosen;
use crate::config::{Access, DEFAULT_API_URL};
use crate::failure::{Exit, Failure, Result};
use crate::printer::note;
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;
use toygres_models::Secret;
use toygres_models::problem::Problem;
use toygres_models::server::SettingOrigin;
use toygres_telemetry::trace::TraceParent;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const LOCAL_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A request whose answer was lost on the way is sent so often, if it can be repeated.
const ATTEMPTS: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A request that the server wants later is sent again so often.
const THROTTLED_RETRIES: u32 = 3;
/// Nobody waits longer for that without being asked.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The most rows that the server gives at once.
const PAGE_ROWS: u32 = 1000;

pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
    timeout: Duration,
}

/// An answer in whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// The address of an API, if it is one.
pub(crate) fn parse_url(api_url: &str) -> Result<Url> {
    // It may hold a password.
    let shown = match api_url.contains('@') {
        true => "what was given".to_owned(),
        false => format!("{api_url:?}"),
    };
    let wrong = |why: &str| {
        Failure::new(Exit::Usage, format!("{shown} is no address of an API"))
            .why(why)
            .next(format!("set TOYGRES_API_URL to something like {DEFAULT_API_URL}"))
    };
    let url = Url::parse(api_url).map_err(|cause| wrong(&cause.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must hold neither user nor password: use TOYGRES_TOKEN"));
    }
    Ok(url)
}

impl Client {
    pub(crate) fn new(access: Access, timeout: Duration) -> Result<Self> {
        Self::build(access, timeout, reqwest::Client::builder())
    }

    fn build(access: Access, timeout: Duration, http: reqwest::ClientBuilder) -> Result<Self> {
        let base = parse_url(&access.api_url.value)?;
        let mut http = http
            .user_agent(concat!("toygres/", env!("CARGO_PKG_VERSION")))
            .default_headers(trace())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            // A log may be silent for days: the network tells whether its server is there.
            .tcp_keepalive(KEEPALIVE);
        if let Some(file) = &access.ca_cert {
            http = http.tls_certs_merge(certificates(&file.value)?);
        }
        // A proxy that is set for the Internet can't reach this machine's own loopback.
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|cause| Failure::failed("requests can't be made").why(root_cause(&cause)))?;
        Ok(Self {
            http,
            base,
            token: access.token.map(|token| token.value),
            timeout,
        })
    }

    /// The server of this machine, asked only what it tells everybody. Its certificate is for the name by which others
    /// know it, which is not asked for here: nothing secret is sent.
    pub(crate) fn local(url: String) -> Result<Self> {
        let access = Access {
            context: None,
            api_url: Chosen {
                value: url,
                origin: SettingOrigin::Default,
            },
            token: None,
            ca_cert: None,
        };
        let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
        Self::build(access, LOCAL_TIMEOUT, http)
    }

    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, |r| r).await
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        self.decode(&self.succeed(method, path, prepare).await?.body)
    }

    /// Up to `limit` rows, page by page.
    pub(super) async fn pages<T: DeserializeOwned>(&self, path: &str, limit: u32) -> Result<Vec<T>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut rows: Vec<T> = Vec::new();
        let mut page = Some(format!("{path}{separator}limit={}", limit.min(PAGE_ROWS)));
        let limit = limit as usize;
        while let Some(path) = page.take_if(|_| rows.len() < limit) {
            let answer = self.succeed(Method::GET, &path, |r| r).await?;
            rows.extend(self.decode::<Vec<T>>(&answer.body)?);
            page = next_page(&answer.headers);
        }
        rows.truncate(limit);
        Ok(rows)
    }

    /// All rows of a list that goes on after the id of its last one, oldest first.
    pub(super) async fn rest<T: DeserializeOwned>(
        &self,
        path: &str,
        id: impl Fn(&T) -> i64,
    ) -> Result<Vec<T>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut rows: Vec<T> = Vec::new();
        loop {
            let after = rows.last().map(|last| format!("&after={}", id(last)));
            let after = after.unwrap_or_default();
            let page: Vec<T> = self
                .read(&format!("{path}{separator}limit={PAGE_ROWS}{after}"))
                .await?;
            let is_last = page.len() < PAGE_ROWS as usize;
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }

    /// An answer that is a success.
    pub(super) async fn succeed(
        &self,
        method: Method,
        path: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer> {
        let mut throttled = 0;
        loop {
            let answer = self.exchange(&method, path, &prepare).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            let failure = self.problem(answer.status, &answer.body);
            if answer.status != StatusCode::TOO_MANY_REQUESTS {
                return Err(failure);
            }
            let pause = retry_after(&answer.headers);
            if throttled == THROTTLED_RETRIES || pause > LONGEST_RETRY_AFTER {
                return Err(failure
                    .why(format!(
                        "the server wants it {} s later; it was asked {} times",
                        pause.as_secs(),
                        throttled + 1
                    ))
                    .next("wait, then run it again"));
            }
            throttled += 1;
            note(&format!(
                "{}; asking again in {} s",
                failure.message,
                pause.as_secs()
            ));
            tokio::time::sleep(pause).await;
        }
    }

    /// An answer, whatever it says. What can be repeated is, if the answer was lost on the way.
    pub(super) async fn exchange(
        &self,
        method: &Method,
        path: &str,
        prepare: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            let request = self.request(method, path).timeout(self.timeout);
            let request = prepare(request)
                .build()
                .map_err(|cause| Failure::failed("the request can't be made").why(root_cause(&cause)))?;
            let repeatable = matches!(*method, Method::GET | Method::PUT | Method::DELETE)
                || request.headers().contains_key("idempotency-key");
            let answer = async {
                let response = self.http.execute(request).await?;
                Ok(Answer {
                    status: response.status(),
                    headers: response.headers().clone(),
                    body: response.bytes().await?.to_vec(),
                })
            };
            match answer.await {
                Ok(answer) => return Ok(answer),
                Err(cause) if repeatable && lost(&cause) && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(cause) => return Err(self.unreachable(&cause)),
            }
        }
    }

    /// An answer that comes bit by bit, without an end in time.
    pub(super) async fn open(
        &self,
        path: &str,
        prepare: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let answer = async {
            let response = prepare(self.request(&Method::GET, path)).send().await?;
            let status = response.status();
            Ok(if status.is_success() {
                Ok(response)
            } else {
                Err((status, response.bytes().await?))
            })
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Ok(Err((status, body)))) => Err(self.problem(status, &body)),
            Ok(Err(cause)) => Err(self.unreachable(&cause)),
            Err(_) => Err(self.silent()),
        }
    }

    fn request(&self, method: &Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base()));
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body)
            .map_err(|cause| self.foreign(&format!("its answer can't be read: {cause}")))
    }

    /// What the server says is wrong, and what to do about it here.
    fn problem(&self, status: StatusCode, body: &[u8]) -> Failure {
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            return self.foreign(&format!("it answers {status}"));
        };
        let failure = Failure::from(problem);
        match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => failure
                .next("or write it down: toygres context add NAME --api-url URL --token-stdin")
                .next("the first one, on the server's own machine: toygres server bootstrap-token"),
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                failure.next("where the token comes from: toygres server config")
            }
            (StatusCode::FORBIDDEN, Some(_)) if failure.next.is_empty() => {
                failure.next("use a token that allows it: toygres token list")
            }
            _ => failure,
        }
    }

    fn unreachable(&self, cause: &reqwest::Error) -> Failure {
        if cause.is_timeout() {
            return self.silent();
        }
        let failure = Failure::new(
            Exit::Unreachable,
            format!("the server at {} can't be reached", self.base()),
        )
        .why(root_cause(cause))
        .passing();
        if self.base.scheme() == "http" && !cause.is_connect() {
            return failure.next("if it wants TLS: an address that begins with https://");
        }
        if is_loopback(&self.base) && self.base.scheme() == "http" {
            return failure.next("toygres server start");
        }
        let failure =
            failure.next("check the address, and that the server runs there: toygres server config");
        if self.base.scheme() == "https" {
            return failure
                .next("if its certificate is your own authority's: --ca-cert FILE")
                .next("if it does no TLS: an address that begins with http://");
        }
        failure
    }

    /// The server did not answer in time.
    fn silent(&self) -> Failure {
        let failure = Failure::new(
            Exit::Unreachable,
            format!("the server at {} does not answer in time", self.base()),
        )
        .why(format!("it had {} s", self.timeout.as_secs()))
        .passing();
        if is_loopback(&self.base) {
            failure.next("toygres server status")
        } else {
            failure.next("check the address, and that the server runs there: toygres server config")
        }
    }

    pub(super) fn foreign(&self, why: &str) -> Failure {
        Failure::failed(format!(
            "what listens at {} does not speak toygres' API",
            self.base()
        ))
        .why(why)
        .next("check TOYGRES_API_URL; the versions of both sides: toygres version")
    }
}

/// All requests of a command belong to one trace, whether or not the command's own part of it is kept anywhere.
fn trace() -> HeaderMap {
    let here = TraceParent::current().unwrap_or_else(|| TraceParent::of(rand::random(), rand::random()));
    let value = here.header().parse().ok();
    value
        .map(|value| (HeaderName::from_static("traceparent"), value))
        .into_iter()
        .collect()
}

fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    let wrong = |cause: &dyn std::error::Error| {
        Failure::new(
            Exit::Usage,
            format!("the certificates in {} can't be used", file.display()),
        )
        .why(root_cause(cause))
        .next("--ca-cert and TOYGRES_CA_CERT name a PEM file")
    };
    let pem = std::fs::read(file).map_err(|cause| wrong(&cause))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|cause| wrong(&cause))?;
    if certificates.is_empty() {
        return Err(wrong(&std::io::Error::other("there is no certificate in it")));
    }
    Ok(certificates)
}

/// The pause that a server that is asked too much wants; some seconds if it does not say.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// The connection broke after the request was sent: it may have been served.
fn lost(cause: &reqwest::Error) -> bool {
    !cause.is_connect() && !cause.is_timeout() && !cause.is_builder()
}

/// Whether what is sent there stays on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
