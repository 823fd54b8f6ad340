//! A store that fails as it is told to, counts its calls, and loses messages.

use async_trait::async_trait;
use duroxide::providers::{
    DispatcherCapabilityFilter, ExecutionMetadata, OrchestrationItem, Provider, ProviderAdmin, ProviderError,
    ScheduledActivityIdentifier, SessionFetchConfig, TagFilter, WorkItem,
};
use duroxide::{Event, SystemStats};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Answer<T> = Result<T, ProviderError>;

/// A call: its method, and the instance if it is known.
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    pub(crate) instance: Option<&'a str>,
}

type Fault = Box<dyn Fn(&Call<'_>) -> Option<ProviderError> + Send + Sync>;
type Loss = Box<dyn Fn(&WorkItem) -> bool + Send + Sync>;

/// See the module.
pub(crate) struct Faulty {
    inner: Arc<dyn Provider>,
    /// Fails a call before it is done.
    pub(crate) before: Mutex<Option<Fault>>,
    /// Fails a call after it was done.
    pub(crate) after: Mutex<Option<Fault>>,
    /// Loses messages to orchestrations.
    pub(crate) loses: Mutex<Option<Loss>>,
    /// Calls that look for work.
    pub(crate) fetches: AtomicU64,
    /// All calls, by method.
    pub(crate) calls: Mutex<BTreeMap<&'static str, u64>>,
    /// Turns that were written and that left something in the history, by orchestration and execution.
    pub(crate) turns: Mutex<BTreeMap<(String, u64), u64>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Provider>) -> Arc<Self> {
        let fetches = AtomicU64::new(0);
        Arc::new(Self {
            inner,
            before: Mutex::default(),
            after: Mutex::default(),
            loses: Mutex::default(),
            fetches,
            calls: Mutex::default(),
            turns: Mutex::default(),
        })
    }

    pub(crate) fn fail_before(
        &self,
        fault: impl Fn(&Call<'_>) -> Option<ProviderError> + Send + Sync + 'static,
    ) {
        *self.before.lock().unwrap() = Some(Box::new(fault));
    }

    pub(crate) fn fail_after(
        &self,
        fault: impl Fn(&Call<'_>) -> Option<ProviderError> + Send + Sync + 'static,
    ) {
        *self.after.lock().unwrap() = Some(Box::new(fault));
    }

    pub(crate) fn lose(&self, loss: impl Fn(&WorkItem) -> bool + Send + Sync + 'static) {
        *self.loses.lock().unwrap() = Some(Box::new(loss));
    }

    async fn pass<T>(&self, call: Call<'_>, done: impl Future<Output = Answer<T>>) -> Answer<T> {
        *self.calls.lock().unwrap().entry(call.method).or_default() += 1;
        let fails =
            |fault: &Mutex<Option<Fault>>| fault.lock().unwrap().as_ref().and_then(|fault| fault(&call));
        if let Some(error) = fails(&self.before) {
            return Err(error);
        }
        let answer = done.await?;
        match fails(&self.after) {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }
}

/// The error of a terminated backend, as duroxide-pg words and classes it.
pub(crate) fn terminated() -> ProviderError {
    let message =
        "Database error: error returned from database: terminating connection due to administrator command";
    ProviderError::permanent("test", message)
}

fn call(method: &'static str) -> Call<'static> {
    Call {
        method,
        instance: None,
    }
}

#[async_trait]
impl Provider for Faulty {
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
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let done = self
            .inner
            .fetch_orchestration_item(lock_timeout, poll_timeout, filter);
        self.pass(call("fetch_orchestration_item"), done).await
    }
    async fn ack_orchestration_item(
        &self,
        lock_token: &str,
        execution_id: u64,
        history_delta: Vec<Event>,
        worker_items: Vec<WorkItem>,
        mut orchestrator_items: Vec<WorkItem>,
        metadata: ExecutionMetadata,
        cancelled_activities: Vec<ScheduledActivityIdentifier>,
    ) -> Answer<()> {
        if let Some(loses) = self.loses.lock().unwrap().as_ref() {
            orchestrator_items.retain(|item| !loses(item));
        }
        let instance = history_delta.first().map(|event| event.instance_id.clone());
        let turn = instance.clone().map(|instance| (instance, execution_id));
        let written = self.inner.ack_orchestration_item(
            lock_token,
            execution_id,
            history_delta,
            worker_items,
            orchestrator_items,
            metadata,
            cancelled_activities,
        );
        let done = async {
            written.await?;
            if let Some(turn) = turn {
                *self.turns.lock().unwrap().entry(turn).or_default() += 1;
            }
            Ok(())
        };
        self.pass(
            Call {
                method: "ack_orchestration_item",
                instance: instance.as_deref(),
            },
            done,
        )
        .await
    }
    async fn abandon_orchestration_item(
        &self,
        lock_token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Answer<()> {
        let done = self
            .inner
            .abandon_orchestration_item(lock_token, delay, ignore_attempt);
        self.pass(call("abandon_orchestration_item"), done).await
    }
    async fn read(&self, instance: &str) -> Answer<Vec<Event>> {
        self.pass(call("read"), self.inner.read(instance)).await
    }
    async fn read_with_execution(&self, instance: &str, execution_id: u64) -> Answer<Vec<Event>> {
        self.pass(
            call("read_with_execution"),
            self.inner.read_with_execution(instance, execution_id),
        )
        .await
    }
    async fn append_with_execution(
        &self,
        instance: &str,
        execution_id: u64,
        new_events: Vec<Event>,
    ) -> Answer<()> {
        self.pass(
            call("append_with_execution"),
            self.inner
                .append_with_execution(instance, execution_id, new_events),
        )
        .await
    }
    async fn enqueue_for_worker(&self, item: WorkItem) -> Answer<()> {
        self.pass(call("enqueue_for_worker"), self.inner.enqueue_for_worker(item))
            .await
    }
    async fn fetch_work_item(
        &self,
        lock_timeout: Duration,
        poll_timeout: Duration,
        session: Option<&SessionFetchConfig>,
        tag_filter: &TagFilter,
    ) -> Answer<Option<(WorkItem, String, u32)>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let done = self
            .inner
            .fetch_work_item(lock_timeout, poll_timeout, session, tag_filter);
        self.pass(call("fetch_work_item"), done).await
    }
    async fn ack_work_item(&self, token: &str, completion: Option<WorkItem>) -> Answer<()> {
        self.pass(call("ack_work_item"), self.inner.ack_work_item(token, completion))
            .await
    }
    async fn renew_work_item_lock(&self, token: &str, extend_for: Duration) -> Answer<()> {
        self.pass(
            call("renew_work_item_lock"),
            self.inner.renew_work_item_lock(token, extend_for),
        )
        .await
    }
    async fn renew_session_lock(
        &self,
        owner_ids: &[&str],
        extend_for: Duration,
        idle_timeout: Duration,
    ) -> Answer<usize> {
        self.pass(
            call("renew_session_lock"),
            self.inner.renew_session_lock(owner_ids, extend_for, idle_timeout),
        )
        .await
    }
    async fn cleanup_orphaned_sessions(&self, idle_timeout: Duration) -> Answer<usize> {
        self.pass(
            call("cleanup_orphaned_sessions"),
            self.inner.cleanup_orphaned_sessions(idle_timeout),
        )
        .await
    }
    async fn abandon_work_item(
        &self,
        token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Answer<()> {
        self.pass(
            call("abandon_work_item"),
            self.inner.abandon_work_item(token, delay, ignore_attempt),
        )
        .await
    }
    async fn renew_orchestration_item_lock(&self, token: &str, extend_for: Duration) -> Answer<()> {
        let done = self.inner.renew_orchestration_item_lock(token, extend_for);
        self.pass(call("renew_orchestration_item_lock"), done).await
    }
    async fn enqueue_for_orchestrator(&self, item: WorkItem, delay: Option<Duration>) -> Answer<()> {
        let done = self.inner.enqueue_for_orchestrator(item, delay);
        self.pass(call("enqueue_for_orchestrator"), done).await
    }
    fn as_management_capability(&self) -> Option<&dyn ProviderAdmin> {
        self.inner.as_management_capability()
    }
    async fn get_custom_status(&self, instance: &str, version: u64) -> Answer<Option<(Option<String>, u64)>> {
        self.pass(
            call("get_custom_status"),
            self.inner.get_custom_status(instance, version),
        )
        .await
    }
    async fn get_kv_value(&self, instance: &str, key: &str) -> Answer<Option<String>> {
        self.pass(call("get_kv_value"), self.inner.get_kv_value(instance, key))
            .await
    }
    async fn get_kv_all_values(&self, instance: &str) -> Answer<HashMap<String, String>> {
        self.pass(call("get_kv_all_values"), self.inner.get_kv_all_values(instance))
            .await
    }
    async fn get_instance_stats(&self, instance: &str) -> Answer<Option<SystemStats>> {
        self.pass(
            call("get_instance_stats"),
            self.inner.get_instance_stats(instance),
        )
        .await
    }
}
