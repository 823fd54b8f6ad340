//! The typed client of the API: requests, time limits, problem documents.

use crate::args::{List, NameOrId};
use crate::failure::{Exit, Failure, Result};
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use std::time::Duration;
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{Connection, Instance, InstanceAccepted};
use toygres_models::operations::Operation;
use toygres_models::problem::Problem;
use toygres_models::server::{Probe, ServerHealth};
use toygres_models::{OperationId, Secret};

/// Where the API is if nothing says otherwise.
pub(crate) const DEFAULT_API_URL: &str = "http://127.0.0.1:8080";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server itself gives up on a request after 15 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A request whose answer was lost on the way is sent so often. All requests can be repeated: a creation by its key.
const ATTEMPTS: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
}

impl Client {
    pub(crate) fn new(api_url: &str, token: Option<Secret>) -> Result<Self> {
        let wrong = |why: &str| {
            Failure::new(Exit::Usage, format!("{api_url:?} is no address of an API"))
                .why(why)
                .next(format!("set TOYGRES_API_URL to something like {DEFAULT_API_URL}"))
        };
        let base = Url::parse(api_url).map_err(|cause| wrong(&cause.to_string()))?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(wrong("it must begin with http://"));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("toygres/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT);
        // A proxy that is set for the Internet can't reach this machine's own loopback.
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|cause| wrong(&root_cause(&cause)))?;
        Ok(Self { http, base, token })
    }

    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `key` makes it safe to send the same creation again.
    pub(crate) async fn create(&self, body: &serde_json::Value, key: &str) -> Result<InstanceAccepted> {
        self.call(Method::POST, "/api/instances", |r| {
            r.json(body).header("idempotency-key", key)
        })
        .await
    }

    pub(crate) async fn list(&self, filter: &List) -> Result<Vec<Instance>> {
        let state = filter.state.map(|state| ("state", state.as_str()));
        let health = filter.health.map(|health| ("health", health.as_str()));
        let query: Vec<_> = state.into_iter().chain(health).collect();
        self.call(Method::GET, "/api/instances", |r| r.query(&query))
            .await
    }

    pub(crate) async fn get(&self, name: &NameOrId) -> Result<Instance> {
        self.read(&format!("/api/instances/{}", name.as_str())).await
    }

    pub(crate) async fn delete(&self, name: &NameOrId) -> Result<InstanceAccepted> {
        self.call(
            Method::DELETE,
            &format!("/api/instances/{}", name.as_str()),
            |r| r,
        )
        .await
    }

    pub(crate) async fn connection(&self, name: &str, reveal: bool) -> Result<Connection> {
        let query = if reveal { "?reveal=true" } else { "" };
        self.read(&format!("/api/instances/{name}/connection{query}"))
            .await
    }

    pub(crate) async fn events(&self, name: &NameOrId) -> Result<Vec<InstanceEvent>> {
        self.read(&format!("/api/instances/{}/events", name.as_str()))
            .await
    }

    pub(crate) async fn health_checks(&self, name: &NameOrId) -> Result<Vec<HealthCheck>> {
        self.read(&format!("/api/instances/{}/health", name.as_str()))
            .await
    }

    pub(crate) async fn operations(&self) -> Result<Vec<Operation>> {
        self.read("/api/operations").await
    }

    pub(crate) async fn operation(&self, id: OperationId) -> Result<Operation> {
        self.read(&format!("/api/operations/{id}")).await
    }

    pub(crate) async fn server_health(&self) -> Result<ServerHealth> {
        let (_, body) = self.send(Method::GET, "/health", &|r| r).await?;
        self.decode(&body)
    }

    /// Whether the server is ready. The answer is the same document when it is not, with status 503.
    pub(crate) async fn readiness(&self) -> Result<Probe> {
        let (_, body) = self
            .send(Method::GET, "/readyz", &|r| r.timeout(Duration::from_secs(5)))
            .await?;
        self.decode(&body)
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, |r| r).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        let (status, body) = self.send(method, path, &prepare).await?;
        if status.is_success() {
            return self.decode(&body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(self.foreign(&format!("it answers {status}"))),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        prepare: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<(reqwest::StatusCode, Vec<u8>)> {
        let mut attempt = 1;
        loop {
            let mut request = self
                .http
                .request(method.clone(), format!("{}{path}", self.base()));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token.reveal());
            }
            let answer = async {
                let response = prepare(request).send().await?;
                Ok((response.status(), response.bytes().await?.to_vec()))
            };
            match answer.await {
                Ok(answer) => return Ok(answer),
                Err(cause) if lost(&cause) && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(cause) => return Err(self.unreachable(&cause)),
            }
        }
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body)
            .map_err(|cause| self.foreign(&format!("its answer can't be read: {cause}")))
    }

    fn unreachable(&self, cause: &reqwest::Error) -> Failure {
        let failure = if cause.is_timeout() {
            Failure::new(
                Exit::Unreachable,
                format!("the server at {} does not answer in time", self.base()),
            )
        } else {
            Failure::new(
                Exit::Unreachable,
                format!("the server at {} can't be reached", self.base()),
            )
            .why(root_cause(cause))
        };
        let next = if is_loopback(&self.base) && cause.is_timeout() {
            "toygres server status"
        } else if is_loopback(&self.base) {
            "toygres server start"
        } else {
            "check TOYGRES_API_URL, and that the server runs there"
        };
        failure.next(next).passing()
    }

    fn foreign(&self, why: &str) -> Failure {
        Failure::failed(format!(
            "what listens at {} does not speak toygres' API",
            self.base()
        ))
        .why(why)
        .next("check TOYGRES_API_URL; the versions of both sides: toygres version")
    }
}

/// The connection broke after the request was sent: it may have been served.
fn lost(cause: &reqwest::Error) -> bool {
    !cause.is_connect() && !cause.is_timeout() && !cause.is_builder()
}

fn is_loopback(url: &Url) -> bool {
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
