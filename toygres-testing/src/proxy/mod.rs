//! A proxy in front of a Kubernetes API server that injects faults.
//!
//! It speaks plain HTTP/1.1 on a loopback port, and to the API server as the kubeconfig says. Requests' bodies are read
//! whole, answers are passed on as they come, upgrades (`exec`, `port-forward`) are tunnelled.

mod forward;
mod rule;

pub use rule::{After, Fault, Rule, Verb};

use hyper::Method;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rule::{Armed, Call};
use socket2::SockRef;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its HTTP method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// What Kubernetes calls it.
    pub verb: Verb,
    /// Whether it is a watch.
    pub watch: bool,
    /// When it had arrived whole.
    pub at: Instant,
}

/// A proxy in front of a Kubernetes API server. Dropped, it ends with all its connections.
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound, never listening: keeps the port while connections are refused.
    _port: TcpSocket,
    serving: tokio::sync::Mutex<Option<Serving>>,
}

/// What the connections share.
struct Shared {
    upstream: kube::Client,
    rules: Mutex<Vec<Arc<Armed>>>,
    requests: Mutex<Vec<Request>>,
}

impl Shared {
    /// Notes a request, and says what it gets: delays, then at most one other fault.
    fn faults(&self, parts: &Parts, call: &Call) -> Vec<Arc<Armed>> {
        self.requests.lock().unwrap().push(Request {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            verb: call.verb,
            watch: call.verb == Verb::Watch,
            at: Instant::now(),
        });
        let mut faults = Vec::new();
        for armed in &*self.rules.lock().unwrap() {
            if armed.fires(call) {
                faults.push(armed.clone());
                if !matches!(armed.rule.fault, Fault::Latency(_)) {
                    break;
                }
            }
        }
        faults
    }
}

/// Whose tasks end with it.
struct Serving {
    stop: DropGuard,
    tasks: TaskTracker,
}

/// Starts tasks that end with the [`Serving`].
#[derive(Clone)]
struct Tasks {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(task));
    }
}

impl FaultProxy {
    /// Starts one in front of the API server of the kubeconfig's current context.
    ///
    /// # Panics
    /// When the kubeconfig can't be read.
    pub async fn start(kubeconfig: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        // What the API server answers is for the client to see.
        config.default_retry = false;
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let proxy = Self {
            shared: Arc::new(Shared {
                upstream: kube::Client::try_from(config).unwrap(),
                rules: Mutex::default(),
                requests: Mutex::default(),
            }),
            address: port.local_addr().unwrap(),
            _port: port,
            serving: tokio::sync::Mutex::default(),
        };
        proxy.refuse(false).await;
        proxy
    }

    /// The configuration of a client that goes through it. kube's default is to retry 429, 503 and 504 unseen
    /// (`default_retry`); whoever counts faults may want that off.
    #[must_use]
    pub fn config(&self) -> kube::Config {
        kube::Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    /// Injects faults, until the handle is dropped. Of several rules for a request the earliest counts, and delays add
    /// up before it.
    pub fn inject(&self, rule: Rule) -> RuleHandle {
        let armed = Arc::new(Armed::new(rule));
        self.shared.rules.lock().unwrap().push(armed.clone());
        RuleHandle {
            armed,
            shared: self.shared.clone(),
        }
    }

    /// The requests that arrived since the start or the last [`reset_requests`](Self::reset_requests), also those that
    /// were given a fault.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Forgets the requests that arrived until now.
    pub fn reset_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// `true`: as if the API server were away; connections are refused, and those that are there reset. `false`: back
    /// on the same port. It is so when this returns.
    pub async fn refuse(&self, away: bool) {
        let mut serving = self.serving.lock().await;
        if away {
            if let Some(Serving { stop, tasks }) = serving.take() {
                drop(stop);
                tasks.close();
                tasks.wait().await;
            }
        } else if serving.is_none() {
            let listener = socket(self.address).listen(1024).unwrap();
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            let starter = Tasks {
                stop: stop.clone(),
                tasks: tasks.clone(),
            };
            starter.spawn(accept(listener, self.shared.clone(), starter.clone()));
            *serving = Some(Serving {
                stop: stop.drop_guard(),
                tasks,
            });
        }
    }
}

/// A socket that shares the port with others of this proxy.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tasks.spawn(connection(stream, shared.clone(), tasks.clone()));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, tasks: Tasks) {
    stream.set_nodelay(true).unwrap();
    // A second handle on the socket, so that whatever ends it but an orderly end resets it.
    let socket = SockRef::from(&stream).try_clone().unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    let service = service_fn(|request| forward::answer(shared.clone(), tasks.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if connection.with_upgrades().await.is_ok() {
        socket.set_linger(None).unwrap();
    }
}

/// A rule in force; dropped, it ends.
#[must_use]
pub struct RuleHandle {
    armed: Arc<Armed>,
    shared: Arc<Shared>,
}

impl RuleHandle {
    /// How many requests got the fault.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.armed.fired()
    }
}

impl Drop for RuleHandle {
    fn drop(&mut self) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.retain(|armed| !Arc::ptr_eq(armed, &self.armed));
    }
}
