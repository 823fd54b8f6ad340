//! The tables: how they come about, and that their words are the program's.

use crate::support::{Fixture, assert_error, connect};
use std::collections::BTreeSet;
use toygres_cms::migrate;
use toygres_models::ErrorKind;
use toygres_models::health::HealthStatus;
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::operations::{OperationKind, OperationState, StepState};
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
    assert_eq!(applied, 1);
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
