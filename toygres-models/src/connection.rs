//! How to connect to an instance.

use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// A host and port that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The role that every instance has: superuser of its own server.
pub const ROLE_NAME: &str = "postgres";
/// The database that every instance has.
pub const DATABASE_NAME: &str = "postgres";

/// How to connect to an instance: the answer of `GET /api/instances/{name}/connection`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The role to connect as.
    pub user: String,
    /// The database to connect to.
    pub database: String,
    /// A libpq URI; holds the password only if it was asked for.
    pub connection_string: String,
    /// The same for clients inside the platform's network, where another address holds for those outside.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub internal_connection_string: Option<String>,
    /// A command line that opens a session; never holds the password.
    pub psql: String,
    /// `verify-full` where instances take TLS: clients check the server's certificate by that of
    /// `GET /api/certificate-authority`, which libpq is given as `sslrootcert`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sslmode: Option<String>,
    /// The password, only if it was asked for with `reveal=true`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password: Option<String>,
}

/// Clients make sure that they speak to the very server, by name.
const SSL_MODE: &str = "verify-full";
/// Where those who follow the documentation keep the certificate of the authority.
pub const CA_FILE: &str = "toygres-ca.pem";

impl Connection {
    /// The connection to the `external` endpoint if there is one, else to `endpoint`, by TLS if `tls`, with the
    /// password in it only if one is given.
    #[must_use]
    pub fn new(
        endpoint: &Endpoint,
        external: Option<&Endpoint>,
        tls: bool,
        password: Option<&Secret>,
    ) -> Self {
        let credentials = match password {
            Some(password) => format!("{ROLE_NAME}:{}", percent_encode(password.reveal())),
            None => ROLE_NAME.to_owned(),
        };
        let query = if tls {
            format!("?sslmode={SSL_MODE}")
        } else {
            String::new()
        };
        let string = |Endpoint { host, port }: &Endpoint| {
            // An IPv6 address.
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            format!("postgresql://{credentials}@{host}:{port}/{DATABASE_NAME}{query}")
        };
        let reached = external.unwrap_or(endpoint);
        let Endpoint { host, port } = reached;
        Self {
            host: host.clone(),
            port: *port,
            user: ROLE_NAME.to_owned(),
            database: DATABASE_NAME.to_owned(),
            connection_string: string(reached),
            internal_connection_string: external.map(|_| string(endpoint)),
            psql: if tls {
                format!(
                    "psql \"host={host} port={port} user={ROLE_NAME} dbname={DATABASE_NAME} sslmode={SSL_MODE} \
                     sslrootcert={CA_FILE}\""
                )
            } else {
                format!("psql -h {host} -p {port} -U {ROLE_NAME} -d {DATABASE_NAME}")
            },
            sslmode: tls.then(|| SSL_MODE.to_owned()),
            password: password.map(|p| p.reveal().clone()),
        }
    }
}

impl fmt::Debug for Connection {
    /// Without the password, which may be in the URI too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// RFC 3986: everything but the unreserved characters as `%XX`.
fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_connection_string_is_escaped() {
        let endpoint = Endpoint {
            host: "127.0.0.1".into(),
            port: 5432,
        };
        let password = Secret::new("p@ss/w:rd é".into());
        let connection = Connection::new(&endpoint, None, false, Some(&password));
        assert_eq!(
            connection.connection_string,
            "postgresql://postgres:p%40ss%2Fw%3Ard%20%C3%A9@127.0.0.1:5432/postgres"
        );
        let connection = Connection::new(&endpoint, None, false, None);
        assert!(connection.password.is_none() && connection.internal_connection_string.is_none());
        assert_eq!(
            (connection.psql.as_str(), connection.sslmode),
            ("psql -h 127.0.0.1 -p 5432 -U postgres -d postgres", None)
        );
    }

    #[test]
    fn clients_outside_are_given_the_address_for_outside_and_check_the_certificate() {
        let inside = Endpoint {
            host: "demo.toygres.svc".into(),
            port: 5432,
        };
        let outside = Endpoint {
            host: "2001:db8::1".into(),
            port: 15432,
        };
        let connection = Connection::new(&inside, Some(&outside), true, None);
        assert_eq!(
            connection.connection_string,
            "postgresql://postgres@[2001:db8::1]:15432/postgres?sslmode=verify-full"
        );
        assert_eq!(
            connection.internal_connection_string.as_deref(),
            Some("postgresql://postgres@demo.toygres.svc:5432/postgres?sslmode=verify-full")
        );
        assert_eq!((connection.host, connection.port), (outside.host, outside.port));
        assert_eq!(
            connection.psql,
            "psql \"host=2001:db8::1 port=15432 user=postgres dbname=postgres sslmode=verify-full \
             sslrootcert=toygres-ca.pem\""
        );
        assert_eq!(connection.sslmode.as_deref(), Some("verify-full"));
    }
}
