//! Clients that make and delete instances, and that do not give up.

use crate::PATIENCE;
use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::{Operation, OperationState};

/// Longer than the server takes for any answer, so that no answer at all is the server's doing.
const SILENCE: Duration = Duration::from_secs(30);

/// What clients do with a database service, and what became of it.
pub(crate) struct Load {
    /// The servers that are asked, in turn.
    urls: Vec<String>,
    client: reqwest::Client,
    next: AtomicUsize,
    /// How many requests were answered by 503.
    pub(crate) refused: AtomicUsize,
    /// How many requests were not answered.
    pub(crate) unanswered: AtomicUsize,
    /// How many requests were answered: method, route and status.
    answered: Mutex<BTreeMap<String, u64>>,
}

impl Load {
    pub(crate) fn on(urls: Vec<String>) -> Self {
        Self {
            urls,
            client: reqwest::Client::new(),
            next: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            answered: Mutex::default(),
        }
    }

    /// How many requests were answered: method, route and status.
    pub(crate) fn answered(&self) -> BTreeMap<String, u64> {
        self.answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, method: &Method, path: &str, status: StatusCode) {
        let answered = format!("{method} {} {}", route(path), status.as_u16());
        let mut counts = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(answered).or_default() += 1;
    }

    /// Asks until it is answered with anything else than that it can't be done now. What is asked for bears a key, so
    /// that it is done once.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let begun = Instant::now();
        loop {
            let url = &self.urls[self.next.fetch_add(1, Ordering::SeqCst) % self.urls.len()];
            let mut request = self
                .client
                .request(method.clone(), format!("{url}{path}"))
                .timeout(SILENCE);
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let sent = request.send().await;
            if let Ok(answer) = &sent {
                self.count(&method, path, answer.status());
            }
            match sent {
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    let after = answer.headers().get("retry-after");
                    assert!(after.is_some(), "{method} {path}: 503 without Retry-After");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
                Ok(answer) => {
                    let status = answer.status();
                    if let Ok(text) = answer.text().await {
                        assert!(!status.is_server_error(), "{method} {path}: {status}: {text}");
                        return (status, serde_json::from_str(&text).unwrap_or(Value::String(text)));
                    }
                }
                Err(_) => {
                    self.unanswered.fetch_add(1, Ordering::SeqCst);
                }
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{method} {path}: not answered for {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until an operation has ended.
    pub(crate) async fn ended(&self, accepted: &InstanceAccepted) -> Operation {
        let begun = Instant::now();
        let path = format!("/api/operations/{}", accepted.operation.id);
        loop {
            let (status, body) = self.ask(Method::GET, &path, None, None).await;
            assert_eq!(status, StatusCode::OK, "{path}: {body}");
            let operation: Operation = serde_json::from_value(body).unwrap();
            if operation.state.is_terminal() {
                return operation;
            }
            assert!(begun.elapsed() < PATIENCE, "{operation:?} goes on and on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes an instance.
    pub(crate) async fn create(&self, name: &str) -> InstanceAccepted {
        let body = json!({ "name": name, "password": "chaos-secret" });
        let key = format!("create-{name}");
        let (status, body) = self
            .ask(Method::POST, "/api/instances", Some(&key), Some(&body))
            .await;
        assert_eq!(status, StatusCode::ACCEPTED, "{name}: {body}");
        let created: InstanceAccepted = serde_json::from_value(body).unwrap();
        let operation = self.ended(&created).await;
        assert_eq!(
            operation.state,
            OperationState::Succeeded,
            "{name}: {operation:?}"
        );
        created
    }

    /// Deletes one.
    pub(crate) async fn delete(&self, created: &InstanceAccepted) {
        let id = created.instance.id;
        let path = format!("/api/instances/{id}");
        let (status, body) = self.ask(Method::DELETE, &path, None, None).await;
        if status == StatusCode::NOT_FOUND {
            // Nobody else knows it: this is what came of a request whose answer was lost.
            let (_, instance) = self.ask(Method::GET, &path, None, None).await;
            assert_eq!(instance["state"], "deleted", "{id}: {body}");
            return;
        }
        assert_eq!(status, StatusCode::ACCEPTED, "{id}: {body}");
        let deleted: InstanceAccepted = serde_json::from_value(body).unwrap();
        let operation = self.ended(&deleted).await;
        assert_eq!(operation.state, OperationState::Succeeded, "{id}: {operation:?}");
    }

    /// Makes and deletes so many instances, several at the same time. All of it succeeds.
    pub(crate) async fn lives(&self, prefix: &str, count: usize) {
        self.lives_until(prefix, count, &AtomicBool::new(true)).await;
    }

    /// The same, and more of them until that is over; how many it were.
    pub(crate) async fn lives_until(&self, prefix: &str, at_least: usize, over: &AtomicBool) -> usize {
        let numbers = (0..).take_while(|number| *number < at_least || !over.load(Ordering::SeqCst));
        let lives = stream::iter(numbers.map(async |number| {
            let created = self.create(&format!("{prefix}-{number}")).await;
            self.delete(&created).await;
        }));
        lives.buffer_unordered(8).count().await
    }
}

/// The route that answers this path.
fn route(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["", "api", "instances", "bulk", ..] => path.to_owned(),
        ["", "api", "instances", _, rest @ ..] => [&["/api/instances/{name}"], rest].concat().join("/"),
        ["", "api", "operations", _, rest @ ..] => [&["/api/operations/{id}"], rest].concat().join("/"),
        _ => path.to_owned(),
    }
}
