//! A server in a process of its own.

use crate::{Fault, Faults, SharedPlatform};
use reqwest::{Method, RequestBuilder, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::Operation;
use toygres_testing::{TestHome, wait_for};

/// Far more than it takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the program of a server is told by its one argument, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Where its faults stand.
    pub faults: PathBuf,
    /// Directory and port of a [`SharedPlatform`](crate::SharedPlatform), if that is its platform.
    pub shared: Option<(PathBuf, u16)>,
}

/// What to start.
pub struct ServerOptions {
    /// The program `chaos-server`.
    pub program: &'static str,
    /// The control database.
    pub database_url: String,
    /// The home: of the instances too, unless the platform is shared.
    pub home: Arc<TestHome>,
    /// Port of the PostgreSQL server behind a platform that is shared by all servers of this home.
    pub shared: Option<u16>,
    /// More settings, as in the environment.
    pub settings: Vec<(&'static str, String)>,
}

/// A server in a process of its own, that ends with its test.
pub struct ServerProcess {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    options: ServerOptions,
    port: u16,
    faults: PathBuf,
    client: reqwest::Client,
    process: Option<Child>,
    /// Kept open while it shall run: waiting for a child would close it.
    input: Option<ChildStdin>,
}

impl ServerProcess {
    /// Starts one and waits until it is ready.
    pub async fn start(options: ServerOptions) -> Self {
        let mut server = Self::new(options);
        server.start_again().await;
        server
    }

    /// One that does not run yet.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let faults = options.home.path().join(format!("faults-{port}"));
        std::fs::create_dir(&faults).unwrap();
        Self {
            url: format!("http://127.0.0.1:{port}"),
            options,
            port,
            faults,
            client: reqwest::Client::new(),
            process: None,
            input: None,
        }
    }

    /// The directory of a platform that is shared in this home.
    #[must_use]
    pub fn shared_directory(home: &Path) -> PathBuf {
        home.join("shared")
    }

    /// Starts it again, on the same port, without waiting for it.
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let home = self.options.home.path();
        let setup = Setup {
            faults: self.faults.clone(),
            shared: self
                .options
                .shared
                .map(|port| (Self::shared_directory(home), port)),
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut command = Command::new(self.options.program);
        command
            .arg(serde_json::to_string(&setup).unwrap())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("TOYGRES_HOME", home)
            .env("DATABASE_URL", &self.options.database_url)
            .env("TOYGRES_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("TOYGRES_RATE_LIMIT_PER_SECOND", "1000000")
            .env("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "1")
            .envs(self.options.settings.iter().map(|(name, value)| (*name, value)))
            // Its end is the end of the process: see its program.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        // By which what a test leaves behind is known.
        if let Some(run) = std::env::var_os("TOYGRES_TEST_RUN") {
            command.env("TOYGRES_TEST_RUN", run);
        }
        let mut process = command.spawn().unwrap();
        self.input = process.stdin.take();
        self.process = Some(process);
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        wait_for("the server", PATIENCE, || async {
            let answer = self.request(Method::GET, "/readyz").send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Starts it again, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.begin();
        self.ready().await;
    }

    /// Changes a setting of later starts.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.options.settings.retain(|(n, _)| *n != name);
        self.options.settings.push((name, value.to_owned()));
    }

    /// Changes the program of later starts.
    pub fn set_program(&mut self, program: &'static str) {
        self.options.program = program;
    }

    /// The control database that it was first started with.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.options.database_url
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.options.home.path().join(format!("server-{}.out", self.port))
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let id = self.process.as_ref().expect("it runs").id();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it without any chance to put things in order.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Ends it as an operator would, and waits until it has ended.
    pub async fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.exited().await;
    }

    /// Waits until it has ended; says by which signal, if it was one.
    pub async fn exited(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("it runs");
        let status = tokio::task::spawn_blocking(move || process.wait())
            .await
            .unwrap()
            .unwrap();
        status.signal()
    }

    /// Whether it has ended by itself.
    pub fn has_exited(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// From now on this goes wrong in it.
    pub fn plan(&self, fault: Option<&Fault>) {
        Faults::plan(&self.faults, fault);
    }

    /// From now on each of these goes wrong in it.
    pub fn plan_all(&self, faults: &[Fault]) {
        Faults::plan_all(&self.faults, faults);
    }

    /// The code of the orchestration of this id panics in it when it is run the next time.
    pub fn plan_panic(&self, id: &str) {
        Faults::plan_panic(&self.faults, id);
    }

    /// Whether that came to pass.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        Faults::has_panicked(&self.faults)
    }

    /// The names of the activities that it has run, one for each time.
    #[must_use]
    pub fn activities(&self) -> Vec<String> {
        Faults::activities(&self.faults)
    }

    /// How many activities it has run.
    #[must_use]
    pub fn activities_run(&self) -> usize {
        self.activities().len()
    }

    /// How often it has run the code of an orchestration.
    #[must_use]
    pub fn turns(&self) -> usize {
        Faults::turns(&self.faults)
    }

    /// Has it stop itself, as by SIGSTOP, when it is just about to make an instance on the shared platform.
    pub fn stop_before_making(&self) {
        let directory = Self::shared_directory(self.home());
        SharedPlatform::stop_before_making(&directory, self.pid());
    }

    /// How often a fault was met.
    #[must_use]
    pub fn hits(&self) -> usize {
        Faults::hits(&self.faults)
    }

    /// A request.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .timeout(Duration::from_secs(30))
    }

    /// The status and JSON of a request; `None`: no answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Option<(StatusCode, Value)> {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The JSON of a GET that succeeds.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.request(Method::GET, path).send().await;
        let answer = answer.unwrap_or_else(|cause| panic!("{path}: {cause:?}"));
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Asks for an instance.
    pub async fn create(&self, name: &str) -> InstanceAccepted {
        let body = json!({ "name": name, "password": "chaos-secret" });
        let (status, body) = self
            .ask(Method::POST, "/api/instances", Some(&body))
            .await
            .expect("an answer");
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// Asks for an instance's deletion.
    pub async fn request_delete(&self, name: &str) -> InstanceAccepted {
        let path = format!("/api/instances/{name}");
        let (status, body) = self.ask(Method::DELETE, &path, None).await.expect("an answer");
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// Waits until an operation has ended.
    pub async fn ended(&self, accepted: &InstanceAccepted) -> Operation {
        let path = format!("/api/operations/{}", accepted.operation.id);
        wait_for("the operation's end", PATIENCE, || async {
            let (status, body) = self.ask(Method::GET, &path, None).await?;
            if status != StatusCode::OK {
                return None;
            }
            let operation: Operation = serde_json::from_value(body).unwrap();
            operation.state.is_terminal().then_some(operation)
        })
        .await
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.options.home.path()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
