//! The tables: how they come about, and that their words are the program's.

use crate::support::{Fixture, assert_error, connect, key};
use sqlx::PgPool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use std::collections::BTreeSet;
use toygres_cms::{AuditFilter, Cms, EventFilter, migrate};
use toygres_models::health::HealthStatus;
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::operations::{OperationKind, OperationState, StepState};
use toygres_models::tokens::TokenScope;
use toygres_models::{ErrorKind, OperationId};
use toygres_testing::TestDatabase;

#[tokio::test]
async fn servers_that_start_together_migrate_once() {
    let database = TestDatabase::new().await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            tokio::spawn(async move { migrate(&connect(&url).await).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let pool = connect(&database.url).await;
    migrate(&pool).await.unwrap();
    let applied: i64 = sqlx::query_scalar("select count(*) from cms._sqlx_migrations")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(applied, 7);
    let outside: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'public'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(outside, 0);
}

#[tokio::test]
async fn a_newer_or_another_database_is_refused() {
    let fixture = Fixture::start().await;
    fixture
        .execute("update cms._sqlx_migrations set checksum = '\\x00' where version = 1")
        .await;
    assert_error(
        migrate(&fixture.pool).await,
        ErrorKind::Config,
        "database_changed",
    );
    fixture
        .execute(
            "insert into cms._sqlx_migrations (version, description, success, checksum, execution_time) \
             values (9999, 'from the future', true, '\\x00', 0)",
        )
        .await;
    let refused = assert_error(migrate(&fixture.pool).await, ErrorKind::Config, "database_newer");
    assert!(
        refused.message().contains("9999") && refused.next_step().is_some(),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_role_that_owns_only_the_schema_can_migrate() {
    let database = TestDatabase::new().await;
    let admin = connect(&database.url).await;
    let role = format!("toygres_{}", uuid::Uuid::new_v4().simple());
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&admin)
        .await
        .unwrap();
    sqlx::raw_sql(&format!(
        "create role {role} login; revoke create on database {name} from public"
    ))
    .execute(&admin)
    .await
    .unwrap();
    let pool = connect(&database.url.replace("postgres@", &format!("{role}@"))).await;
    assert_error(
        migrate(&pool).await,
        ErrorKind::Config,
        "database_permission_denied",
    );
    sqlx::raw_sql(&format!("create schema cms authorization {role}"))
        .execute(&admin)
        .await
        .unwrap();
    migrate(&pool).await.unwrap();
}

/// The tables as the first release made them.
async fn first_release() -> PgPool {
    let pool = connect(&TestDatabase::new().await.url).await;
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("create schema cms; set search_path = cms")
        .execute(&mut *connection)
        .await
        .unwrap();
    let sql = include_str!("../../../migrations/0001_initial.sql");
    let initial = Migration::new(1, "initial".into(), MigrationType::Simple, sql.into(), false);
    let migrator = Migrator {
        migrations: vec![initial].into(),
        ..Migrator::DEFAULT
    };
    migrator.run_direct(&mut *connection).await.unwrap();
    connection.close().await.unwrap();
    pool
}

/// The columns of all tables: table, whether an insert must name it, and all that is said of it.
async fn columns(pool: &PgPool) -> BTreeSet<(String, bool, String)> {
    let columns = sqlx::query_as(
        "select table_name::text, is_nullable = 'NO' and column_default is null and is_identity = 'NO', \
             concat_ws(' ', column_name, data_type, is_nullable, column_default, is_identity) \
         from information_schema.columns where table_schema = 'cms'",
    );
    columns.fetch_all(pool).await.unwrap().into_iter().collect()
}

/// What the tables refuse: table, and what is said of it.
async fn rules(pool: &PgPool) -> BTreeSet<(String, String)> {
    let rules = sqlx::query_as(
        "select c.relname::text, pg_get_constraintdef(o.oid) from pg_constraint o \
         join pg_class c on c.oid = o.conrelid where o.connamespace = 'cms'::regnamespace \
         union all \
         select c.relname::text, pg_get_indexdef(x.indexrelid) from pg_index x \
         join pg_class c on c.oid = x.indrelid where c.relnamespace = 'cms'::regnamespace and x.indisunique",
    );
    rules.fetch_all(pool).await.unwrap().into_iter().collect()
}

/// Writes of the first release, as it words them.
const FIRST_RELEASE_WRITES: &str = "\
    insert into cms.instances as i (id, name, user_name, state, postgres_version, storage_size_gb, cpu, memory_mb, \
        internal, namespace, tags, deletion_protection, host) \
    values ('$1', '$2', 'default', 'creating', 17, 10, null, null, false, null, '{}', false, null) \
    on conflict (name) where state not in ('deleted', 'failed') do nothing; \
    insert into cms.operations (id, instance_id, kind) values ('$1', '$1', 'create'); \
    insert into cms.instance_events (instance_id, operation_id, kind, message) \
    values ('$1', '$1', 'create_requested', 'create requested by tester'); \
    insert into cms.audit_events (actor, action, instance_id, operation_id, trace_id) \
    values ('tester', 'create_instance', '$1', '$1', null); \
    insert into cms.operation_steps as s (operation_id, name, state, attempts) \
    values ('$1', 'deploy-postgres', 'running', 1); \
    update cms.operation_steps set state = 'succeeded', finished_at = now() where operation_id = '$1'; \
    update cms.operations set state = 'succeeded', started_at = now(), finished_at = now() where id = '$1'; \
    with changed as ( \
        update cms.instances set incarnation = incarnation + 1, intent_at = now(), progressed_at = now() \
        where id = '$1' and incarnation = 1 and state <> 'deleted' returning id, incarnation), \
    event as ( \
        insert into cms.instance_events (instance_id, kind, message) \
        select id, 'actor_replaced', format('its actor was replaced, now number %s', incarnation) from changed) \
    select incarnation from changed; \
    select cms.record_health_check('$1', 2, now(), true, 1.5, '17.0', null, null, 'localhost', 5432, 3)";

#[tokio::test]
async fn the_tables_of_the_first_release_are_kept_and_it_still_works_on_them() {
    let pool = first_release().await;
    let write = async |id: uuid::Uuid, name: &str| {
        let statements = FIRST_RELEASE_WRITES
            .replace("$1", &id.to_string())
            .replace("$2", name);
        sqlx::raw_sql(&statements).execute(&pool).await.unwrap();
    };
    let (before, after) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    write(before, "before").await;
    sqlx::raw_sql(
        "insert into cms.api_tokens (id, name, hash, scopes) \
         values (gen_random_uuid(), 'old', sha256('x'), array['admin'])",
    )
    .execute(&pool)
    .await
    .unwrap();
    let (old_columns, old_rules) = (columns(&pool).await, rules(&pool).await);
    let old_tables: BTreeSet<String> = old_columns.iter().map(|(table, ..)| table.clone()).collect();

    migrate(&pool).await.unwrap();
    let new_columns = columns(&pool).await;
    let mut gone: Vec<_> = old_columns.difference(&new_columns).collect();
    // Its time is its own since then, and no longer that of its transaction.
    gone.retain(|(table, _, column)| {
        (table.as_str(), column.split(' ').next()) != ("instance_events", Some("created_at"))
    });
    assert!(gone.is_empty(), "{gone:?}");
    let required: Vec<_> = new_columns
        .difference(&old_columns)
        .filter(|(table, required, _)| *required && old_tables.contains(table))
        .collect();
    assert!(required.is_empty(), "{required:?}");
    let mut new_rules = rules(&pool).await;
    new_rules.retain(|(table, _)| old_tables.contains(table));
    assert_eq!(new_rules, old_rules);

    write(after, "after").await;
    let cms = Cms::new(pool, key(1));
    for name in ["before", "after"] {
        let instance = cms.get_instance(&name.parse().unwrap(), None).await.unwrap();
        let operation = cms.get_operation(OperationId(instance.id.0), None).await.unwrap();
        assert_eq!(operation.steps.len(), 1);
    }
    let events = EventFilter {
        instance_id: None,
        user_name: None,
        after: None,
        limit: 100,
    };
    assert_eq!(cms.list_events(&events).await.unwrap().len(), 6);
    let audited = cms.list_audit(&AuditFilter::default()).await.unwrap();
    assert!(audited.len() == 2 && audited[0].object.is_none());
    let token = cms.list_tokens().await.unwrap().remove(0);
    assert!(token.scope == TokenScope::Admin && token.expires_at.is_none());
    assert!(cms.has_tokens().await.unwrap());
}

#[tokio::test]
async fn the_words_of_the_tables_are_the_words_of_the_program() {
    fn words<T: std::fmt::Display>(all: &[T]) -> BTreeSet<String> {
        all.iter().map(T::to_string).collect()
    }
    let fixture = Fixture::start().await;
    for (constraint, expected) in [
        ("instances_state", words(InstanceState::ALL)),
        ("instances_desired_state", words(DesiredState::ALL)),
        ("instances_health_status", words(HealthStatus::ALL)),
        ("operations_kind", words(OperationKind::ALL)),
        ("operations_state", words(OperationState::ALL)),
        ("operation_steps_state", words(StepState::ALL)),
        ("api_tokens_scopes", words(TokenScope::ALL)),
    ] {
        let definition: String =
            sqlx::query_scalar("select pg_get_constraintdef(oid) from pg_constraint where conname = $1")
                .bind(constraint)
                .fetch_one(&fixture.pool)
                .await
                .unwrap();
        let found: BTreeSet<String> = definition
            .split('\'')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert_eq!(found, expected, "{constraint}");
    }
    let live: String = sqlx::query_scalar(
        "select pg_get_expr(indpred, indrelid) from pg_index \
             where indexrelid = 'cms.instances_name_live'::regclass",
    )
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    for state in InstanceState::ALL {
        assert_eq!(live.contains(&format!("'{state}'")), !state.is_live(), "{state}");
    }
}
