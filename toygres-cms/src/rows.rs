//! Rows of the database as the types of the API.

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use toygres_models::audit::AuditEvent;
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{Endpoint, Instance};
use toygres_models::intent::PendingOperation;
use toygres_models::operations::{Operation, OperationError, Step};
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::server::{Drift, Worker};
use toygres_models::tokens::ApiToken;
use toygres_models::{InstanceId, Intent, OperationId, TokenId, drift};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What [`instance`] reads of `cms.instances i`. One that is well is not asked why it is not.
pub(crate) const INSTANCE: &str = "i.id, i.name, i.user_name, i.state, i.health_status, i.state_reason, \
    i.postgres_version, i.storage_size_gb, i.cpu, i.memory_mb, i.internal, i.namespace, i.tags, \
    i.deletion_protection, i.endpoint_host, i.endpoint_port, i.external_host, i.external_port, i.created_at, i.updated_at, \
    i.deleted_at, i.incarnation, \
    case when i.state <> 'running' or i.consecutive_failures > 0 then cms.why(i) end as why";

/// What [`operation`] reads.
pub(crate) const OPERATIONS: &str = "select o.id, o.kind, o.state, o.instance_id, i.name as instance_name, \
    o.error_code, o.error_message, o.requested_at, o.started_at, o.finished_at \
    from cms.operations o join cms.instances i on i.id = o.instance_id";

/// What [`step`] reads of `cms.operation_steps s`.
pub(crate) const STEP: &str = "s.name as step_name, s.state as step_state, s.attempts as step_attempts, \
    s.reason as step_reason, s.message as step_message, s.started_at as step_started_at, \
    s.finished_at as step_finished_at";

/// Written out, not bound: for a limit that it does not know, the database takes a tenth of the table, finds that plan
/// dear, and so makes another one for every page, which takes it longer than the page itself.
pub(crate) fn limit_clause(limit: u32) -> String {
    format!(" limit {limit}")
}

/// A column that holds a name or one of a set of words.
pub(crate) fn parsed<T>(row: &PgRow, column: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr<Err: Into<BoxError>>,
{
    parse(column, row.try_get(column)?)
}

fn parse<T>(column: &str, text: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr<Err: Into<BoxError>>,
{
    text.parse()
        .map_err(|error: T::Err| undecodable(column, error.into()))
}

/// As [`parsed`], of a column that may be null.
fn parsed_option<T>(row: &PgRow, column: &str) -> sqlx::Result<Option<T>>
where
    T: std::str::FromStr<Err: Into<BoxError>>,
{
    row.try_get::<Option<&str>, _>(column)?
        .map(|text| parse(column, text))
        .transpose()
}

fn undecodable(column: &str, source: BoxError) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source,
    }
}

pub(crate) fn instance(row: &PgRow) -> sqlx::Result<Instance> {
    let postgres_version: i32 = row.try_get("postgres_version")?;
    let why: Option<Vec<Option<String>>> = row.try_get("why")?;
    let mut why = why.into_iter().flatten();
    let (code, sentence) = (why.next().flatten(), why.next().flatten());
    Ok(Instance {
        id: InstanceId(row.try_get("id")?),
        name: parsed(row, "name")?,
        user_name: parsed(row, "user_name")?,
        state: parsed(row, "state")?,
        health_status: parsed(row, "health_status")?,
        state_reason: match sentence {
            None => row.try_get("state_reason")?,
            now => now,
        },
        state_reason_code: code,
        postgres_version: postgres_version.try_into().map_err(
            |error: toygres_models::names::ParseNameError| undecodable("postgres_version", error.into()),
        )?,
        storage_size_gb: row.try_get("storage_size_gb")?,
        cpu: row.try_get("cpu")?,
        memory_mb: row.try_get("memory_mb")?,
        internal: row.try_get("internal")?,
        namespace: row.try_get("namespace")?,
        tags: row.try_get::<Json<_>, _>("tags")?.0,
        deletion_protection: row.try_get("deletion_protection")?,
        endpoint: endpoint(row, "endpoint_host", "endpoint_port")?,
        external_endpoint: endpoint(row, "external_host", "external_port")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deleted_at: row.try_get("deleted_at")?,
    })
}

fn endpoint(row: &PgRow, host: &str, port: &str) -> sqlx::Result<Option<Endpoint>> {
    let address: Option<String> = row.try_get(host)?;
    let number: Option<i32> = row.try_get(port)?;
    address
        .zip(number)
        .map(|(host, number)| {
            let port = u16::try_from(number).map_err(|error| undecodable(port, error.into()))?;
            Ok(Endpoint { host, port })
        })
        .transpose()
}

/// Without its steps.
fn operation(row: &PgRow) -> sqlx::Result<Operation> {
    let code: Option<String> = row.try_get("error_code")?;
    let message: Option<String> = row.try_get("error_message")?;
    Ok(Operation {
        id: OperationId(row.try_get("id")?),
        kind: parsed(row, "kind")?,
        state: parsed(row, "state")?,
        instance_id: InstanceId(row.try_get("instance_id")?),
        instance_name: parsed(row, "instance_name")?,
        steps: Vec::new(),
        error: code
            .zip(message)
            .map(|(code, message)| OperationError { code, message }),
        requested_at: row.try_get("requested_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}

/// The step of a row, if the operation has begun one.
fn step(row: &PgRow) -> sqlx::Result<Option<Step>> {
    let Some(name) = row.try_get("step_name")? else {
        return Ok(None);
    };
    let reason: Option<&str> = row.try_get("step_reason")?;
    Ok(Some(Step {
        name,
        state: parsed(row, "step_state")?,
        attempts: row.try_get("step_attempts")?,
        reason: reason.map(|word| parse("step_reason", word)).transpose()?,
        message: row.try_get("step_message")?,
        started_at: row.try_get("step_started_at")?,
        finished_at: row.try_get("step_finished_at")?,
    }))
}

/// Operations whose rows come once a step, those of one operation behind each other.
pub(crate) fn operations_with_steps(rows: &[PgRow]) -> sqlx::Result<Vec<Operation>> {
    let mut operations: Vec<Operation> = Vec::new();
    for row in rows {
        let id = OperationId(row.try_get("id")?);
        if operations.last().is_none_or(|last| last.id != id) {
            operations.push(operation(row)?);
        }
        if let (Some(operation), Some(step)) = (operations.last_mut(), step(row)?) {
            operation.steps.push(step);
        }
    }
    Ok(operations)
}

/// A row of the view `cms.intents`.
pub(crate) fn intent(row: &PgRow) -> sqlx::Result<Intent> {
    let id: Option<uuid::Uuid> = row.try_get("operation_id")?;
    let kind: Option<&str> = row.try_get("operation_kind")?;
    let operation = id
        .zip(kind)
        .map(|(id, kind)| {
            Ok::<_, sqlx::Error>(PendingOperation {
                id: OperationId(id),
                kind: parse("operation_kind", kind)?,
            })
        })
        .transpose()?;
    Ok(Intent {
        state: parsed(row, "state")?,
        desired_state: parsed(row, "desired_state")?,
        operation,
        failed_checks: row.try_get("consecutive_failures")?,
    })
}

pub(crate) fn event(row: &PgRow) -> sqlx::Result<InstanceEvent> {
    Ok(InstanceEvent {
        id: row.try_get("id")?,
        instance_id: InstanceId(row.try_get("instance_id")?),
        instance_name: parsed(row, "instance_name")?,
        user_name: parsed(row, "user_name")?,
        operation_id: row.try_get::<Option<_>, _>("operation_id")?.map(OperationId),
        kind: row.try_get("kind")?,
        message: row.try_get("message")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(crate) fn health_check(row: &PgRow) -> sqlx::Result<HealthCheck> {
    Ok(HealthCheck {
        checked_at: row.try_get("checked_at")?,
        healthy: row.try_get("healthy")?,
        response_time_ms: row.try_get("response_time_ms")?,
        server_version: row.try_get("server_version")?,
        error_code: row.try_get("error_code")?,
        error_message: row.try_get("error_message")?,
    })
}

pub(crate) fn token(row: &PgRow) -> sqlx::Result<ApiToken> {
    Ok(ApiToken {
        id: TokenId(row.try_get("id")?),
        name: row.try_get("name")?,
        scope: parsed(row, "scope")?,
        user_name: parsed_option(row, "user_name")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        last_used_at: row.try_get("last_used_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

pub(crate) fn audit_event(row: &PgRow) -> sqlx::Result<AuditEvent> {
    Ok(AuditEvent {
        id: row.try_get("id")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        instance_id: row.try_get::<Option<_>, _>("instance_id")?.map(InstanceId),
        operation_id: row.try_get::<Option<_>, _>("operation_id")?.map(OperationId),
        object: row.try_get("object")?,
        trace_id: row.try_get("trace_id")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(crate) fn quota_limits(row: &PgRow) -> sqlx::Result<QuotaLimits> {
    Ok(QuotaLimits {
        max_instances: row.try_get("max_instances")?,
        max_storage_gb: row.try_get("max_storage_gb")?,
    })
}

/// What an owner has, and may have: `default`, unless it has limits of its own.
pub(crate) fn quota(row: &PgRow, default: QuotaLimits) -> sqlx::Result<Quota> {
    let own = row.try_get("own")?;
    Ok(Quota {
        user_name: parsed(row, "user_name")?,
        limits: if own { quota_limits(row)? } else { default },
        own,
        instances: row.try_get("instances")?,
        storage_gb: row.try_get("storage_gb")?,
    })
}

pub(crate) fn worker(row: &PgRow) -> sqlx::Result<Worker> {
    Ok(Worker {
        id: row.try_get("id")?,
        host: row.try_get("host")?,
        pid: row.try_get("pid")?,
        version: row.try_get("version")?,
        mode: row.try_get("mode")?,
        started_at: row.try_get("started_at")?,
        last_seen_at: row.try_get("last_seen_at")?,
        orchestration_slots: row.try_get("orchestration_slots")?,
        activity_slots: row.try_get("activity_slots")?,
        activities_running: row.try_get("activities_running")?,
    })
}

pub(crate) fn drift(row: &PgRow) -> sqlx::Result<Drift> {
    let kind: String = row.try_get("kind")?;
    let instance_id = row.try_get::<Option<_>, _>("instance_id")?.map(InstanceId);
    Ok(Drift {
        id: row.try_get("id")?,
        fixable: kind == drift::UNKNOWN_OBJECT && instance_id.is_some(),
        remedy: drift::remedy(&kind, instance_id.is_some()).to_owned(),
        kind,
        object: row.try_get("object")?,
        host: row.try_get("host")?,
        instance_id,
        message: row.try_get("message")?,
        first_seen_at: row.try_get("first_seen_at")?,
        last_seen_at: row.try_get("last_seen_at")?,
    })
}
