//! The tenant probe: the only SQL that toygres sends to the servers of its users.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::error::Error;
use std::io;
use std::time::{Duration, Instant};
use toygres_models::Secret;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{DATABASE_NAME, ROLE_NAME};
use toygres_platform::Serving;

/// The platform's clock and this one's tell the same time, give or take this. A certificate counts as new only when
/// it has been there for so long: then whatever was loaded before is surely older, and one load is enough.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(10);

/// A check, and the identity of the server that answered it.
pub(crate) struct Probed {
    pub(crate) check: HealthCheck,
    pub(crate) system_identifier: Option<u64>,
}

/// Connects as a client would and runs a query. Never fails: what goes wrong is what it finds.
///
/// The search path is pinned to `pg_catalog`, every name is qualified, and the session is read-only with time-outs,
/// so that no object a tenant makes can have the control plane run his code. With an `authority` the server must show
/// a certificate of it for the very address; one that has a newer certificate than it shows is told to load it.
pub(crate) async fn probe(
    serving: &Serving,
    authority: Option<&str>,
    password: &Secret,
    limit: Duration,
) -> Probed {
    let checked_at = Utc::now();
    let begun = Instant::now();
    let outcome = tokio::time::timeout(limit, ask(serving, authority, password, limit)).await;
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

async fn ask(
    serving: &Serving,
    authority: Option<&str>,
    password: &Secret,
    limit: Duration,
) -> Result<(String, i64), sqlx::Error> {
    let endpoint = &serving.endpoint;
    let statement_timeout = limit.as_millis().to_string();
    // `new_without_pgpass`: nothing of the control plane's own environment or home may decide how to connect.
    let options = PgConnectOptions::new_without_pgpass()
        .host(&endpoint.host)
        .port(endpoint.port)
        .username(ROLE_NAME)
        .password(password.reveal())
        .database(DATABASE_NAME)
        .application_name("toygres-health-check")
        .options([
            ("search_path", "pg_catalog"),
            ("default_transaction_read_only", "on"),
            ("statement_timeout", statement_timeout.as_str()),
        ])
        .disable_statement_logging();
    let options = match authority {
        Some(authority) => options
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert_from_pem(authority.as_bytes().to_vec()),
        None => options.ssl_mode(PgSslMode::Prefer),
    };
    let mut connection = PgConnection::connect_with(&options).await?;
    let (version, identifier, now, loaded): (_, _, DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(
        "select pg_catalog.current_setting('server_version'), system_identifier, pg_catalog.clock_timestamp(), \
             pg_catalog.pg_conf_load_time() from pg_catalog.pg_control_system()",
    )
    .persistent(false)
    .fetch_one(&mut connection)
    .await?;
    if let Some(since) = serving.certificate_in_place_since
        && shows_an_older_one(since, Utc::now(), now - loaded)
    {
        reload(&mut connection, &endpoint.host).await;
    }
    connection.close().await?;
    Ok((version, identifier))
}

/// Whether a server that has loaded its configuration so long ago, and its certificate with it, shows an older one
/// than there is. By its own clock it says only how long ago: how far that clock is off does not matter.
fn shows_an_older_one(in_place_since: DateTime<Utc>, now: DateTime<Utc>, loaded_ago: TimeDelta) -> bool {
    let settled = in_place_since + CLOCKS_APART;
    settled <= now && now - loaded_ago < settled
}

/// Has the server load its configuration. That it can't be told makes it no less healthy while its certificate holds.
async fn reload(connection: &mut PgConnection, host: &str) {
    let told = sqlx::query("select pg_catalog.pg_reload_conf()")
        .persistent(false)
        .execute(connection)
        .await;
    match told {
        Ok(_) => tracing::info!(host, "the server was told to load its new certificate"),
        Err(error) => {
            let (code, message) = describe(&error);
            tracing::warn!(
                host,
                code,
                "the server can't be told to load its new certificate: {message}"
            );
        }
    }
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
        sqlx::Error::Io(cause) => failed_connection(cause),
        sqlx::Error::Tls(cause) => match cause.source().map(<dyn Error>::downcast_ref::<io::Error>) {
            // Nothing is known of a certificate: there was none yet.
            None => (
                "connection_failed",
                "the connection can't be secured: the server does no TLS, or broke off".to_owned(),
            ),
            Some(Some(cause)) => failed_connection(cause),
            Some(None) => {
                tracing::debug!(detail = %cause, "a server's certificate is refused");
                (
                    "certificate_invalid",
                    "the server has no certificate of toygres's own authority for its address that is valid now"
                        .to_owned(),
                )
            }
        },
        _ => (
            "protocol_error",
            "the answer was not what a PostgreSQL server would say".to_owned(),
        ),
    }
}

fn failed_connection(cause: &io::Error) -> (&'static str, String) {
    (
        "connection_failed",
        format!("the connection failed: {}", cause.kind()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use toygres_models::instances::Endpoint;
    use toygres_testing::{TestPostgres, wait_for};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A certificate authority.
    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // Else it would have the name that certificates have by default, and those would seem to be their own.
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "authority");
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn pem(&self) -> String {
            self.0.pem()
        }

        /// Certificate and key of the server of this name.
        fn signs(&self, name: &str) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &self.0).unwrap().pem(),
                key.serialize_pem(),
            )
        }
    }

    fn serving(server: &TestPostgres, host: &str, since: Option<DateTime<Utc>>) -> Serving {
        Serving {
            endpoint: Endpoint {
                host: host.to_owned(),
                port: server.port(),
            },
            external_endpoint: None,
            system_identifier: None,
            certificate_in_place_since: since,
            doubt: None,
        }
    }

    /// What a check finds wrong.
    async fn wrong(serving: &Serving, authority: Option<&Authority>) -> Option<String> {
        let authority = authority.map(Authority::pem);
        let password = Secret::new("unused".to_owned());
        let probed = probe(serving, authority.as_deref(), &password, LIMIT).await;
        assert_eq!(probed.check.healthy, probed.check.error_code.is_none());
        probed.check.error_code
    }

    #[tokio::test]
    async fn only_a_certificate_of_the_authority_for_the_address_is_taken() {
        let (own, other) = (Authority::new(), Authority::new());
        let (certificate, key) = own.signs("localhost");
        let server = TestPostgres::start_with_tls(&certificate, &key).await;
        let (right, wrong_name) = (
            serving(&server, "localhost", None),
            serving(&server, "127.0.0.1", None),
        );
        let invalid = Some("certificate_invalid".to_owned());
        assert_eq!(wrong(&right, Some(&own)).await, None);
        assert_eq!(wrong(&right, Some(&other)).await, invalid);
        assert_eq!(wrong(&wrong_name, Some(&own)).await, invalid);
        assert_eq!(wrong(&wrong_name, None).await, None);

        let plain = TestPostgres::start().await;
        let found = wrong(&serving(&plain, "localhost", None), Some(&own)).await;
        assert_eq!(found.as_deref(), Some("connection_failed"), "it does no TLS");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_while_it_is_secured_says_nothing_of_certificates() {
        for abruptly in [true, false] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let serving = Serving {
                endpoint: Endpoint {
                    host: "127.0.0.1".to_owned(),
                    port: listener.local_addr().unwrap().port(),
                },
                external_endpoint: None,
                system_identifier: None,
                certificate_in_place_since: None,
                doubt: None,
            };
            let breaks = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 8];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(b"S").await.unwrap();
                // What is left unread makes the end a reset.
                let room = if abruptly { 1 } else { 4096 };
                stream.read_buf(&mut Vec::with_capacity(room)).await.unwrap();
            };
            let authority = Authority::new();
            let (found, ()) = tokio::join!(wrong(&serving, Some(&authority)), breaks);
            assert_eq!(
                found.as_deref(),
                Some("connection_failed"),
                "abruptly: {abruptly}"
            );
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_after_one_check() {
        let (old, new) = (Authority::new(), Authority::new());
        let (certificate, key) = old.signs("localhost");
        let server = TestPostgres::start_with_tls(&certificate, &key).await;
        let loaded = async || -> DateTime<Utc> {
            let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
            sqlx::query_scalar("select pg_conf_load_time()")
                .fetch_one(&mut connection)
                .await
                .unwrap()
        };
        let at_start = loaded().await;
        let (certificate, key) = new.signs("localhost");
        server.replace_certificate(&certificate, &key);

        // Not yet there for sure, and loaded since.
        for since in [Utc::now(), Utc::now() - TimeDelta::hours(1)] {
            let serving = serving(&server, "localhost", Some(since));
            assert_eq!(wrong(&serving, Some(&old)).await, None);
        }
        assert_eq!(loaded().await, at_start);

        let renewed = serving(&server, "localhost", Some(Utc::now() - CLOCKS_APART));
        assert_eq!(wrong(&renewed, Some(&old)).await, None);
        let once = wait_for("the new certificate", LIMIT, async || {
            let taken = wrong(&serving(&server, "localhost", None), Some(&new)).await;
            match taken {
                None => Some(loaded().await),
                Some(_) => None,
            }
        })
        .await;
        assert!(once > at_start);
        assert_eq!(
            wrong(&renewed, Some(&old)).await.as_deref(),
            Some("certificate_invalid")
        );
        assert_eq!(wrong(&renewed, Some(&new)).await, None);
        assert_eq!(loaded().await, once, "one load is enough");
    }

    #[test]
    fn how_far_the_servers_clock_is_off_does_not_matter() {
        let since = Utc::now();
        let at = |seconds| since + TimeDelta::seconds(seconds);
        let ago = TimeDelta::seconds;
        assert!(
            !shows_an_older_one(since, at(9), ago(60)),
            "it may not be there yet"
        );
        assert!(shows_an_older_one(since, at(10), ago(60)));
        assert!(shows_an_older_one(since, at(10), ago(1)), "loaded too near to it");
        assert!(!shows_an_older_one(since, at(40), ago(30)));
        assert!(shows_an_older_one(since, at(86_400), ago(86_400)));
    }
}
