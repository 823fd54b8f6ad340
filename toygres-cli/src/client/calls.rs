//! The calls of the API.

use super::{Client, Events, Lines, segment, with_query};
use crate::args::{List, NameOrId};
use crate::failure::{Failure, Result, nearest};
use reqwest::header::{ETAG, IF_MATCH};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use toygres_models::audit::AuditEvent;
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{
    BulkDeleteRequest, BulkResult, Connection, Instance, InstanceAccepted, PatchInstanceRequest,
};
use toygres_models::operations::Operation;
use toygres_models::orchestrations::{
    CancelRequest, Flow, HistoryEvent, Orchestration, OrchestrationDetails, RaiseEventRequest,
};
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::server::{Drift, EffectiveSetting, Probe, ServerHealth, ServerStats, Worker};
use toygres_models::tokens::{ApiToken, CreateTokenRequest, CreatedToken};
use toygres_models::{OperationId, OwnerName};

/// How many names are looked through for one that was meant.
const NAMES_COMPARED: u32 = 1000;
/// Whether the server is ready is asked again soon.
const READINESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Databases.
impl Client {
    /// `key` makes it safe to send the same creation again.
    pub(crate) async fn create(&self, body: &Value, key: &str) -> Result<InstanceAccepted> {
        self.call(Method::POST, "/api/instances", |r| {
            r.json(body).header("idempotency-key", key)
        })
        .await
    }

    pub(crate) async fn create_many(&self, body: &Value) -> Result<Vec<BulkResult>> {
        self.post("/api/instances/bulk", body).await
    }

    pub(crate) async fn list(&self, filter: &List) -> Result<Vec<Instance>> {
        let tag = filter.tag.as_ref().map(|(key, value)| format!("{key}={value}"));
        let query = [
            ("state", filter.state.map(|state| state.to_string())),
            ("health", filter.health.map(|health| health.to_string())),
            ("user_name", filter.user_name.as_ref().map(ToString::to_string)),
            ("tag", tag),
            ("name", filter.filter.clone()),
        ];
        self.read(&with_query("/api/instances", query)).await
    }

    pub(crate) async fn get(&self, name: &NameOrId) -> Result<Instance> {
        self.of_instance(name, Method::GET, "", |r| r).await
    }

    /// Changes the instance, unless somebody else does between the look at it and the change.
    pub(crate) async fn update(&self, name: &NameOrId, change: &PatchInstanceRequest) -> Result<Instance> {
        let path = format!("/api/instances/{}", name.as_str());
        let seen = self.succeed(Method::GET, &path, |r| r).await;
        let seen = match seen {
            Ok(seen) => seen,
            Err(failure) => return Err(self.meant(name, failure).await),
        };
        let changed = self.call(Method::PATCH, &path, |r| match seen.headers.get(ETAG) {
            Some(etag) => r.json(change).header(IF_MATCH, etag),
            None => r.json(change),
        });
        changed.await
    }

    pub(crate) async fn delete(&self, name: &NameOrId) -> Result<InstanceAccepted> {
        self.of_instance(name, Method::DELETE, "", |r| r).await
    }

    pub(crate) async fn delete_many(&self, names: &[NameOrId]) -> Result<Vec<BulkResult>> {
        let names = names.iter().map(|name| name.as_str().to_owned()).collect();
        self.post("/api/instances/bulk/delete", &BulkDeleteRequest { names })
            .await
    }

    pub(crate) async fn connection(&self, name: &NameOrId, reveal: bool) -> Result<Connection> {
        let path = if reveal {
            "/connection?reveal=true"
        } else {
            "/connection"
        };
        self.of_instance(name, Method::GET, path, |r| r).await
    }

    /// What the certificates of instances are checked by, PEM.
    pub(crate) async fn certificate_authority(&self) -> Result<String> {
        let answer = self
            .succeed(Method::GET, "/api/certificate-authority", |r| r)
            .await?;
        String::from_utf8(answer.body).map_err(|_| self.foreign("its certificate is no text"))
    }

    /// Everything that happened to it, oldest first.
    pub(crate) async fn events(&self, name: &NameOrId) -> Result<Vec<InstanceEvent>> {
        let path = format!("/api/instances/{}/events", name.as_str());
        match self.rest(&path, |event: &InstanceEvent| event.id).await {
            Ok(events) => Ok(events),
            Err(failure) => Err(self.meant(name, failure).await),
        }
    }

    /// The last checks, newest first.
    pub(crate) async fn health_checks(&self, name: &NameOrId, limit: u32) -> Result<Vec<HealthCheck>> {
        self.of_instance(name, Method::GET, &format!("/health?limit={limit}"), |r| r)
            .await
    }

    pub(crate) async fn instance_log(&self, name: &NameOrId, tail: u32, follow: bool) -> Result<Lines> {
        let follow = if follow { "&follow=true" } else { "" };
        let path = format!("/api/instances/{}/logs?tail={tail}{follow}", name.as_str());
        match self.open_lines(&path).await {
            Ok(lines) => Ok(lines),
            Err(failure) => Err(self.meant(name, failure).await),
        }
    }

    /// What happens to one instance or to all, after the event with the id `last`, else from now on.
    pub(crate) async fn follow_events(&self, name: Option<&NameOrId>, last: Option<i64>) -> Result<Events> {
        let instance = name.map(|name| name.as_str().to_owned());
        let path = with_query("/api/events", [("instance", instance)]);
        self.open_events(&path, last).await
    }

    async fn of_instance<T: DeserializeOwned>(
        &self,
        name: &NameOrId,
        method: Method,
        path: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        let path = format!("/api/instances/{}{path}", name.as_str());
        match self.call(method, &path, prepare).await {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.meant(name, failure).await),
        }
    }

    /// To a name that nobody has, adds the one that was meant.
    async fn meant(&self, name: &NameOrId, failure: Failure) -> Failure {
        if failure.code.as_deref() != Some("instance_not_found") {
            return failure;
        }
        let known: Vec<Instance> = self
            .pages("/api/instances", NAMES_COMPARED)
            .await
            .unwrap_or_default();
        match nearest(name.as_str(), known.iter().map(|instance| instance.name.as_str())) {
            Some(meant) => failure.next(format!("did you mean {meant}?")),
            None => failure,
        }
    }
}

/// Operations.
impl Client {
    /// Newest first.
    pub(crate) async fn operations(
        &self,
        query: impl IntoIterator<Item = (&'static str, Option<String>)>,
        limit: u32,
    ) -> Result<Vec<Operation>> {
        self.pages(&with_query("/api/operations", query), limit).await
    }

    pub(crate) async fn operation(&self, id: OperationId) -> Result<Operation> {
        self.read(&format!("/api/operations/{id}")).await
    }

    pub(crate) async fn follow_operation(&self, id: OperationId) -> Result<Events> {
        self.open_events(&format!("/api/operations/{id}/events"), None)
            .await
    }

    pub(crate) async fn retry_operation(&self, id: OperationId) -> Result<InstanceAccepted> {
        self.call(Method::POST, &format!("/api/operations/{id}/retry"), |r| r)
            .await
    }
}

/// Tokens, quotas, audit.
impl Client {
    pub(crate) async fn tokens(&self) -> Result<Vec<ApiToken>> {
        self.read("/api/tokens").await
    }

    pub(crate) async fn create_token(&self, request: &CreateTokenRequest) -> Result<CreatedToken> {
        self.post("/api/tokens", request).await
    }

    pub(crate) async fn revoke_token(&self, name: &str) -> Result<ApiToken> {
        self.call(Method::DELETE, &format!("/api/tokens/{}", segment(name)), |r| r)
            .await
    }

    pub(crate) async fn quotas(&self) -> Result<Vec<Quota>> {
        self.read("/api/quotas").await
    }

    pub(crate) async fn set_quota(&self, owner: &OwnerName, limits: QuotaLimits) -> Result<Quota> {
        self.call(Method::PUT, &format!("/api/quotas/{owner}"), |r| r.json(&limits))
            .await
    }

    pub(crate) async fn remove_quota(&self, owner: &OwnerName) -> Result<()> {
        self.succeed(Method::DELETE, &format!("/api/quotas/{owner}"), |r| r)
            .await
            .map(|_| ())
    }

    /// Newest first.
    pub(crate) async fn audit(
        &self,
        query: impl IntoIterator<Item = (&'static str, Option<String>)>,
        limit: u32,
    ) -> Result<Vec<AuditEvent>> {
        self.pages(&with_query("/api/audit", query), limit).await
    }
}

/// The server.
impl Client {
    pub(crate) async fn server_health(&self) -> Result<ServerHealth> {
        let answer = self.exchange(&Method::GET, "/health", &|r| r).await?;
        self.decode(&answer.body)
    }

    /// Whether the server is ready. The answer is the same document when it is not, with status 503.
    pub(crate) async fn readiness(&self) -> Result<Probe> {
        let answer = self
            .exchange(&Method::GET, "/readyz", &|r| r.timeout(READINESS_TIMEOUT))
            .await?;
        self.decode(&answer.body)
    }

    pub(crate) async fn stats(&self) -> Result<ServerStats> {
        self.read("/api/server/stats").await
    }

    pub(crate) async fn workers(&self) -> Result<Vec<Worker>> {
        self.read("/api/server/workers").await
    }

    pub(crate) async fn settings(&self) -> Result<Vec<EffectiveSetting>> {
        self.read("/api/server/config").await
    }

    /// The last lines of the server's log, each an object.
    pub(crate) async fn server_log(&self, tail: usize) -> Result<Vec<Value>> {
        self.read(&format!("/api/server/logs?tail={tail}")).await
    }

    pub(crate) async fn drift(&self) -> Result<Vec<Drift>> {
        self.read("/api/server/drift").await
    }

    pub(crate) async fn fix_drift(&self, id: i64) -> Result<Drift> {
        self.call(Method::POST, &format!("/api/server/drift/{id}/fix"), |r| r)
            .await
    }
}

/// Orchestrations.
impl Client {
    pub(crate) async fn orchestrations(
        &self,
        query: impl IntoIterator<Item = (&'static str, Option<String>)>,
        limit: u32,
    ) -> Result<Vec<Orchestration>> {
        self.pages(&with_query("/api/server/orchestrations", query), limit)
            .await
    }

    pub(crate) async fn orchestration(&self, id: &str) -> Result<OrchestrationDetails> {
        self.read(&of_orchestration(id, "")).await
    }

    /// The history of an execution, the last one if none is named.
    pub(crate) async fn history(&self, id: &str, execution: Option<u64>) -> Result<Vec<HistoryEvent>> {
        let execution = execution.map(|number| number.to_string());
        let path = with_query(&of_orchestration(id, "/history"), [("execution", execution)]);
        self.rest(&path, |event: &HistoryEvent| event.event_id).await
    }

    pub(crate) async fn cancel(&self, id: &str, reason: Option<String>) -> Result<()> {
        self.tell(&of_orchestration(id, "/cancel"), &CancelRequest { reason })
            .await
    }

    pub(crate) async fn raise_event(&self, id: &str, event: &str) -> Result<()> {
        let name = event.to_owned();
        self.tell(&of_orchestration(id, "/raise-event"), &RaiseEventRequest { name })
            .await
    }

    /// The id of what was begun.
    pub(crate) async fn recreate(&self, id: &str) -> Result<String> {
        let path = of_orchestration(id, "/recreate");
        let answer: Value = self.call(Method::POST, &path, |r| r).await?;
        match answer["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(self.foreign("its answer holds no id")),
        }
    }

    pub(crate) async fn flows(&self) -> Result<Vec<Flow>> {
        self.read("/api/server/orchestration-flows").await
    }

    pub(crate) async fn flow(&self, name: &str) -> Result<Flow> {
        self.read(&format!("/api/server/orchestration-flows/{}", segment(name)))
            .await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, path, |r| r.json(body)).await
    }

    /// A request of whose answer only the success counts.
    async fn tell(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.succeed(Method::POST, path, |r| r.json(body))
            .await
            .map(|_| ())
    }
}

fn of_orchestration(id: &str, path: &str) -> String {
    format!("/api/server/orchestrations/{}{path}", segment(id))
}
