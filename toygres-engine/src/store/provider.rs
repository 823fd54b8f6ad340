//! The decorator's side towards duroxide.

use super::calls::{self, Call};
use super::retry::{renewal, some_times, until_definite};
use super::verdict::{Verdict, verdict};
use super::{Answer, Store, contain, delay_of, turns};
use async_trait::async_trait;
use duroxide::providers::{
    DispatcherCapabilityFilter, ExecutionMetadata, OrchestrationItem, Provider, ProviderAdmin, ProviderError,
    ScheduledActivityIdentifier, SessionFetchConfig, TagFilter, WorkItem,
};
use duroxide::{Event, SystemStats};
use std::collections::HashMap;
use std::time::Duration;
use toygres_telemetry::Event as _;
use toygres_telemetry::events::{ActivityPoisoned, ProviderOperation as Operation};

#[async_trait]
impl Provider for Store {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn version(&self) -> &str {
        self.inner.version()
    }

    async fn fetch_orchestration_item(
        &self,
        lock_timeout: Duration,
        poll_timeout: Duration,
        filter: Option<&DispatcherCapabilityFilter>,
    ) -> Answer<Option<(OrchestrationItem, String, u32)>> {
        let look = || {
            let look = self
                .inner
                .fetch_orchestration_item(lock_timeout, poll_timeout, filter);
            self.look(calls::FETCH_ORCHESTRATION, look)
        };
        let found = match self.guards.wake {
            true => self.queues.orchestrations.fetch(poll_timeout, look).await?,
            false => look().await?,
        };
        if let Some((item, lock_token, _)) = &found {
            self.turns.begin(lock_token, item);
        }
        Ok(found)
    }

    async fn ack_orchestration_item(
        &self,
        lock_token: &str,
        execution_id: u64,
        mut history_delta: Vec<Event>,
        worker_items: Vec<WorkItem>,
        mut orchestrator_items: Vec<WorkItem>,
        metadata: ExecutionMetadata,
        cancelled_activities: Vec<ScheduledActivityIdentifier>,
    ) -> Answer<()> {
        const CALL: Call = Call::new(Operation::Ack, "ack_orchestration_item");
        if self.guards.failures {
            orchestrator_items = orchestrator_items.into_iter().map(contain::failed).collect();
        }
        if self.guards.payloads {
            let mut items = worker_items.iter().chain(&orchestrator_items);
            items.try_for_each(|item| contain::check(CALL.method, item))?;
            contain::check_metadata(CALL.method, &metadata)?;
        }
        if self.guards.turns {
            self.turns.stamp(lock_token, &mut history_delta);
        }
        let attempt = || {
            let ack = self.inner.ack_orchestration_item(
                lock_token,
                execution_id,
                history_delta.clone(),
                worker_items.clone(),
                orchestrator_items.clone(),
                metadata.clone(),
                cancelled_activities.clone(),
            );
            self.pass(CALL, ack)
        };
        if self.guards.retries {
            let ack = until_definite(CALL, attempt).await;
            if let Err(error) = ack.result {
                // The first try may have been done although its answer was lost. What it wrote tells.
                let done =
                    ack.in_doubt && verdict(&error) == Verdict::Lost && self.is_written(&history_delta).await;
                if !done {
                    if verdict(&error) == Verdict::Lost {
                        self.turns.lost(lock_token);
                    }
                    return Err(error);
                }
            }
        } else {
            attempt().await?;
        }
        self.turns.acked(lock_token, execution_id, &history_delta);
        self.hint_activities(worker_items.len());
        self.hint_orchestrations(&orchestrator_items);
        // What came for this orchestration while it was locked can be fetched from now on.
        self.hint_orchestrations_now(1);
        Ok(())
    }

    async fn abandon_orchestration_item(
        &self,
        lock_token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Answer<()> {
        self.turns.lost(lock_token);
        self.give_back(
            Call::new(Operation::Abandon, "abandon_orchestration_item"),
            || {
                self.inner
                    .abandon_orchestration_item(lock_token, delay, ignore_attempt)
            },
        )
        .await?;
        self.queues
            .orchestrations
            .hint_after(delay.unwrap_or_default() + Duration::from_millis(1));
        Ok(())
    }

    async fn read(&self, instance: &str) -> Answer<Vec<Event>> {
        self.ask(Call::new(Operation::Query, "read"), || self.inner.read(instance))
            .await
    }

    async fn read_with_execution(&self, instance: &str, execution_id: u64) -> Answer<Vec<Event>> {
        self.ask(Call::new(Operation::Query, "read_with_execution"), || {
            self.inner.read_with_execution(instance, execution_id)
        })
        .await
    }

    async fn append_with_execution(
        &self,
        instance: &str,
        execution_id: u64,
        new_events: Vec<Event>,
    ) -> Answer<()> {
        let append = self
            .inner
            .append_with_execution(instance, execution_id, new_events);
        self.pass(Call::new(Operation::SaveEvent, "append_with_execution"), append)
            .await
    }

    async fn enqueue_for_worker(&self, item: WorkItem) -> Answer<()> {
        const CALL: Call = Call::new(Operation::Enqueue, "enqueue_for_worker");
        if self.guards.payloads {
            contain::check(CALL.method, &item)?;
        }
        self.ask(CALL, || self.inner.enqueue_for_worker(item.clone()))
            .await?;
        self.hint_activities(1);
        Ok(())
    }

    async fn fetch_work_item(
        &self,
        lock_timeout: Duration,
        poll_timeout: Duration,
        session: Option<&SessionFetchConfig>,
        tag_filter: &TagFilter,
    ) -> Answer<Option<(WorkItem, String, u32)>> {
        let look = || {
            let look = self
                .inner
                .fetch_work_item(lock_timeout, poll_timeout, session, tag_filter);
            self.look(calls::FETCH_ACTIVITY, look)
        };
        if !self.guards.wake {
            return look().await;
        }
        self.queues.activities.fetch(poll_timeout, look).await
    }

    async fn ack_work_item(&self, token: &str, completion: Option<WorkItem>) -> Answer<()> {
        const CALL: Call = Call::new(Operation::Ack, "ack_work_item");
        let given_up = completion.as_ref().and_then(turns::poisoned);
        let contained = completion.map(|item| match self.guards.payloads {
            true => contain::completion(item),
            false => item,
        });
        let contained = contained.map(|item| match self.guards.failures {
            true => contain::failed(item),
            false => item,
        });
        let attempt = || self.pass(CALL, self.inner.ack_work_item(token, contained.clone()));
        if self.guards.retries {
            let ack = until_definite(CALL, attempt).await;
            match ack.result {
                // Either the first try was done and its answer was lost, or the lock ran out meanwhile and the work
                // is done again by whoever takes it up. In both cases there is nothing left to do here.
                Err(error) if ack.in_doubt && verdict(&error) == Verdict::Lost => {
                    tracing::debug!(%error, "a completion was written before, or its work is taken up again");
                }
                result => result?,
            }
        } else {
            attempt().await?;
        }
        if let Some((activity_name, orchestration_id)) = &given_up {
            ActivityPoisoned {
                activity_name,
                orchestration_id,
            }
            .emit();
        }
        self.hint_orchestrations_now(usize::from(contained.is_some()));
        Ok(())
    }

    async fn renew_work_item_lock(&self, token: &str, extend_for: Duration) -> Answer<()> {
        const CALL: Call = Call::new(Operation::Renew, "renew_work_item_lock");
        let attempt = || self.pass(CALL, self.inner.renew_work_item_lock(token, extend_for));
        if !self.guards.renewals {
            return attempt().await;
        }
        renewal(CALL, extend_for, attempt).await
    }

    async fn renew_session_lock(
        &self,
        owner_ids: &[&str],
        extend_for: Duration,
        idle_timeout: Duration,
    ) -> Answer<usize> {
        self.ask(Call::new(Operation::Renew, "renew_session_lock"), || {
            self.inner.renew_session_lock(owner_ids, extend_for, idle_timeout)
        })
        .await
    }

    async fn cleanup_orphaned_sessions(&self, idle_timeout: Duration) -> Answer<usize> {
        self.ask(Call::new(Operation::Query, "cleanup_orphaned_sessions"), || {
            self.inner.cleanup_orphaned_sessions(idle_timeout)
        })
        .await
    }

    async fn abandon_work_item(
        &self,
        token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Answer<()> {
        self.give_back(Call::new(Operation::Abandon, "abandon_work_item"), || {
            self.inner.abandon_work_item(token, delay, ignore_attempt)
        })
        .await?;
        self.queues
            .activities
            .hint_after(delay.unwrap_or_default() + Duration::from_millis(1));
        Ok(())
    }

    async fn renew_orchestration_item_lock(&self, token: &str, extend_for: Duration) -> Answer<()> {
        const CALL: Call = Call::new(Operation::Renew, "renew_orchestration_item_lock");
        let attempt = || self.pass(CALL, self.inner.renew_orchestration_item_lock(token, extend_for));
        if !self.guards.renewals {
            return attempt().await;
        }
        renewal(CALL, extend_for, attempt).await
    }

    async fn enqueue_for_orchestrator(&self, item: WorkItem, delay: Option<Duration>) -> Answer<()> {
        let operation = match item {
            WorkItem::StartOrchestration { .. } => Operation::CreateInstance,
            _ => Operation::Enqueue,
        };
        let call = Call::new(operation, "enqueue_for_orchestrator");
        if self.guards.payloads {
            contain::check(call.method, &item)?;
        }
        // It would bear the time from which it can be seen: an hour from now, for example.
        if !self.clock.fits() {
            let why = "this machine's clock is away from the database's";
            return Err(ProviderError::retryable(call.method, why));
        }
        // Twice the same is harmless but for an event: a second start is dropped, a second wake-up wakes.
        let attempt = || self.inner.enqueue_for_orchestrator(item.clone(), delay);
        match item {
            WorkItem::ExternalRaised { .. } => self.pass(call, attempt()).await?,
            _ => self.ask(call, attempt).await?,
        }
        let due = delay_of(&item).unwrap_or_default().max(delay.unwrap_or_default());
        match due.is_zero() {
            true => self.hint_orchestrations_now(1),
            false => self
                .queues
                .orchestrations
                .hint_after(due + Duration::from_millis(1)),
        }
        Ok(())
    }

    fn as_management_capability(&self) -> Option<&dyn ProviderAdmin> {
        self.inner.as_management_capability()
    }

    async fn get_custom_status(
        &self,
        instance: &str,
        last_seen_version: u64,
    ) -> Answer<Option<(Option<String>, u64)>> {
        self.ask(Call::new(Operation::Query, "get_custom_status"), || {
            self.inner.get_custom_status(instance, last_seen_version)
        })
        .await
    }

    async fn get_kv_value(&self, instance: &str, key: &str) -> Answer<Option<String>> {
        self.ask(Call::new(Operation::Query, "get_kv_value"), || {
            self.inner.get_kv_value(instance, key)
        })
        .await
    }

    async fn get_kv_all_values(&self, instance: &str) -> Answer<HashMap<String, String>> {
        self.ask(Call::new(Operation::Query, "get_kv_all_values"), || {
            self.inner.get_kv_all_values(instance)
        })
        .await
    }

    async fn get_instance_stats(&self, instance: &str) -> Answer<Option<SystemStats>> {
        self.ask(Call::new(Operation::Query, "get_instance_stats"), || {
            self.inner.get_instance_stats(instance)
        })
        .await
    }
}

impl Store {
    /// Something that can be done twice, tried some times.
    async fn ask<T, F>(&self, call: Call, mut attempt: impl FnMut() -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        if !self.guards.retries {
            return self.pass(call, attempt()).await;
        }
        some_times(call, || self.pass(call, attempt())).await.result
    }

    /// Gives work back. If a second try finds the lock gone, the first one was done.
    async fn give_back<F>(&self, call: Call, mut attempt: impl FnMut() -> F) -> Answer<()>
    where
        F: Future<Output = Answer<()>>,
    {
        if !self.guards.retries {
            return self.pass(call, attempt()).await;
        }
        let answer = some_times(call, || self.pass(call, attempt())).await;
        match answer.result {
            Err(error) if answer.in_doubt && verdict(&error) == Verdict::Lost => Ok(()),
            result => result,
        }
    }

    /// Whether these very events are in the store.
    async fn is_written(&self, history_delta: &[Event]) -> bool {
        let Some(last) = history_delta.last() else {
            return false;
        };
        let history = self
            .read_with_execution(&last.instance_id, last.execution_id)
            .await;
        history.is_ok_and(|history| history.contains(last))
    }
}
