//! A whole toygres server inside the test process: real HTTP, real database, real instances.

use crate::{TestDatabase, TestHome, wait_for};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use toygres_engine::Interceptor;
use toygres_models::instances::{Connection, InstanceAccepted};
use toygres_models::operations::Operation;
use toygres_platform::Platform;
use toygres_server::Parts;
use toygres_server::config::{ConfigOverrides, ServerConfig};

/// How long a test waits for an operation. Far more than it takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a free port, with a home and a database of its own.
pub struct TestServer {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    /// Its control database.
    pub database_url: String,
    /// Its home; what it started goes with it.
    pub home: Arc<TestHome>,
    /// The token that requests are sent with, if there is one.
    pub token: Option<String>,
    client: reqwest::Client,
    stop: CancellationToken,
    task: JoinHandle<toygres_models::Result<()>>,
}

/// What to start.
pub struct TestServerOptions {
    /// The control database; none: a new one.
    pub database_url: Option<String>,
    /// The home; none: a new one.
    pub home: Option<Arc<TestHome>>,
    /// More settings, as in the environment.
    pub settings: Vec<(String, String)>,
    /// The platform; none: real processes in the home.
    pub platform: Option<Arc<dyn Platform>>,
    /// What stands before every activity.
    pub interceptor: Option<Arc<dyn Interceptor>>,
}

impl TestServer {
    /// Starts one with the defaults.
    pub async fn start() -> Self {
        Self::start_with(TestServerOptions::default()).await
    }

    /// Starts one and waits until it is ready.
    pub async fn start_with(options: TestServerOptions) -> Self {
        Self::try_start_with(options).await.expect("the server starts")
    }

    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn try_start_with(options: TestServerOptions) -> toygres_models::Result<Self> {
        let database_url = match options.database_url {
            Some(url) => url,
            None => TestDatabase::new().await.url,
        };
        let home = options.home.unwrap_or_else(|| Arc::new(TestHome::new()));
        let mut settings = vec![
            ("TOYGRES_HOME".to_owned(), home.path().display().to_string()),
            ("DATABASE_URL".to_owned(), database_url.clone()),
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            // Tests ask as often as they can.
            ("TOYGRES_RATE_LIMIT_PER_SECOND".to_owned(), "1000000".to_owned()),
        ];
        settings.extend(options.settings);
        let variable = |name: &str| {
            settings
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        let config = ServerConfig::read(ConfigOverrides::default(), &variable)?;
        let listener = TcpListener::bind((config.listen.ip(), 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("http://127.0.0.1:{port}");
        let stop = CancellationToken::new();
        let task = tokio::spawn(toygres_server::run_with(
            config,
            listener,
            stop.clone(),
            Parts {
                platform: options.platform,
                interceptor: options.interceptor,
            },
        ));
        let mut server = Self {
            url,
            database_url,
            home,
            token: None,
            client: reqwest::Client::new(),
            stop,
            task,
        };
        let ready = wait_for("the server", PATIENCE, || async {
            if server.task.is_finished() {
                return Some(false);
            }
            let answer = server.request(Method::GET, "/readyz").send().await.ok()?;
            answer.status().is_success().then_some(true)
        })
        .await;
        if !ready {
            let ended = (&mut server.task).await.expect("no panic");
            return Err(ended.expect_err("it ended while it started"));
        }
        Ok(server)
    }

    /// A request to it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(self.token.as_deref(), method, path)
    }

    /// A request to it with another token, or none.
    pub fn request_as(&self, token: Option<&str>, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The status and JSON of a GET.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    /// The status and JSON of a POST.
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// The status and JSON of a DELETE.
    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Asks for an instance.
    pub async fn create(&self, name: &str, password: &str) -> InstanceAccepted {
        let body = serde_json::json!({ "name": name, "password": password });
        let (status, body) = self.post("/api/instances", &body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        serde_json::from_value(body).expect("an accepted instance")
    }

    /// Asks for an instance's deletion.
    pub async fn request_delete(&self, name: &str) -> InstanceAccepted {
        let (status, body) = self.delete(&format!("/api/instances/{name}")).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        serde_json::from_value(body).expect("an accepted deletion")
    }

    /// Waits until an operation has ended.
    pub async fn ended(&self, accepted: &InstanceAccepted) -> Operation {
        let path = format!("/api/operations/{}", accepted.operation.id);
        wait_for("the operation's end", PATIENCE, || async {
            let (status, body) = self.get(&path).await;
            if status != StatusCode::OK {
                return None;
            }
            let operation: Operation = serde_json::from_value(body).expect("an operation");
            operation.state.is_terminal().then_some(operation)
        })
        .await
    }

    /// How to connect to an instance, with the password.
    pub async fn connection(&self, name: &str) -> Connection {
        let (status, body) = self
            .get(&format!("/api/instances/{name}/connection?reveal=true"))
            .await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).expect("a connection")
    }

    /// Stops it as a signal would, and waits until it has ended.
    pub async fn stop(self) -> (String, Arc<TestHome>) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
        (self.database_url, self.home)
    }
}

impl Default for TestServerOptions {
    /// Local instances, checked every second.
    fn default() -> Self {
        let settings = [("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "1")];
        let settings = settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        Self {
            database_url: None,
            home: None,
            settings,
            platform: None,
            interceptor: None,
        }
    }
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
