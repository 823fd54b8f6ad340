//! A way to instances for a machine outside the cluster's network: loopback ports, forwarded by the API server to pods.

use super::manifests::PORT;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use toygres_models::{Error, Result};

/// Where forwarded ports are.
pub(super) const HOST: &str = "127.0.0.1";

/// See the module.
pub(super) struct Forwards {
    client: Client,
    forwards: Mutex<HashMap<(String, String), Forward>>,
}

/// One port, until it is dropped.
struct Forward {
    port: u16,
    _listens: JoinSet<()>,
}

impl Forwards {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            forwards: Mutex::default(),
        }
    }

    /// The loopback port that leads to this pod. The same as long as this process lives.
    pub(super) fn port(&self, namespace: &str, pod: &str) -> Result<u16> {
        let mut forwards = self.forwards();
        let key = (namespace.to_owned(), pod.to_owned());
        if let Some(forward) = forwards.get(&key) {
            return Ok(forward.port);
        }
        let failed = |cause: io::Error| Error::internal("no loopback port to forward").source(cause);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut listens = JoinSet::new();
        listens.spawn(listen(listener, pods, pod.to_owned()));
        forwards.insert(
            key,
            Forward {
                port,
                _listens: listens,
            },
        );
        Ok(port)
    }

    /// Ends the port of a pod that is gone for good.
    pub(super) fn end(&self, namespace: &str, pod: &str) {
        self.forwards().remove(&(namespace.to_owned(), pod.to_owned()));
    }

    fn forwards(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Forward>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(listener: TcpListener, pods: Api<Pod>, pod: String) {
    // Ends with this future.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(forward(client, pods.clone(), pod.clone()));
                }
                Err(cause) => {
                    tracing::warn!(pod, "a connection to be forwarded was not accepted: {cause}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection. What goes wrong, the client sees as a connection that is closed.
async fn forward(mut client: TcpStream, pods: Api<Pod>, pod: String) {
    let mut forwarder = match pods.portforward(&pod, &[PORT]).await {
        Ok(forwarder) => forwarder,
        Err(cause) => {
            tracing::debug!(pod, "a connection can't be forwarded: {cause}");
            return;
        }
    };
    if let Some(mut server) = forwarder.take_stream(PORT) {
        let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        tracing::trace!(pod, ?copied, "a forwarded connection has ended");
    }
}
