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
    /// A command line that opens a session; never holds the password.
    pub psql: String,
    /// The password, only if it was asked for with `reveal=true`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password: Option<String>,
}

impl Connection {
    /// The connection to `endpoint`, with the password in it only if one is given.
    #[must_use]
    pub fn new(endpoint: &Endpoint, password: Option<&Secret>) -> Self {
        let Endpoint { host, port } = endpoint;
        let credentials = match password {
            Some(password) => format!("{ROLE_NAME}:{}", percent_encode(password.reveal())),
            None => ROLE_NAME.to_owned(),
        };
        Self {
            host: host.clone(),
            port: *port,
            user: ROLE_NAME.to_owned(),
            database: DATABASE_NAME.to_owned(),
            connection_string: format!("postgresql://{credentials}@{host}:{port}/{DATABASE_NAME}"),
            psql: format!("psql -h {host} -p {port} -U {ROLE_NAME} -d {DATABASE_NAME}"),
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
        let connection = Connection::new(&endpoint, Some(&Secret::new("p@ss/w:rd é".into())));
        assert_eq!(
            connection.connection_string,
            "postgresql://postgres:p%40ss%2Fw%3Ard%20%C3%A9@127.0.0.1:5432/postgres"
        );
        assert!(Connection::new(&endpoint, None).password.is_none());
    }
}
