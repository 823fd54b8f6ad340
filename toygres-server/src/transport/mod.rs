//! The sockets under the API: accepted, encrypted if there is a certificate, kept within limits, closed in good order.

mod head;
mod tls;

pub use tls::Tls;

use axum::Router;
use axum::extract::ConnectInfo;
use head::HeadTimer;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

/// How long nothing is accepted after the system refused to: it has no file descriptor or memory left. A connection that
/// ends meanwhile gives one back and ends the pause.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// A silent peer is probed so often, so many times, until it is taken for gone.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// A server that stays full says so once in this time.
const FULL_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What one peer may take of the server, and all of them together.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Connections at once. More of them wait in the system's queue: they cost nothing there, a short burst is served
    /// instead of refused, and a balancer that finds no answer goes elsewhere. A refusal would need the TLS handshake
    /// first, the most costly part.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take, from its first byte.
    pub head: Duration,
    /// How long a connection may be silent before a request. Longer than balancers keep theirs, which would otherwise
    /// send into a connection that is just being closed.
    pub idle: Duration,
    /// The longest head of a request in bytes; over it the answer is 431.
    pub head_bytes: usize,
    /// The most header fields of a request; over it the answer is 431.
    pub head_fields: usize,
    /// How long a peer may take nothing of what is sent to it.
    pub write: Duration,
    /// How long nothing may come from a peer before the system asks whether it is still there, and how long what is sent
    /// to it may stay unacknowledged.
    pub probe_after: Duration,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            head_bytes: 32 * 1024,
            head_fields: 100,
            write: Duration::from_secs(30),
            probe_after: Duration::from_secs(60),
        }
    }
}

/// Answers requests until `stop` is cancelled, over TLS if `tls` is given. Then nothing more is accepted, idle
/// connections are closed, requests that have begun may end within `grace`, and what is left is dropped. Handlers find
/// the peer's address in [`ConnectInfo`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    limits: TransportLimits,
    stop: CancellationToken,
    grace: Duration,
) {
    let most = limits.connections;
    let transport = Arc::new(Transport {
        service: TowerToHyperService::new(router),
        tls,
        limits,
        stop: stop.clone(),
    });
    let mut connections = JoinSet::new();
    let mut warned: Option<Instant> = None;
    loop {
        let full = connections.len() >= most;
        if full && warned.is_none_or(|at| at.elapsed() >= FULL_WARNING_INTERVAL) {
            tracing::warn!("{most} connections are open, the most allowed: new ones wait");
            warned = Some(Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (stream, peer) = accept(&listener), if !full => {
                connections.spawn(transport.clone().serve(stream, peer));
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, ended).await.is_err() {
        let left = connections.len();
        tracing::warn!("{left} connections with unfinished requests were dropped after {grace:?}");
    }
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The peer went away while it waited.
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(cause) => {
                tracing::warn!("can't accept a connection, trying again in {ACCEPT_PAUSE:?}: {cause}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What every connection is served with.
struct Transport {
    service: TowerToHyperService<Router>,
    tls: Option<Tls>,
    limits: TransportLimits,
    stop: CancellationToken,
}

impl Transport {
    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(cause) = set_options(&stream, &self.limits) {
            tracing::debug!(%peer, "gone at once: {cause}");
            return;
        }
        // Below TLS, where all that is written passes.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.write));
        let stream = Box::pin(stream);
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer).await;
        };
        let handshake = timeout(self.limits.handshake, tls.accept(stream));
        match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve_http(stream, peer).await,
            Some(Ok(Err(cause))) => tracing::debug!(%peer, "TLS handshake failed: {cause}"),
            Some(Err(_)) => tracing::debug!(%peer, "TLS handshake took too long"),
            None => {}
        }
    }

    async fn serve_http(&self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let (timer, stream) = HeadTimer::watch(stream, self.limits.head);
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            self.service.call(request)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(timer)
                .header_read_timeout(self.limits.idle)
                .max_header_size(self.limits.head_bytes)
                .max_headers(self.limits.head_fields)
                .serve_connection(TokioIo::new(stream), service)
        );
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(cause) = served {
            tracing::debug!(%peer, "connection broken off: {cause:?}");
        }
    }
}

fn set_options(stream: &TcpStream, limits: &TransportLimits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(limits.probe_after)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    // Probes are sent only while nothing waits to be acknowledged; this is for the peer that vanishes meanwhile.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.probe_after))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_vanishes_is_noticed_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = accept(&listener).await;
        set_options(&stream, &TransportLimits::default()).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }
}
