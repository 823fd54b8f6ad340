//! Instances: create, look at, connect to, delete.

use super::{Logs, Service};
use toygres_cms::{
    CreateInstance, Created, EventFilter, Idempotency, InstanceFilter, InstanceSelector, Origin,
};
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{
    BulkCreateRequest, BulkDeleteRequest, Connection, CreateInstanceRequest, Instance, InstanceAccepted,
    InstanceState, NewInstance, PatchInstanceRequest,
};
use toygres_models::operations::Operation;
use toygres_models::{Error, ErrorKind, OwnerName, PostgresVersion, Result};
use toygres_platform::{InstanceRef, LogOptions};
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

/// A request that was written down, to be done from now on.
pub(crate) struct Accepted {
    pub(crate) body: InstanceAccepted,
    /// The same request came before, and this is its answer again.
    pub(crate) replayed: bool,
}

impl Accepted {
    /// Tells the request's span too whom it is about.
    pub(crate) fn new(
        instance: Instance,
        operation: Operation,
        password: Option<String>,
        replayed: bool,
    ) -> Self {
        let span = Span::current();
        span.record("instance_id", display(instance.id));
        span.record("instance_name", instance.name.as_str());
        span.record("user_name", instance.user_name.as_str());
        span.record("operation_id", display(operation.id));
        let body = InstanceAccepted {
            instance,
            operation,
            password,
        };
        Self { body, replayed }
    }
}

/// One of many that a request is about.
fn one_of_many() -> Span {
    tracing::info_span!(
        "one_of_many",
        instance_id = Empty,
        instance_name = Empty,
        user_name = Empty,
        operation_id = Empty,
    )
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
        let owner_named = request.user_name.is_some();
        let mut new = request.parse()?;
        default_owner(&mut new, origin, owner_named);
        self.create(&new, key, canonical, origin).await
    }

    /// The same for many: one answer each, and one that fails does not stop the others.
    pub(crate) async fn create_instances(
        &self,
        request: BulkCreateRequest,
        key: Option<&str>,
        canonical: &[u8],
        origin: &Origin,
    ) -> Result<Vec<(String, Result<Accepted>)>> {
        let owner_named = request.user_name.is_some();
        let mut turns = Turns::default();
        for mut new in request.parse()? {
            default_owner(&mut new, origin, owner_named);
            let name = new.name.to_string();
            if turns.skip(&name) {
                continue;
            }
            let key = key.map(|key| format!("{key}/{name}"));
            let created = self.create(&new, key.as_deref(), canonical, origin);
            let created = created.instrument(one_of_many()).await;
            turns.took(name, created)?;
        }
        Ok(turns.results)
    }

    async fn create(
        &self,
        new: &NewInstance,
        key: Option<&str>,
        canonical: &[u8],
        origin: &Origin,
    ) -> Result<Accepted> {
        let postgres_version = self.available(new.postgres_version.unwrap_or(self.default_version))?;
        self.platform.check_namespace(new.namespace.as_deref())?;
        let request_hash = self.cms.request_hash(canonical);
        let created = self
            .cms
            .create_instance(CreateInstance {
                new,
                postgres_version,
                host: self.platform.host(),
                origin,
                idempotency: key.map(|key| Idempotency { key, request_hash }),
                default_limits: self.default_quota,
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
                Ok(Accepted::new(instance, operation, password, false))
            }
            Created::Replayed {
                instance, operation, ..
            } => Ok(Accepted::new(instance, operation, None, true)),
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
        let why = format!("{version} is not available here; there is {list}");
        Err(Error::invalid_field("postgres_version", why))
    }

    pub(crate) async fn delete_instance(&self, name: &str, origin: &Origin) -> Result<Accepted> {
        let deletion = self.cms.request_delete(&selector(name)?, origin).await?;
        // A failed instance's actor has ended; its row's incarnation has risen for a new one.
        let needs_actor = deletion.instance.state == InstanceState::Failed;
        self.nudge(deletion.instance.id, deletion.incarnation, needs_actor)
            .await;
        Ok(Accepted::new(
            deletion.instance,
            deletion.operation,
            None,
            !deletion.fresh,
        ))
    }

    /// Asks for many to be deleted: one answer each, and one that fails does not stop the others.
    pub(crate) async fn delete_instances(
        &self,
        request: BulkDeleteRequest,
        origin: &Origin,
    ) -> Result<Vec<(String, Result<Accepted>)>> {
        let many = 1..=toygres_models::instances::BULK_LIMIT;
        if !many.contains(&request.names.len()) {
            return Err(Error::invalid_field(
                "names",
                format!("must be {} to {} names", many.start(), many.end()),
            ));
        }
        let mut turns = Turns::default();
        for name in request.names {
            if turns.skip(&name) {
                continue;
            }
            let deleted = self.delete_instance(&name, origin);
            let deleted = deleted.instrument(one_of_many()).await;
            turns.took(name, deleted)?;
        }
        Ok(turns.results)
    }

    /// Changes what may be changed, if `precondition` holds for the instance as it is.
    pub(crate) async fn update_instance(
        &self,
        name: &str,
        request: PatchInstanceRequest,
        precondition: &(dyn Fn(&Instance) -> bool + Sync),
        origin: &Origin,
    ) -> Result<Instance> {
        let request = request.parse()?;
        self.cms
            .update_instance(&selector(name)?, &request, precondition, origin)
            .await
    }

    pub(crate) async fn list_instances(
        &self,
        mut filter: InstanceFilter,
        within: Option<&OwnerName>,
    ) -> Result<Vec<Instance>> {
        if !restrict(&mut filter.user_name, within) {
            return Ok(Vec::new());
        }
        self.cms.list_instances(&filter).await
    }

    pub(crate) async fn get_instance(&self, name: &str, within: Option<&OwnerName>) -> Result<Instance> {
        self.cms.get_instance(&selector(name)?, within).await
    }

    pub(crate) async fn connection(&self, name: &str, reveal: bool, origin: &Origin) -> Result<Connection> {
        let selector = selector(name)?;
        let instance = self.cms.get_instance(&selector, origin.owner.as_ref()).await?;
        let Some(endpoint) = &instance.endpoint else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "not_ready",
                format!("{} has no address yet: it is {}", instance.name, instance.state),
            )
            .hint(format!(
                "wait until it runs: toygres get {} --watch",
                instance.name
            )));
        };
        let password = if reveal {
            Some(self.cms.reveal_password(&selector, origin).await?)
        } else {
            None
        };
        let tls = self.platform.certificate_authority().is_some();
        Ok(Connection::new(
            endpoint,
            instance.external_endpoint.as_ref(),
            tls,
            password.as_ref(),
        ))
    }

    /// What clients check the certificates of instances by, PEM.
    pub(crate) fn certificate_authority(&self) -> Result<String> {
        let authority = self.platform.certificate_authority().map(str::to_owned);
        authority.ok_or_else(|| {
            let platform = self.platform.name();
            Error::new(
                ErrorKind::NotFound,
                "no_certificate_authority",
                format!(
                    "instances of the platform {platform} take no TLS, so there is no certificate authority"
                ),
            )
            .hint("connect without sslmode: toygres connect NAME")
        })
    }

    /// The events behind the one with the id `after`, or the newest; oldest first.
    pub(crate) async fn events(
        &self,
        name: &str,
        limit: u32,
        after: Option<i64>,
        within: Option<&OwnerName>,
    ) -> Result<Vec<InstanceEvent>> {
        let instance = self.get_instance(name, within).await?;
        let filter = EventFilter {
            instance_id: Some(instance.id),
            user_name: None,
            after,
            limit,
        };
        self.cms.list_events(&filter).await
    }

    pub(crate) async fn health_checks(
        &self,
        name: &str,
        limit: u32,
        within: Option<&OwnerName>,
    ) -> Result<Vec<HealthCheck>> {
        let instance = self.get_instance(name, within).await?;
        self.cms.list_health_checks(instance.id, limit).await
    }

    /// The last lines of the instance's own log; with `follow` also those to come.
    pub(crate) async fn logs(
        &self,
        name: &str,
        tail: usize,
        follow: bool,
        within: Option<&OwnerName>,
    ) -> Result<Logs> {
        let instance = self.get_instance(name, within).await?;
        let reference = InstanceRef {
            id: instance.id,
            name: instance.name,
            namespace: instance.namespace,
        };
        let options = LogOptions { tail };
        if !follow {
            return Ok(Logs::Whole(self.platform.logs(&reference, options).await?));
        }
        let permit = self.changes.admit()?;
        let lines = self.platform.follow_logs(&reference, options).await?;
        Ok(Logs::Followed {
            lines,
            stop: self.changes.stop(),
            permit,
        })
    }
}

/// The answers of a bulk request: one that fails does not stop the others. Only the loss of the database does, so that
/// nobody waits for it once more for each.
#[derive(Default)]
struct Turns {
    results: Vec<(String, Result<Accepted>)>,
    is_lost: bool,
}

impl Turns {
    /// Whether this one need not be tried; if so, it is answered.
    fn skip(&mut self, name: &str) -> bool {
        if self.is_lost {
            let error = Error::new(
                ErrorKind::Unavailable,
                "not_tried",
                "the control database did not answer for another one before",
            );
            let error = error.hint("ask again for this one");
            self.results.push((name.to_owned(), Err(error)));
        }
        self.is_lost
    }

    /// Takes an answer. If the first one is that the database is lost, it is that of the whole request.
    fn took(&mut self, name: String, result: Result<Accepted>) -> Result<()> {
        match result {
            Err(error) if error.kind() == ErrorKind::Unavailable && self.results.is_empty() => Err(error),
            result => {
                self.is_lost = matches!(&result, Err(error) if error.kind() == ErrorKind::Unavailable);
                self.results.push((name, result));
                Ok(())
            }
        }
    }
}

/// Whoever may act for one owner only need not name it.
fn default_owner(new: &mut NewInstance, origin: &Origin, owner_named: bool) {
    if let (Some(owner), false) = (&origin.owner, owner_named) {
        new.user_name = owner.clone();
    }
}

/// Narrows a filter to what the caller may see. False: nothing is left.
pub(super) fn restrict(wanted: &mut Option<OwnerName>, within: Option<&OwnerName>) -> bool {
    match (wanted.as_ref(), within) {
        (_, None) => true,
        (Some(wanted), Some(within)) => wanted == within,
        (None, Some(within)) => {
            *wanted = Some(within.clone());
            true
        }
    }
}

/// A name or id from a path. What can be neither is nowhere to be found.
pub(super) fn selector(text: &str) -> Result<InstanceSelector> {
    text.parse().map_err(|_: Error| {
        Error::new(
            ErrorKind::NotFound,
            "instance_not_found",
            format!("there is no instance {text:?}"),
        )
        .hint("see what there is with: toygres list")
    })
}
