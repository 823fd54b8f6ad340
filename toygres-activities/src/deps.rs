//! What activities work with.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use toygres_cms::{Cms, Provisioning};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result, Scope};
use toygres_platform::{InstanceRef, InstanceSpec, Platform, Storage};

/// How patient and how busy the control plane is.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time between two health checks of a healthy instance.
    pub health_check_interval: Duration,
    /// A health check that takes longer has failed.
    pub health_check_timeout: Duration,
    /// A create that makes no progress for so long has failed.
    pub create_deadline: Duration,
    /// How many instances may be waited for with a worker slot each; the others are looked at now and then.
    pub quick_waits: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            health_check_interval: Duration::from_secs(30),
            health_check_timeout: Duration::from_secs(5),
            create_deadline: Duration::from_secs(15 * 60),
            quick_waits: 16,
        }
    }
}

/// What every activity is given.
pub struct Deps {
    /// The metadata repository.
    pub cms: Cms,
    /// Where PostgreSQL runs.
    pub platform: Arc<dyn Platform>,
    /// How patient to be.
    pub settings: Settings,
    pub(crate) quick_waits: Semaphore,
}

impl Deps {
    /// Puts them together.
    #[must_use]
    pub fn new(cms: Cms, platform: Arc<dyn Platform>, settings: Settings) -> Self {
        Self {
            cms,
            platform,
            settings,
            quick_waits: Semaphore::new(settings.quick_waits),
        }
    }

    /// The instance's row with what is needed to act on it, after checking that this machine is the one to act.
    pub(crate) async fn provisioning(&self, scope: &Scope) -> Result<Provisioning> {
        let provisioning = self.cms.provisioning(scope).await?;
        // The activity's span: people look for a database by the names that they gave.
        let span = tracing::Span::current();
        span.record("instance_name", provisioning.instance.name.as_str());
        span.record("user_name", provisioning.instance.user_name.as_str());
        match (provisioning.host.as_deref(), self.platform.host()) {
            (Some(owner), Some(here)) if owner != here => Err(Error::new(
                ErrorKind::Unavailable,
                Reason::OtherHost.as_str(),
                format!("the instance lives on the machine {owner}, where no toygres server took this work"),
            )
            .hint(format!("start the toygres server on {owner}"))),
            _ => Ok(provisioning),
        }
    }
}

/// What the platform is told about an instance.
pub(crate) fn reference(provisioning: &Provisioning) -> InstanceRef {
    let instance = &provisioning.instance;
    InstanceRef {
        id: instance.id,
        name: instance.name.clone(),
        namespace: instance.namespace.clone(),
    }
}

/// What the platform may do about the storage.
pub(crate) fn storage(provisioning: &Provisioning) -> Storage {
    if provisioning.first_ready {
        Storage::MustExist {
            system_identifier: provisioning.system_identifier,
        }
    } else {
        Storage::Create
    }
}

/// What differs from what the platform would make of it, if that can be told. If not for now, it is asked again.
pub(crate) async fn differences(deps: &Deps, provisioning: &Provisioning) -> Option<Vec<String>> {
    let found = async {
        let specification = specification(provisioning)?;
        deps.platform
            .differences(&specification, storage(provisioning))
            .await
    };
    found.await.unwrap_or_else(|error| {
        let instance_id = provisioning.instance.id;
        tracing::warn!(%instance_id, code = error.code(), detail = error.detail(), "differences can't be told: {error}");
        None
    })
}

/// What the platform is asked to make true.
pub(crate) fn specification(provisioning: &Provisioning) -> Result<InstanceSpec> {
    let instance = &provisioning.instance;
    let password = provisioning.password.clone();
    Ok(InstanceSpec {
        id: instance.id,
        name: instance.name.clone(),
        postgres_version: instance.postgres_version,
        password: password.ok_or_else(|| Error::internal("a live instance has no credentials"))?,
        storage_size_gb: instance.storage_size_gb,
        cpu: instance.cpu.clone(),
        memory_mb: instance.memory_mb,
        internal: instance.internal,
        namespace: instance.namespace.clone(),
    })
}
