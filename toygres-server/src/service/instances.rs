//! Instances: create, look at, connect to, delete.

use super::Service;
use toygres_cms::{CreateInstance, Created, Idempotency, InstanceFilter, InstanceSelector, Origin};
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{
    Connection, CreateInstanceRequest, Instance, InstanceAccepted, InstanceState,
};
use toygres_models::{Error, ErrorKind, PostgresVersion, Result};

/// A request that was written down, to be done from now on.
pub(crate) struct Accepted {
    pub(crate) body: InstanceAccepted,
    /// The same request came before, and this is its answer again.
    pub(crate) replayed: bool,
}

impl Service {
    /// Writes an instance down and has its actor make it. `key` and `canonical` are the `Idempotency-Key` and the
    /// request in a form that is the same for the same request.
    pub(crate) async fn create_instance(
        &self,
        request: CreateInstanceRequest,
        key: Option<&str>,
        canonical: &[u8],
        origin: &Origin,
    ) -> Result<Accepted> {
        let new = request.parse()?;
        let postgres_version = self.available(new.postgres_version.unwrap_or(self.default_version))?;
        let request_hash = self.cms.request_hash(canonical);
        let created = self
            .cms
            .create_instance(CreateInstance {
                new: &new,
                postgres_version,
                host: self.platform.host(),
                origin,
                idempotency: key.map(|key| Idempotency { key, request_hash }),
            })
            .await?;
        match created {
            Created::Fresh {
                instance,
                operation,
                incarnation,
                generated_password,
            } => {
                self.nudge(instance.id, incarnation, true).await;
                let password = generated_password.map(|password| password.reveal().clone());
                Ok(Accepted {
                    body: InstanceAccepted {
                        instance,
                        operation,
                        password,
                    },
                    replayed: false,
                })
            }
            Created::Replayed {
                instance, operation, ..
            } => Ok(Accepted {
                body: InstanceAccepted {
                    instance,
                    operation,
                    password: None,
                },
                replayed: true,
            }),
        }
    }

    fn available(&self, version: PostgresVersion) -> Result<PostgresVersion> {
        let there = self.platform.versions();
        if there.contains(&version) {
            return Ok(version);
        }
        let list = there
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let why = format!("{version} is not installed here; there is {list}");
        Err(Error::invalid_fields(vec![toygres_models::error::FieldError {
            field: "postgres_version".to_owned(),
            message: why,
        }]))
    }

    pub(crate) async fn delete_instance(&self, name: &str, origin: &Origin) -> Result<Accepted> {
        let deletion = self.cms.request_delete(&selector(name)?, origin).await?;
        // A failed instance's actor has ended; its row's incarnation has risen for a new one.
        let needs_actor = deletion.instance.state == InstanceState::Failed;
        self.nudge(deletion.instance.id, deletion.incarnation, needs_actor)
            .await;
        let body = InstanceAccepted {
            instance: deletion.instance,
            operation: deletion.operation,
            password: None,
        };
        Ok(Accepted {
            body,
            replayed: !deletion.fresh,
        })
    }

    pub(crate) async fn list_instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>> {
        self.cms.list_instances(filter).await
    }

    pub(crate) async fn get_instance(&self, name: &str) -> Result<Instance> {
        self.cms.get_instance(&selector(name)?).await
    }

    pub(crate) async fn connection(&self, name: &str, reveal: bool, origin: &Origin) -> Result<Connection> {
        let selector = selector(name)?;
        let instance = self.cms.get_instance(&selector).await?;
        let Some(endpoint) = &instance.endpoint else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "not_ready",
                format!("{} has no address yet: it is {}", instance.name, instance.state),
            )
            .hint(format!("wait until it runs: toygres get {}", instance.name)));
        };
        let password = if reveal {
            Some(self.cms.reveal_password(&selector, origin).await?)
        } else {
            None
        };
        Ok(Connection::new(endpoint, password.as_ref()))
    }

    pub(crate) async fn events(&self, name: &str, limit: u32) -> Result<Vec<InstanceEvent>> {
        let instance = self.get_instance(name).await?;
        self.cms.list_events(Some(instance.id), limit, None).await
    }

    pub(crate) async fn health_checks(&self, name: &str, limit: u32) -> Result<Vec<HealthCheck>> {
        let instance = self.get_instance(name).await?;
        self.cms.list_health_checks(instance.id, limit).await
    }
}

/// A name or id from a path. What can be neither is nowhere to be found.
fn selector(text: &str) -> Result<InstanceSelector> {
    text.parse().map_err(|_: Error| {
        Error::new(
            ErrorKind::NotFound,
            "instance_not_found",
            format!("there is no instance {text:?}"),
        )
        .hint("see what there is with: toygres list")
    })
}
