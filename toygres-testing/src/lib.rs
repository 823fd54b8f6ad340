//! What the tests of every crate share: real PostgreSQL servers that can't outlive the test, waiters, and
//! faults between a client and a Kubernetes API server.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

mod cluster;
mod home;
#[cfg(feature = "kubernetes")]
mod namespace;
#[cfg(feature = "observability")]
mod observability;
#[cfg(feature = "otlp")]
mod otlp;
mod postgres;
#[cfg(feature = "kubernetes")]
pub mod proxy;
mod seed;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod stub;
mod tmpfs;
mod wait;

pub use cluster::{devcluster, kubeconfig, needed};
pub use home::TestHome;
#[cfg(feature = "kubernetes")]
pub use namespace::TestNamespace;
#[cfg(feature = "observability")]
pub use observability::{Observability, Program, observability_programs, store_programs};
#[cfg(feature = "otlp")]
pub use otlp::{OtlpAnswer, OtlpReceiver, ReceivedLog, ReceivedPoint, ReceivedSpan};
pub use postgres::{TestDatabase, TestPostgres, server_programs};
pub use seed::seed;
#[cfg(feature = "server")]
pub use server::{TestServer, TestServerOptions};
#[cfg(feature = "server")]
pub use stub::StubPlatform;
pub use tmpfs::Tmpfs;
pub use wait::wait_for;
