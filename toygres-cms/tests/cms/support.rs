//! What the tests share.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::collections::BTreeMap;
use std::time::Duration;
use toygres_cms::{
    AuditFilter, Cms, CreateInstance, Created, EventFilter, Idempotency, InstanceSelector, MasterKey, Origin,
    migrate,
};
use toygres_models::events::InstanceEvent;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{CreateInstanceRequest, Endpoint, Instance, NewInstance};
use toygres_models::operations::{Operation, OperationError};
use toygres_models::quotas::QuotaLimits;
use toygres_models::{Error, ErrorKind, InstanceId, OperationId, Result, Scope, Secret};
use toygres_testing::TestDatabase;

pub(crate) const PASSWORD: &str = "canary-hunter2-grün";

/// A migrated database and the repository on it.
pub(crate) struct Fixture {
    pub(crate) cms: Cms,
    pub(crate) pool: PgPool,
}

pub(crate) fn key(byte: u8) -> MasterKey {
    let text = STANDARD.encode([byte; 32]);
    MasterKey::from_base64(&Secret::new(text)).unwrap()
}

pub(crate) async fn connect(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(20);
    options
        .acquire_timeout(Duration::from_secs(60))
        .connect(url)
        .await
        .unwrap()
}

/// The trace of every request here.
pub(crate) const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

pub(crate) fn origin() -> Origin {
    Origin {
        actor: "tester".to_owned(),
        traceparent: Some(format!("00-{TRACE_ID}-b7ad6b7169203331-01")),
        owner: None,
    }
}

/// A caller that may act for this owner only.
pub(crate) fn origin_of(owner: &str) -> Origin {
    Origin {
        owner: Some(owner.parse().unwrap()),
        ..origin()
    }
}

pub(crate) fn request(name: &str) -> CreateInstanceRequest {
    serde_json::from_value(serde_json::json!({ "name": name, "password": PASSWORD })).unwrap()
}

pub(crate) fn new_instance(name: &str) -> NewInstance {
    request(name).parse().unwrap()
}

pub(crate) fn error() -> OperationError {
    OperationError {
        code: "image_pull".to_owned(),
        message: "the image can't be fetched".to_owned(),
    }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: 5433,
    }
}

/// The check number `n`, each at a time of its own.
pub(crate) fn check(n: i64, healthy: bool) -> HealthCheck {
    let begin: DateTime<Utc> = "2026-01-01T00:00:00.123456789Z".parse().unwrap();
    HealthCheck {
        checked_at: begin + TimeDelta::seconds(n),
        healthy,
        response_time_ms: healthy.then_some(1.5),
        server_version: healthy.then(|| "15.18".to_owned()),
        error_code: (!healthy).then(|| "connection_refused".to_owned()),
        error_message: (!healthy).then(|| format!("refused, check {n}")),
    }
}

pub(crate) fn assert_error<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, code: &str) -> Error {
    let error = result.expect_err("an error was expected");
    assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}");
    error
}

/// A secret as text, as bytes in hexadecimal digits, which is how the database prints them, and in Base64.
pub(crate) fn forms(secret: &str) -> Vec<String> {
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![
        secret.to_owned(),
        hex,
        STANDARD.encode(secret).trim_end_matches('=').to_owned(),
    ]
}

/// A new instance and who acts on it.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) instance: Instance,
    pub(crate) operation: Operation,
    pub(crate) scope: Scope,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let pool = connect(&TestDatabase::new().await.url).await;
        migrate(&pool).await.unwrap();
        Self {
            cms: Cms::new(pool.clone(), key(1)),
            pool,
        }
    }

    pub(crate) async fn try_create(&self, new: &NewInstance, key: Option<(&str, &[u8])>) -> Result<Created> {
        self.create_as(new, key, &origin(), QuotaLimits::default()).await
    }

    pub(crate) async fn create_as(
        &self,
        new: &NewInstance,
        key: Option<(&str, &[u8])>,
        origin: &Origin,
        default_limits: QuotaLimits,
    ) -> Result<Created> {
        let idempotency = key.map(|(key, body)| Idempotency {
            key,
            request_hash: self.cms.request_hash(body),
        });
        let postgres_version = "17".parse().unwrap();
        self.cms
            .create_instance(CreateInstance {
                new,
                postgres_version,
                host: Some("here"),
                default_limits,
                origin,
                idempotency,
            })
            .await
    }

    pub(crate) async fn create(&self, name: &str) -> Fresh {
        match self.try_create(&new_instance(name), None).await.unwrap() {
            Created::Fresh {
                instance,
                operation,
                incarnation,
                ..
            } => Fresh {
                scope: Scope {
                    instance_id: instance.id,
                    incarnation,
                    operation_id: Some(operation.id),
                },
                instance,
                operation,
            },
            Created::Replayed { .. } => panic!("no key was sent"),
        }
    }

    pub(crate) async fn create_running(&self, name: &str) -> Fresh {
        let fresh = self.create(name).await;
        self.cms.begin_operation(&fresh.scope).await.unwrap();
        self.cms
            .record_running(&fresh.scope, &endpoint(), None, Some(u64::MAX), &check(0, true))
            .await
            .unwrap();
        fresh
    }

    /// An instance whose creation has failed.
    pub(crate) async fn create_failed(&self, name: &str) -> Fresh {
        let fresh = self.create(name).await;
        self.cms.begin_operation(&fresh.scope).await.unwrap();
        self.cms.record_failed(&fresh.scope, &error()).await.unwrap();
        fresh
    }

    pub(crate) async fn instance(&self, id: InstanceId) -> Instance {
        self.cms
            .get_instance(&InstanceSelector::Id(id), None)
            .await
            .unwrap()
    }

    pub(crate) async fn operation(&self, id: OperationId) -> Operation {
        self.cms.get_operation(id, None).await.unwrap()
    }

    /// Asks for the deletion, and gives the scope of who does it.
    pub(crate) async fn request_delete(&self, id: InstanceId) -> Scope {
        let deletion = self
            .cms
            .request_delete(&InstanceSelector::Id(id), &origin())
            .await
            .unwrap();
        Scope {
            instance_id: id,
            incarnation: deletion.incarnation,
            operation_id: Some(deletion.operation.id),
        }
    }

    pub(crate) async fn delete(&self, id: InstanceId) {
        let scope = self.request_delete(id).await;
        self.cms.begin_operation(&scope).await.unwrap();
        self.cms.record_deleted(&scope).await.unwrap();
    }

    pub(crate) async fn events(&self, id: InstanceId) -> Vec<String> {
        let events = self.list_events(Some(id), Some(0)).await;
        events.into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn list_events(
        &self,
        instance_id: Option<InstanceId>,
        after: Option<i64>,
    ) -> Vec<InstanceEvent> {
        let filter = EventFilter {
            instance_id,
            user_name: None,
            after,
            limit: 1000,
        };
        self.cms.list_events(&filter).await.unwrap()
    }

    /// The actions in the audit, oldest first, each with what else it was done to.
    pub(crate) async fn audited(&self) -> Vec<(String, Option<String>)> {
        let mut events = self.cms.list_audit(&AuditFilter::default()).await.unwrap();
        events.reverse();
        events
            .into_iter()
            .map(|event| (event.action, event.object))
            .collect()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(&format!("select count(*) from cms.{table}"))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn execute(&self, statement: &str) -> u64 {
        sqlx::query(statement)
            .execute(&self.pool)
            .await
            .unwrap()
            .rows_affected()
    }

    /// Every row of every table as text.
    pub(crate) async fn everything(&self) -> BTreeMap<String, Vec<String>> {
        let tables: Vec<String> =
            sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'cms'")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        assert!(tables.len() > 10);
        let mut everything = BTreeMap::new();
        for table in tables {
            let rows = sqlx::query_scalar(&format!("select t::text from cms.{table} t order by 1"))
                .fetch_all(&self.pool)
                .await
                .unwrap();
            everything.insert(table, rows);
        }
        everything
    }
}
