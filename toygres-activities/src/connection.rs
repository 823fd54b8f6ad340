//! The tenant probe: the only SQL that toygres sends to the servers of its users.

use chrono::Utc;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::time::{Duration, Instant};
use toygres_models::Secret;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{DATABASE_NAME, Endpoint, ROLE_NAME};

/// A check, and the identity of the server that answered it.
pub(crate) struct Probed {
    pub(crate) check: HealthCheck,
    pub(crate) system_identifier: Option<u64>,
}

/// Connects as a client would and runs a query. Never fails: what goes wrong is what it finds.
///
/// The search path is pinned to `pg_catalog`, every name is qualified, and the session is read-only with time-outs,
/// so that no object a tenant makes can have the control plane run his code.
pub(crate) async fn probe(endpoint: &Endpoint, password: &Secret, limit: Duration) -> Probed {
    let checked_at = Utc::now();
    let begun = Instant::now();
    let outcome = tokio::time::timeout(limit, ask(endpoint, password, limit)).await;
    let elapsed_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let failed = |code: &str, message: String| Probed {
        check: HealthCheck {
            checked_at,
            healthy: false,
            response_time_ms: None,
            server_version: None,
            error_code: Some(code.to_owned()),
            error_message: Some(message),
        },
        system_identifier: None,
    };
    match outcome {
        Err(_) => failed("timeout", format!("no answer within {limit:?}")),
        Ok(Err(error)) => {
            let (code, message) = describe(&error);
            failed(code, message)
        }
        Ok(Ok((server_version, identifier))) => Probed {
            check: HealthCheck {
                checked_at,
                healthy: true,
                response_time_ms: Some(elapsed_ms),
                server_version: Some(server_version),
                error_code: None,
                error_message: None,
            },
            system_identifier: Some(identifier.cast_unsigned()),
        },
    }
}

async fn ask(endpoint: &Endpoint, password: &Secret, limit: Duration) -> Result<(String, i64), sqlx::Error> {
    let statement_timeout = limit.as_millis().to_string();
    // `new_without_pgpass`: nothing of the control plane's own environment or home may decide how to connect.
    let options = PgConnectOptions::new_without_pgpass()
        .host(&endpoint.host)
        .port(endpoint.port)
        .username(ROLE_NAME)
        .password(password.reveal())
        .database(DATABASE_NAME)
        .ssl_mode(PgSslMode::Prefer)
        .application_name("toygres-health-check")
        .options([
            ("search_path", "pg_catalog"),
            ("default_transaction_read_only", "on"),
            ("statement_timeout", statement_timeout.as_str()),
        ])
        .disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    let row: (String, i64) = sqlx::query_as(
        "select pg_catalog.current_setting('server_version'), system_identifier from pg_catalog.pg_control_system()",
    )
    .persistent(false)
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok(row)
}

/// A stable word and a sentence for what went wrong. Server messages are left out: a tenant can choose them.
fn describe(error: &sqlx::Error) -> (&'static str, String) {
    match error {
        sqlx::Error::Database(database) => {
            let state = database.code().unwrap_or_default().into_owned();
            let word = match state.as_str() {
                "28P01" | "28000" => "password_refused",
                "57P03" => "starting_up",
                "57P01" | "57P02" => "shutting_down",
                "53300" => "too_many_connections",
                "3D000" => "database_missing",
                "57014" => "timeout",
                _ => "query_failed",
            };
            (word, format!("the server answered with SQLSTATE {state}"))
        }
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::ConnectionRefused => {
            ("connection_refused", "nothing listens at its address".to_owned())
        }
        sqlx::Error::Io(cause) => (
            "connection_failed",
            format!("the connection failed: {}", cause.kind()),
        ),
        _ => (
            "protocol_error",
            "the answer was not what a PostgreSQL server would say".to_owned(),
        ),
    }
}
