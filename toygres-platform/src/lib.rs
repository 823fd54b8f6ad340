//! The port to where PostgreSQL runs.
//!
//! One trait with declarative, idempotent verbs. A platform holds no truth of its own: what should exist is in the
//! CMS, what does exist is on the platform, and every verb can be called again after any crash.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod kubernetes;
pub mod local;
mod words;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{InstanceId, InstanceName, PostgresVersion, Result, Secret};

/// What an instance should be, as the platform needs to know it.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Its identity.
    pub id: InstanceId,
    /// Its name. With the first eight digits of the id behind it, the name of everything that is made for it.
    pub name: InstanceName,
    /// The PostgreSQL major version.
    pub postgres_version: PostgresVersion,
    /// The password of the role `postgres`, used when the storage is made.
    pub password: Secret,
    /// Storage in GiB.
    pub storage_size_gb: i32,
    /// CPUs as a Kubernetes quantity.
    pub cpu: Option<String>,
    /// Memory in MiB.
    pub memory_mb: Option<i32>,
    /// No address outside the cluster.
    pub internal: bool,
    /// The namespace to put it in, where the platform has such.
    pub namespace: Option<String>,
}

/// Which instance a verb is about: enough to find everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// Its identity.
    pub id: InstanceId,
    /// Its name.
    pub name: InstanceName,
    /// The namespace it was put in, where the platform has such.
    pub namespace: Option<String>,
}

impl InstanceRef {
    /// `<name>-<8 hex>`: the name of everything that a platform makes for it. Never used again for another instance.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("{}-{}", self.name, self.id.short())
    }
}

impl InstanceSpec {
    /// The instance this is the specification of.
    #[must_use]
    pub fn reference(&self) -> InstanceRef {
        InstanceRef {
            id: self.id,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

/// Whether `ensure` may make storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Make it if it is not there: only until the instance was ready for the first time.
    Create,
    /// It must be there, and be this instance's: else an error of kind
    /// [`StorageLost`](toygres_models::ErrorKind::StorageLost), and nothing is made.
    MustExist {
        /// The system identifier that the data must have
        /// ([PostgreSQL documentation, `pg_control_system`](https://www.postgresql.org/docs/current/functions-info.html)).
        system_identifier: Option<u64>,
    },
}

/// What a platform knows of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Nothing of it is there: no process, no storage, no other object.
    Absent,
    /// Something of it is there, but it does not take connections.
    NotReady {
        /// Why.
        reason: Reason,
        /// The same as a sentence for people, with the last words of its log where they help.
        message: String,
    },
    /// It takes connections.
    Ready(Serving),
}

/// How an instance that takes connections is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Where the control plane and clients inside the platform's network connect.
    pub endpoint: Endpoint,
    /// Where clients outside that network connect, once there is such an address.
    pub external_endpoint: Option<Endpoint>,
    /// The data's own identity, where the platform can read it without a connection.
    pub system_identifier: Option<u64>,
    /// What speaks against it all the same: the likely cause should a connection fail.
    pub doubt: Option<(Reason, String)>,
}

/// Which lines of a log to give.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// At most this many of the last lines.
    pub tail: usize,
}

/// Something that exists on the platform and says that it belongs to a toygres instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The instance it says it belongs to.
    pub instance: InstanceRef,
    /// Whether it runs.
    pub running: bool,
    /// Whether it was told to [keep its data](Platform::keep_data): it may hold what somebody needs.
    pub holds_data: bool,
}

/// Something on the platform that looks like toygres's, but does not say which instance it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What it is called there.
    pub object: String,
    /// What is wrong with it, for people.
    pub message: String,
}

/// Where PostgreSQL runs. Every verb is idempotent and safe to call at the same time for different instances;
/// calls for one instance are put in order by the platform.
///
/// Errors are classed by [`ErrorKind`](toygres_models::ErrorKind), never by their text: `Unavailable`, `Throttled`,
/// `Timeout` can pass; `Config` (`code` is the [`Reason`] word where there is one), `StorageLost` can't.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// `local` or `kubernetes`.
    fn name(&self) -> &'static str;

    /// The machine whose processes these are, for platforms that are bound to one.
    fn host(&self) -> Option<&str>;

    /// The versions that can be asked for, highest first.
    fn versions(&self) -> Vec<PostgresVersion>;

    /// The certificate of the authority that signs the certificates of instances, PEM. None: instances take no TLS.
    fn certificate_authority(&self) -> Option<&str> {
        None
    }

    /// Whether instances may be put there, so that a request is refused before anything is written down.
    ///
    /// # Errors
    /// `Invalid`, of the field `namespace`.
    fn check_namespace(&self, _namespace: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// Makes what is there like the specification: makes what is missing, starts what is stopped, repairs what
    /// differs. Returns as soon as the work is under way; [`wait_ready`](Self::wait_ready) sees it through.
    ///
    /// # Errors
    /// `Config` if it can't ever work on this platform, `StorageLost` as said at [`Storage::MustExist`].
    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()>;

    /// Tells the platform that the storage holds a database from now on: whatever it does by itself, it never makes an
    /// empty one again, and [`list`](Self::list) says so.
    async fn keep_data(&self, instance: &InstanceRef) -> Result<()>;

    /// What of an instance that should be there differs from what [`ensure`](Self::ensure) would make of it, each in
    /// words for people (`the service shop-1a2b3c4d-rw is missing`). What does not differ comes right without another
    /// `ensure`, if it can. None: this platform can't tell. Costs it nothing.
    async fn differences(&self, _spec: &InstanceSpec, _storage: Storage) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// What is there now. Changes nothing.
    async fn observe(&self, instance: &InstanceRef) -> Result<Observation>;

    /// Waits until it is ready, but not longer than `budget`; returns the last observation either way. Returns
    /// early when waiting longer can't help without another `ensure` (it failed or is absent).
    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation>;

    /// The last lines of the server's own log.
    async fn logs(&self, instance: &InstanceRef, options: LogOptions) -> Result<Vec<String>>;

    /// The last lines of the server's own log, and those to come as they are written. Goes on also while the server is
    /// down; ends when nothing is left of it.
    async fn follow_logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>>;

    /// Stops it and removes everything of it, data included; returns when nothing is left. Succeeds if nothing was
    /// there.
    async fn remove(&self, instance: &InstanceRef) -> Result<()>;

    /// Everything on the platform that says it belongs to a toygres instance.
    async fn list(&self) -> Result<Vec<Listed>>;

    /// What looks like toygres's but can't be told whose it is: to be reported, never touched.
    async fn unknown(&self) -> Result<Vec<Unknown>> {
        Ok(Vec::new())
    }
}
