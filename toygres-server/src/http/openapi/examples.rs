//! Examples, made from the types themselves, so that they can't differ from what is answered.

use super::super::orchestrations::Recreated;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use toygres_models::audit::AuditEvent;
use toygres_models::events::InstanceEvent;
use toygres_models::health::{HealthCheck, HealthStatus};
use toygres_models::instances::{
    BulkResult, Connection, Endpoint, Instance, InstanceAccepted, InstanceState,
};
use toygres_models::operations::{Operation, OperationKind, OperationState, Step, StepState};
use toygres_models::orchestrations::{
    EngineStats, Execution, HistoryEvent, Orchestration, OrchestrationDetails, OrchestrationNode,
    OrchestrationStatus,
};
use toygres_models::problem::Problem;
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::server::{
    Check, Count, Drift, EffectiveSetting, Probe, ServerHealth, ServerStats, SettingOrigin, Worker,
};
use toygres_models::tokens::{ApiToken, CreatedToken, TokenScope};
use toygres_models::{InstanceId, InstanceName, OperationId, OwnerName, PostgresVersion, TokenId, drift};
use utoipa::openapi::path::Operation as Described;
use utoipa::openapi::schema::{ArrayItems, Schema};
use utoipa::openapi::{Content, RefOr};
use uuid::Uuid;

/// Adds an example to each body of a request or an answer that has none.
pub(super) fn add(operation: &mut Described) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            let name = schema_name(content);
            content.example = content.example.take().or_else(|| request(&name?));
        }
    }
    let summary = operation.summary.clone().unwrap_or_default();
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        for (media_type, content) in &mut response.content {
            let RefOr::T(content) = content else { continue };
            if content.example.is_some() {
                continue;
            }
            content.example = match (media_type.as_str(), status.parse::<u16>()) {
                ("text/plain", _) => Some(json!("LOG:  database system is ready to accept connections\n")),
                ("text/event-stream", _) => Some(json!(stream(&schema_name(content).unwrap_or_default()))),
                ("application/x-pem-file", _) => Some(json!(
                    "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n"
                )),
                ("application/problem+json", Ok(404)) => {
                    Some(problem(404, &response.description, "no_certificate_authority"))
                }
                ("application/problem+json", Ok(412)) => {
                    Some(problem(412, &response.description, "changed_meanwhile"))
                }
                _ if summary.starts_with("Gives this document") => Some(json!({"openapi": "3.1.0"})),
                _ => answer(content),
            };
        }
    }
}

fn answer(content: &Content) -> Option<Value> {
    match content.schema.as_ref()? {
        RefOr::T(Schema::Array(_)) => Some(json!([one(&schema_name(content)?)?])),
        _ => one(&schema_name(content)?),
    }
}

/// The name of the schema, or of its items.
fn schema_name(content: &Content) -> Option<String> {
    let of_reference = |location: &str| location.rsplit('/').next().map(str::to_owned);
    match content.schema.as_ref()? {
        RefOr::Ref(reference) => of_reference(&reference.ref_location),
        RefOr::T(Schema::Array(array)) => match &array.items {
            ArrayItems::RefOrSchema(items) => match items.as_ref() {
                RefOr::Ref(reference) => of_reference(&reference.ref_location),
                RefOr::T(_) => Some("Value".to_owned()),
            },
            _ => None,
        },
        RefOr::T(Schema::OneOf(one_of)) => one_of.items.iter().find_map(|item| match item {
            RefOr::Ref(reference) => of_reference(&reference.ref_location),
            RefOr::T(_) => None,
        }),
        RefOr::T(_) => None,
    }
}

fn request(name: &str) -> Option<Value> {
    Some(match name {
        "CreateInstanceRequest" => json!({
            "name": "demo", "user_name": "test", "storage_size_gb": 10, "tags": {"team": "web"},
        }),
        "BulkCreateRequest" => json!({"base_name": "demo", "count": 3}),
        "BulkDeleteRequest" => json!({"names": ["demo-1", "demo-2"]}),
        "PatchInstanceRequest" => json!({"tags": {"team": "web", "old": null}, "deletion_protection": true}),
        "CreateTokenRequest" => {
            json!({"name": "ci", "scope": "write", "user_name": "test", "expires_in_days": 90})
        }
        "QuotaLimits" => json!({"max_instances": 10, "max_storage_gb": 500}),
        "CancelRequest" => json!({"reason": "stuck"}),
        "RaiseEventRequest" => json!({"name": "wake"}),
        _ => return None,
    })
}

fn stream(name: &str) -> String {
    let (event, id, data) = match name {
        "Operation" => ("operation", "9f86d081884c7d65".to_owned(), json!(operation())),
        _ => ("instance_event", event().id.to_string(), json!(event())),
    };
    format!("retry: 1000\n\nevent: {event}\nid: {id}\ndata: {data}\n\n: heartbeat\n\n")
}

pub(super) fn problem(status: u16, detail: &str, code: &str) -> Value {
    let title = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    json!(Problem {
        type_uri: "about:blank".to_owned(),
        title: title.canonical_reason().unwrap_or_default().to_owned(),
        status,
        detail: detail.to_owned(),
        code: code.to_owned(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        hint: None,
        errors: Vec::new(),
    })
}

#[allow(clippy::too_many_lines, reason = "a list")]
fn one(name: &str) -> Option<Value> {
    let at = time();
    Some(match name {
        "Instance" => json!(instance()),
        "InstanceAccepted" => json!(accepted()),
        "BulkResult" => json!(BulkResult {
            name: "demo".to_owned(),
            status: 202,
            accepted: Some(accepted()),
            problem: None,
        }),
        "Connection" => json!(Connection::new(&endpoint(), None, false, None)),
        "InstanceEvent" => json!(event()),
        "HealthCheck" => json!(HealthCheck {
            checked_at: at,
            healthy: true,
            response_time_ms: Some(2.5),
            server_version: Some("17.2".to_owned()),
            error_code: None,
            error_message: None,
        }),
        "Operation" => json!(operation()),
        "ApiToken" => json!(token()),
        "CreatedToken" => json!(CreatedToken {
            token: token(),
            text: format!("tgr_{}", "x".repeat(43)),
        }),
        "Quota" => json!(Quota {
            user_name: owner(),
            limits: QuotaLimits {
                max_instances: Some(10),
                max_storage_gb: Some(500),
            },
            own: true,
            instances: 3,
            storage_gb: 30,
        }),
        "AuditEvent" => json!(AuditEvent {
            id: 7,
            actor: "token:ci".to_owned(),
            action: "create_instance".to_owned(),
            instance_id: Some(InstanceId(INSTANCE)),
            operation_id: Some(OperationId(OPERATION)),
            object: None,
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
            created_at: at,
        }),
        "Orchestration" => json!(orchestration()),
        "OrchestrationDetails" => json!(OrchestrationDetails {
            orchestration: orchestration(),
            executions: vec![Execution {
                execution_id: 1,
                status: OrchestrationStatus::Running,
                started_at: at,
                finished_at: None,
                events: 12,
            }],
            tree: OrchestrationNode {
                id: orchestration().id,
                name: orchestration().name,
                status: OrchestrationStatus::Running,
                children: Vec::new(),
            },
        }),
        "HistoryEvent" => json!(HistoryEvent {
            event_id: 2,
            kind: "activity_scheduled".to_owned(),
            name: Some("cms-load-intent".to_owned()),
            source_event_id: None,
            at,
            input: Some(json!({"instance_id": INSTANCE, "incarnation": 1, "operation_id": null})),
            output: None,
            error: None,
            child_id: None,
            fire_at: None,
        }),
        "Recreated" => json!(Recreated {
            id: format!("actor-{INSTANCE}-2"),
        }),
        "Flow" => toygres_orchestrations::flows()
            .first()
            .map_or(Value::Null, |flow| json!(flow)),
        "ServerStats" => json!(ServerStats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: 3600.0,
            resident_memory_bytes: 50_000_000,
            instances_by_state: vec![count("running", 3)],
            instances_by_health: vec![count("healthy", 3)],
            operations_by_state: vec![count("succeeded", 3)],
            engine: EngineStats {
                running: 3,
                completed: 3,
                ..EngineStats::default()
            },
            database_connections: 4,
            database_connections_idle: 3,
            open_streams: 1,
        }),
        "Worker" => json!(Worker {
            id: INSTANCE,
            host: "node-1".to_owned(),
            pid: 4711,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: "all".to_owned(),
            started_at: at,
            last_seen_at: at + TimeDelta::seconds(10),
            orchestration_slots: 8,
            activity_slots: 16,
            activities_running: 1,
        }),
        "EffectiveSetting" => json!(EffectiveSetting {
            name: "TOYGRES_LISTEN".to_owned(),
            value: Some("127.0.0.1:8080".to_owned()),
            origin: SettingOrigin::Default,
            meaning: "Address of the API".to_owned(),
        }),
        "Value" => json!({"timestamp": at, "level": "INFO", "message": "answered", "status": 200}),
        "Drift" => json!(Drift {
            id: 1,
            kind: drift::UNKNOWN_OBJECT.to_owned(),
            object: "demo-6f2c4b8e".to_owned(),
            host: None,
            instance_id: Some(InstanceId(INSTANCE)),
            message: "it is on the platform, but there is no instance it belongs to".to_owned(),
            fixable: true,
            remedy: drift::remedy(drift::UNKNOWN_OBJECT, true).to_owned(),
            first_seen_at: at,
            last_seen_at: at,
        }),
        "ServerHealth" => json!(ServerHealth {
            status: "healthy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        "Probe" => json!(Probe {
            ok: true,
            checks: vec![Check {
                name: "database".to_owned(),
                ok: true,
                message: "answers".to_owned(),
            }],
        }),
        _ => return None,
    })
}

const INSTANCE: Uuid = Uuid::from_u128(0x6f2c_4b8e_0000_4000_8000_0000_0000_0001);
const OPERATION: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);
const TOKEN: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8058);

fn time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn count(name: &str, count: i64) -> Count {
    Count {
        name: name.to_owned(),
        count,
    }
}

#[allow(clippy::expect_used, reason = "constants")]
fn name() -> InstanceName {
    "demo".parse().expect("a name")
}

#[allow(clippy::expect_used, reason = "constants")]
fn owner() -> OwnerName {
    "test".parse().expect("a name")
}

#[allow(clippy::expect_used, reason = "constants")]
fn version() -> PostgresVersion {
    "17".parse().expect("a version")
}

fn endpoint() -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: 20000,
    }
}

fn instance() -> Instance {
    Instance {
        id: InstanceId(INSTANCE),
        name: name(),
        user_name: owner(),
        state: InstanceState::Running,
        health_status: HealthStatus::Healthy,
        state_reason: None,
        state_reason_code: None,
        postgres_version: version(),
        storage_size_gb: 10,
        cpu: None,
        memory_mb: None,
        internal: false,
        namespace: None,
        tags: [("team".to_owned(), "web".to_owned())].into(),
        deletion_protection: false,
        endpoint: Some(endpoint()),
        external_endpoint: None,
        created_at: time(),
        updated_at: time(),
        deleted_at: None,
    }
}

fn operation() -> Operation {
    Operation {
        id: OperationId(OPERATION),
        kind: OperationKind::Create,
        state: OperationState::Running,
        instance_id: InstanceId(INSTANCE),
        instance_name: name(),
        steps: vec![Step {
            name: "deploy-postgres".to_owned(),
            state: StepState::Running,
            attempts: 1,
            reason: None,
            message: None,
            started_at: time(),
            finished_at: None,
        }],
        error: None,
        requested_at: time(),
        started_at: Some(time()),
        finished_at: None,
    }
}

fn accepted() -> InstanceAccepted {
    let mut instance = instance();
    instance.state = InstanceState::Creating;
    instance.health_status = HealthStatus::Unknown;
    instance.endpoint = None;
    InstanceAccepted {
        instance,
        operation: operation(),
        password: None,
    }
}

fn event() -> InstanceEvent {
    InstanceEvent {
        id: 42,
        instance_id: InstanceId(INSTANCE),
        instance_name: name(),
        user_name: owner(),
        operation_id: Some(OperationId(OPERATION)),
        kind: "state_changed".to_owned(),
        message: "it runs".to_owned(),
        created_at: time(),
    }
}

fn token() -> ApiToken {
    ApiToken {
        id: TokenId(TOKEN),
        name: "ci".to_owned(),
        scope: TokenScope::Write,
        user_name: Some(owner()),
        created_at: time(),
        expires_at: Some(time() + TimeDelta::days(90)),
        last_used_at: None,
        revoked_at: None,
    }
}

fn orchestration() -> Orchestration {
    Orchestration {
        id: format!("actor-{INSTANCE}-1"),
        name: "instance-actor".to_owned(),
        version: "1.0.0".to_owned(),
        status: OrchestrationStatus::Running,
        parent_id: None,
        instance_id: Some(InstanceId(INSTANCE)),
        execution_id: 1,
        created_at: time(),
        updated_at: time(),
        error: None,
    }
}
