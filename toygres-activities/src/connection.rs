//! The tenant probe: the only SQL that toygres sends to the servers of its users.

use crate::session::{self, Fault, Question};
use chrono::Utc;
use std::io;
use std::time::{Duration, Instant};
use toygres_models::Secret;
use toygres_models::health::HealthCheck;
use toygres_models::instances::{DATABASE_NAME, ROLE_NAME};
use toygres_platform::Serving;
use toygres_telemetry::Event;
use toygres_telemetry::events::HealthChecked;
use tracing::Instrument;

/// The longest that a server may call its version.
const LONGEST_VERSION: usize = 128;

/// A check, and the identity of the server that answered it.
pub(crate) struct Probed {
    pub(crate) check: HealthCheck,
    pub(crate) system_identifier: Option<u64>,
}

/// Connects as a client would and runs a query. Never fails: what goes wrong is what it finds.
///
/// The search path is pinned to `pg_catalog`, every name is qualified, and the session is read-only with time-outs,
/// so that no object a tenant makes can have the control plane run his code. With an `authority` the server must show
/// a certificate of it for the very address.
pub(crate) async fn probe(
    serving: &Serving,
    authority: Option<&str>,
    password: &Secret,
    limit: Duration,
) -> Probed {
    let checked_at = Utc::now();
    let begun = Instant::now();
    let span = tracing::debug_span!(
        "probe",
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        db.system.name = "postgresql",
        peer.service = "instance",
        server.address = serving.endpoint.host,
        server.port = serving.endpoint.port,
    );
    let asked = ask(serving, authority, password, limit).instrument(span.clone());
    let outcome = tokio::time::timeout(limit, asked).await;
    let duration = begun.elapsed();
    let elapsed_ms = duration.as_secs_f64() * 1000.0;
    let healthy = matches!(outcome, Ok(Ok(_)));
    if !healthy {
        span.record("otel.status_code", "ERROR");
    }
    span.in_scope(|| HealthChecked { healthy, duration }.emit());
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
            system_identifier: Some(identifier),
        },
    }
}

async fn ask(
    serving: &Serving,
    authority: Option<&str>,
    password: &Secret,
    limit: Duration,
) -> Result<(String, u64), Fault> {
    let options = format!(
        "-c search_path=pg_catalog -c default_transaction_read_only=on -c statement_timeout={}",
        limit.as_millis()
    );
    let question = Question {
        user: ROLE_NAME,
        password,
        database: DATABASE_NAME,
        options: &options,
        query: "select pg_catalog.current_setting('server_version'), system_identifier \
                from pg_catalog.pg_control_system()",
    };
    understood(&session::ask(&serving.endpoint, authority, &question).await?)
}

/// Version and identity, which are kept and shown.
pub(crate) fn understood(answer: &[Option<String>]) -> Result<(String, u64), Fault> {
    let [Some(version), Some(identifier)] = answer else {
        return Err(Fault::Protocol("it does not answer what was asked"));
    };
    let is_version =
        version.len() <= LONGEST_VERSION && version.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match identifier.parse::<i64>() {
        Ok(identifier) if is_version => Ok((version.clone(), identifier.cast_unsigned())),
        _ => Err(Fault::Protocol("its version or identity is none")),
    }
}

/// A stable word and a sentence for what went wrong. Server messages are left out: a tenant can choose them.
fn describe(fault: &Fault) -> (&'static str, String) {
    match fault {
        Fault::Refused(state) => {
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
        Fault::Broken(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            ("connection_refused", "nothing listens at its address".to_owned())
        }
        Fault::Broken(cause) => (
            "connection_failed",
            format!("the connection failed: {}", cause.kind()),
        ),
        Fault::NoTls => (
            "connection_failed",
            "the connection can't be secured: the server does no TLS".to_owned(),
        ),
        Fault::Certificate(cause) => {
            tracing::debug!(detail = cause, "a server's certificate is refused");
            (
                "certificate_invalid",
                "the server has no certificate of toygres's own authority for its address that is valid now"
                    .to_owned(),
            )
        }
        Fault::Protocol(what) => (
            "protocol_error",
            format!("the answer was not what a PostgreSQL server would say: {what}"),
        ),
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use toygres_models::instances::Endpoint;
    use toygres_testing::TestPostgres;

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

    fn serving(server: &TestPostgres, host: &str) -> Serving {
        Serving {
            endpoint: Endpoint {
                host: host.to_owned(),
                port: server.port(),
            },
            external_endpoint: None,
            system_identifier: None,
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
        let (right, wrong_name) = (serving(&server, "localhost"), serving(&server, "127.0.0.1"));
        let invalid = Some("certificate_invalid".to_owned());
        assert_eq!(wrong(&right, Some(&own)).await, None);
        assert_eq!(wrong(&right, Some(&other)).await, invalid);
        assert_eq!(wrong(&wrong_name, Some(&own)).await, invalid);
        assert_eq!(wrong(&wrong_name, None).await, None);

        let plain = TestPostgres::start().await;
        let found = wrong(&serving(&plain, "localhost"), Some(&own)).await;
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
}
