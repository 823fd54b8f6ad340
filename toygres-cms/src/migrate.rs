//! Brings the tables up to this program's version.

use crate::errors::database;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use toygres_models::{Error, ErrorKind, Result};

/// The files of `migrations/`, oldest first: version, name, text. A test compares the list with the directory.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("../../migrations/0001_initial.sql")),
    (2, "access", include_str!("../../migrations/0002_access.sql")),
    (
        3,
        "external_endpoint",
        include_str!("../../migrations/0003_external_endpoint.sql"),
    ),
    (4, "why", include_str!("../../migrations/0004_why.sql")),
    (
        5,
        "traceparent",
        include_str!("../../migrations/0005_traceparent.sql"),
    ),
    (6, "drift", include_str!("../../migrations/0006_drift.sql")),
    (7, "times", include_str!("../../migrations/0007_times.sql")),
];

/// Makes the schema `cms` and its tables, or brings them up to this program's version. What was done is noted in
/// `cms._sqlx_migrations`. Several servers may do it at once: they wait for one another.
///
/// It uses a connection of its own, beside the pool.
///
/// # Errors
/// [`ErrorKind::Config`], code `database_newer`, when a newer program has changed the tables already; code
/// `database_changed` when a migration is not the one this program knows. Else see the crate.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    let mut connection = PgConnection::connect_with(&pool.connect_options())
        .await
        .map_err(database)?;
    let result = run(&mut connection).await;
    connection.close().await.ok();
    result
}

async fn run(connection: &mut PgConnection) -> Result<()> {
    // Waiting for another server and building an index may both take longer than a statement of a request may.
    // sqlx writes its own table to the first schema of the path.
    connection
        .execute("set statement_timeout = 0; set lock_timeout = 0; set search_path = cms")
        .await
        .map_err(database)?;
    create_schema(connection).await?;

    let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into(), false)
    });
    let migrator = Migrator {
        migrations: migrations.collect(),
        ..Migrator::DEFAULT
    };
    migrator.run_direct(connection).await.map_err(explain)
}

/// `create schema if not exists` fails when two do it at once, and when the role may not create schemas even though
/// the schema is there: looked up first, under a lock.
async fn create_schema(connection: &mut PgConnection) -> Result<()> {
    let mut transaction = connection.begin().await.map_err(database)?;
    transaction
        .execute("select pg_advisory_xact_lock(hashtextextended('toygres: create schema cms', 0))")
        .await
        .map_err(database)?;
    let exists: bool = sqlx::query_scalar("select to_regnamespace('cms') is not null")
        .fetch_one(&mut *transaction)
        .await
        .map_err(database)?;
    if !exists {
        transaction.execute("create schema cms").await.map_err(database)?;
    }
    transaction.commit().await.map_err(database)
}

fn explain(error: MigrateError) -> Error {
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.0);
    match error {
        MigrateError::Execute(cause) => database(cause),
        MigrateError::ExecuteMigration(cause, version) => {
            database(cause).context(format!("migration {version} failed"))
        }
        MigrateError::VersionMissing(version) => Error::new(
            ErrorKind::Config,
            "database_newer",
            format!(
                "the control database was brought to version {version} by a newer toygres; this one knows versions up \
                 to {newest}"
            ),
        )
        .hint("start the newer toygres, or restore a backup from before its first start"),
        MigrateError::VersionMismatch(version) => Error::new(
            ErrorKind::Config,
            "database_changed",
            format!("version {version} of the control database is not the one that this toygres knows"),
        )
        .hint("start the toygres that made this database; a development build may have changed its tables"),
        other => Error::internal("the control database can't be migrated").source(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_list() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> = MIGRATIONS
            .iter()
            .map(|(version, name, _)| format!("{version:04}_{name}.sql"))
            .collect();
        assert_eq!(files, listed);
    }
}
