//! The engine, for operators.

use super::Service;
use toygres_cms::{InstanceSelector, Origin};
use toygres_engine::{EngineStatus, Orchestration as _, OrchestrationFilter};
use toygres_models::orchestrations::{
    CancelRequest, EngineStats, Flow, HistoryEvent, Orchestration, OrchestrationDetails, RaiseEventRequest,
};
use toygres_models::{Error, ErrorKind, InstanceId, OperationId, Result};
use toygres_orchestrations::{CreateInstance, DeleteInstance, actor_id, parse_actor_id};

/// Longest reason for a cancellation, in characters.
const REASON_LIMIT: usize = 255;

impl Service {
    /// `instance`: only those about this one, by name or id.
    pub(crate) async fn list_orchestrations(
        &self,
        mut filter: OrchestrationFilter,
        instance: Option<&str>,
    ) -> Result<Vec<Orchestration>> {
        if let Some(name) = instance {
            filter.instance_id = Some(self.get_instance(name, None).await?.id);
        }
        self.engine.list(&filter).await
    }

    pub(crate) async fn get_orchestration(&self, id: &str) -> Result<OrchestrationDetails> {
        self.engine.details(id).await
    }

    pub(crate) async fn orchestration_history(
        &self,
        id: &str,
        execution: Option<i64>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<HistoryEvent>> {
        self.engine.history(id, execution, after, limit).await
    }

    /// Fails an orchestration that is part of an actor's work: the actor undoes it, or begins it anew.
    pub(crate) async fn cancel_orchestration(
        &self,
        id: &str,
        request: CancelRequest,
        origin: &Origin,
    ) -> Result<OrchestrationDetails> {
        let reason = request
            .reason
            .unwrap_or_else(|| "cancelled by an operator".to_owned());
        if reason.chars().count() > REASON_LIMIT || reason.contains('\0') {
            return Err(Error::invalid_field(
                "reason",
                format!("must be at most {REASON_LIMIT} characters, none of them NUL"),
            ));
        }
        if parse_actor_id(id).is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "actor_not_cancellable",
                "an actor looks after its instance as long as there is one; to cancel it would leave the instance alone",
            )
            .hint("delete the instance instead, or replace an actor that is dead with: recreate"));
        }
        if self.status(id).await? != EngineStatus::Running {
            return Err(Error::new(
                ErrorKind::Conflict,
                "orchestration_ended",
                format!("{id} has ended already"),
            ));
        }
        self.cms
            .record_audit(origin, "cancel_orchestration", Some(id), None)
            .await?;
        self.engine.cancel(id, &reason).await?;
        self.engine.details(id).await
    }

    pub(crate) async fn raise_event(
        &self,
        id: &str,
        request: RaiseEventRequest,
        origin: &Origin,
    ) -> Result<OrchestrationDetails> {
        if request.name != "wake" {
            return Err(Error::invalid_field(
                "name",
                "must be \"wake\", the one event that orchestrations of toygres listen to".to_owned(),
            ));
        }
        if self.status(id).await? != EngineStatus::Running {
            return Err(Error::new(
                ErrorKind::Conflict,
                "orchestration_ended",
                format!("{id} has ended, so nothing can wake it"),
            )
            .hint(format!("begin it anew with: toygres server recreate {id}")));
        }
        self.cms
            .record_audit(origin, "raise_event", Some(id), None)
            .await?;
        self.engine.wake(id).await?;
        self.engine.details(id).await
    }

    /// A new incarnation of a dead actor, or the retry of the failed operation that the orchestration worked on. Gives
    /// the id of the orchestration, or of the operation, that goes on from here.
    pub(crate) async fn recreate_orchestration(&self, id: &str, origin: &Origin) -> Result<String> {
        if let Some((instance_id, incarnation)) = parse_actor_id(id) {
            return self.replace_actor(id, instance_id, incarnation, origin).await;
        }
        if let Some(operation) = operation_of(id) {
            let accepted = self.retry_operation(&operation.to_string(), origin).await?;
            return Ok(accepted.body.operation.id.to_string());
        }
        // Says so if there is no such orchestration.
        self.status(id).await?;
        Err(Error::new(
            ErrorKind::Conflict,
            "not_recreatable",
            "only actors, and what works on an operation, can be begun anew",
        ))
    }

    async fn replace_actor(
        &self,
        id: &str,
        instance_id: InstanceId,
        incarnation: i64,
        origin: &Origin,
    ) -> Result<String> {
        // Says so if there is no such instance.
        self.cms
            .get_instance(&InstanceSelector::Id(instance_id), None)
            .await?;
        let statuses = self.engine.statuses(&[id.to_owned()]).await?;
        if statuses.get(id) == Some(&EngineStatus::Running) {
            return Err(
                Error::new(ErrorKind::Conflict, "actor_alive", "the actor is not dead")
                    .hint("wake it with: raise-event"),
            );
        }
        let replaced = self
            .cms
            .replace_actor(instance_id, incarnation, Some(origin))
            .await?;
        let Some(new) = replaced else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "actor_superseded",
                "another actor looks after the instance by now, or the instance is gone",
            ));
        };
        self.nudge(instance_id, new, true).await;
        Ok(actor_id(instance_id, new))
    }

    async fn status(&self, id: &str) -> Result<EngineStatus> {
        let statuses = self.engine.statuses(&[id.to_owned()]).await?;
        statuses.get(id).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "orchestration_not_found",
                format!("there is no orchestration {id:?}"),
            )
            .hint("see what there is with: toygres server orchestrations")
        })
    }

    pub(crate) fn flows(&self) -> Vec<Flow> {
        toygres_orchestrations::flows()
    }

    pub(crate) fn flow(&self, name: &str) -> Result<Flow> {
        let flow = self.flows().into_iter().find(|flow| flow.name == name);
        flow.ok_or_else(|| {
            let names: Vec<_> = self.flows().into_iter().map(|flow| flow.name).collect();
            Error::new(
                ErrorKind::NotFound,
                "flow_not_found",
                format!("there is no orchestration named {name:?}"),
            )
            .hint(format!("there are: {}", names.join(", ")))
        })
    }

    pub(super) async fn engine_stats(&self) -> Result<EngineStats> {
        self.engine.stats().await
    }
}

/// The operation that a child of an actor works on: `<name>-<operation>-<incarnation>-<execution>-<round>`.
fn operation_of(id: &str) -> Option<OperationId> {
    let mut at = [CreateInstance::NAME, DeleteInstance::NAME]
        .into_iter()
        .filter_map(|name| id.strip_prefix(name)?.strip_prefix('-'));
    at.next()?.get(..36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_id_is_about() {
        let operation = OperationId::generate();
        assert_eq!(
            operation_of(&format!("create-instance-{operation}-1-1-1")),
            Some(operation)
        );
        assert_eq!(operation_of("create-instance-nothing"), None);
        assert_eq!(operation_of("something"), None);
    }

    fn is_about_something_or_nothing(text: &str) {
        if let Some(operation) = operation_of(text) {
            assert!(
                text.to_lowercase().contains(&format!("e-instance-{operation}")),
                "{text}"
            );
            assert_eq!(parse_actor_id(text), None);
        }
    }

    #[test]
    fn fuzz_orchestration_id() {
        bolero::check!()
            .for_each(|bytes: &[u8]| is_about_something_or_nothing(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_an_id_is_it_is_about_something_or_nothing(
            any in ".*",
            near in "(actor|create-instance|delete-instance)-[0-9a-fé-]{30,40}(-[+0-9]{0,20}){0,3}",
        ) {
            for text in [any, near] {
                is_about_something_or_nothing(&text);
            }
        }
    }
}
