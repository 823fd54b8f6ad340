//! What the modules share: servers without processes, the served document, problem documents, rows, logs.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use toygres_testing::{StubPlatform, TestDatabase, TestServer, TestServerOptions};
use tracing_subscriber::EnvFilter;

/// Health checks are far apart, so that nothing happens that the test did not ask for.
const RARELY: (&str, &str) = ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "3600");

/// A server on a platform without processes, with workers.
pub(crate) async fn stub(settings: &[(&str, &str)]) -> (TestServer, Arc<StubPlatform>) {
    logs();
    let database_url = TestDatabase::new().await.url;
    let platform = StubPlatform::new(&database_url);
    let options = TestServerOptions {
        database_url: Some(database_url),
        settings: owned(settings),
        platform: Some(platform.clone()),
        ..Default::default()
    };
    (TestServer::start_with(options).await, platform)
}

/// The API alone: what is asked for is written down, and nobody does it.
pub(crate) async fn api(settings: &[(&str, &str)]) -> TestServer {
    stub(&[&[("TOYGRES_MODE", "api")], settings].concat()).await.0
}

pub(crate) fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let all = [RARELY].into_iter().chain(settings.iter().copied());
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Everything that this process has logged, also at the finest level.
pub(crate) fn logs() -> String {
    static LOGS: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let logs = LOGS.get_or_init(|| {
        let logs = Arc::new(Mutex::new(Vec::new()));
        let writer = logs.clone();
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("toygres=trace,sqlx=debug,hyper=trace,tower=trace"))
            .with_ansi(false)
            .with_writer(move || Writer(writer.clone()))
            .init();
        logs
    });
    String::from_utf8_lossy(&logs.lock().unwrap()).into_owned()
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One operation of the document.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// With its variables, such as `/api/instances/{name}`.
    pub(crate) template: String,
    /// What it takes; none: nothing.
    pub(crate) scope: Option<String>,
    parameters: Vec<Value>,
    body: Value,
}

impl Operation {
    /// Its path with this in place of every variable.
    pub(crate) fn path(&self, value: &str) -> String {
        match self.template.split_once('{') {
            Some((before, rest)) => format!("{before}{value}{}", rest.split_once('}').unwrap().1),
            None => self.template.clone(),
        }
    }

    pub(crate) fn has_variable(&self) -> bool {
        self.template.contains('{')
    }

    pub(crate) fn changes(&self) -> bool {
        self.method != Method::GET
    }

    pub(crate) fn is(&self, method: &str, template: &str) -> bool {
        self.method == method && self.template == template
    }

    /// Its parameters of this place, such as `query`.
    pub(crate) fn parameters(&self, place: &str) -> impl Iterator<Item = &Value> {
        self.parameters
            .iter()
            .filter(move |parameter| parameter["in"] == place)
    }

    /// The schema of its body, if it takes one.
    pub(crate) fn body_schema(&self) -> Option<&Value> {
        let content = self.body["content"].as_object()?;
        Some(&content["application/json"]["schema"])
    }

    /// The body that the document shows.
    pub(crate) fn body_example(&self) -> Value {
        self.body["content"]["application/json"]["example"].clone()
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.template)
    }
}

/// The document that the server serves.
pub(crate) async fn document(server: &TestServer) -> Value {
    let (status, document) = server.get("/api/openapi.json").await;
    assert_eq!(status, 200);
    document
}

/// Every operation of it.
pub(crate) fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            if operation["responses"].is_null() {
                continue;
            }
            let security = &operation["security"][0];
            assert!(
                security.is_object(),
                "{method} {template} does not say what it takes"
            );
            all.push(Operation {
                method,
                template: template.clone(),
                scope: security["token"][0].as_str().map(str::to_owned),
                parameters: operation["parameters"].as_array().cloned().unwrap_or_default(),
                body: operation["requestBody"].clone(),
            });
        }
    }
    assert!(all.len() > 30, "the document is empty: {}", all.len());
    all
}

/// The answer as a problem document, once it is sure that it is one.
pub(crate) async fn problem(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let header = |name: &str| {
        let value = answer.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let (kind, trace_id) = (header("content-type"), header("x-trace-id"));
    let text = answer.text().await.unwrap();
    assert_eq!(
        kind.as_deref(),
        Some("application/problem+json"),
        "{status} {text}"
    );
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["trace_id"].as_str(), trace_id.as_deref(), "{problem}");
    assert!(trace_id.is_some_and(|id| id.len() == 32), "{problem}");
    for part in ["type", "title", "detail", "code"] {
        assert!(
            problem[part].as_str().is_some_and(|text| !text.is_empty()),
            "{part}: {problem}"
        );
    }
    (status, problem)
}

/// The status and code of a request that must be refused.
pub(crate) async fn refused(request: RequestBuilder) -> (u16, String) {
    let (status, problem) = problem(request.send().await.unwrap()).await;
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// Makes a token and gives its text.
pub(crate) async fn token(server: &TestServer, name: &str, scope: &str, owner: Option<&str>) -> String {
    let body = json!({ "name": name, "scope": scope, "user_name": owner });
    let (status, created) = server.post("/api/tokens", &body).await;
    assert_eq!(status, 201, "{created}");
    created["text"].as_str().unwrap().to_owned()
}

pub(crate) async fn connect(server: &TestServer) -> PgConnection {
    PgConnection::connect(&server.database_url).await.unwrap()
}

pub(crate) async fn execute(server: &TestServer, sql: &str) {
    sqlx::raw_sql(sql)
        .execute(&mut connect(server).await)
        .await
        .unwrap();
}

async fn tables(connection: &mut PgConnection) -> Vec<String> {
    let sql = "select format('%I.%I', schemaname, tablename) from pg_tables \
               where schemaname not in ('pg_catalog', 'information_schema') order by 1";
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// How many rows each table of the metadata has. Leases and signs of life come and go by themselves.
pub(crate) async fn rows(server: &TestServer) -> BTreeMap<String, i64> {
    let mut connection = connect(server).await;
    let mut counts = BTreeMap::new();
    for table in tables(&mut connection).await {
        if table.starts_with("cms.") && !["cms.leases", "cms.workers"].contains(&table.as_str()) {
            let sql = format!("select count(*) from {table}");
            let count = sqlx::query_scalar(&sql).fetch_one(&mut connection).await.unwrap();
            counts.insert(table, count);
        }
    }
    counts
}

/// The tables, the engine's too, with a row that holds the text.
pub(crate) async fn tables_with(server: &TestServer, text: &str) -> Vec<String> {
    let mut connection = connect(server).await;
    let mut found = Vec::new();
    for table in tables(&mut connection).await {
        let sql = format!("select exists (select from {table} t where strpos(t::text, $1) > 0)");
        let holds: bool = sqlx::query_scalar(&sql)
            .bind(text)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        if holds {
            found.push(table);
        }
    }
    found
}
