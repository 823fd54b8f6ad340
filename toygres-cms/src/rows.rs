//! Rows of the database as the types of the API.

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{Endpoint, Instance};
use toygres_models::intent::PendingOperation;
use toygres_models::operations::{Operation, OperationError};
use toygres_models::{InstanceId, Intent, OperationId};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What [`instance`] reads of `cms.instances i`.
pub(crate) const INSTANCE: &str = "i.id, i.name, i.user_name, i.state, i.health_status, i.state_reason, \
    i.postgres_version, i.storage_size_gb, i.cpu, i.memory_mb, i.internal, i.namespace, i.tags, \
    i.deletion_protection, i.endpoint_host, i.endpoint_port, i.created_at, i.updated_at, i.deleted_at, i.incarnation";

/// What [`operation`] reads, steps included, so that a list takes one query.
pub(crate) const OPERATIONS: &str = "select o.id, o.kind, o.state, o.instance_id, i.name as instance_name, \
    o.error_code, o.error_message, o.requested_at, o.started_at, o.finished_at, coalesce((\
        select json_agg(json_build_object('name', s.name, 'state', s.state, 'attempts', s.attempts, \
            'reason', s.reason, 'message', s.message, 'started_at', s.started_at, 'finished_at', s.finished_at) \
            order by s.position) \
        from cms.operation_steps s where s.operation_id = o.id), '[]') as steps \
    from cms.operations o join cms.instances i on i.id = o.instance_id";

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

fn undecodable(column: &str, source: BoxError) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source,
    }
}

pub(crate) fn instance(row: &PgRow) -> sqlx::Result<Instance> {
    let postgres_version: i32 = row.try_get("postgres_version")?;
    Ok(Instance {
        id: InstanceId(row.try_get("id")?),
        name: parsed(row, "name")?,
        user_name: parsed(row, "user_name")?,
        state: parsed(row, "state")?,
        health_status: parsed(row, "health_status")?,
        state_reason: row.try_get("state_reason")?,
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
        endpoint: endpoint(row)?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deleted_at: row.try_get("deleted_at")?,
    })
}

fn endpoint(row: &PgRow) -> sqlx::Result<Option<Endpoint>> {
    let host: Option<String> = row.try_get("endpoint_host")?;
    let port: Option<i32> = row.try_get("endpoint_port")?;
    host.zip(port)
        .map(|(host, port)| {
            let port = u16::try_from(port).map_err(|error| undecodable("endpoint_port", error.into()))?;
            Ok(Endpoint { host, port })
        })
        .transpose()
}

pub(crate) fn operation(row: &PgRow) -> sqlx::Result<Operation> {
    let code: Option<String> = row.try_get("error_code")?;
    let message: Option<String> = row.try_get("error_message")?;
    Ok(Operation {
        id: OperationId(row.try_get("id")?),
        kind: parsed(row, "kind")?,
        state: parsed(row, "state")?,
        instance_id: InstanceId(row.try_get("instance_id")?),
        instance_name: parsed(row, "instance_name")?,
        steps: row.try_get::<Json<_>, _>("steps")?.0,
        error: code
            .zip(message)
            .map(|(code, message)| OperationError { code, message }),
        requested_at: row.try_get("requested_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
    })
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
        operation_id: row
            .try_get::<Option<uuid::Uuid>, _>("operation_id")?
            .map(OperationId),
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
