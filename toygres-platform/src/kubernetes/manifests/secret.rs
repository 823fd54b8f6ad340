//! The secret: what the server reads from files.

use super::Wanted;
use crate::Storage;
use crate::kubernetes::certificates::ServerCertificate;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who may connect, and how: with the password over TLS, or with the password from inside the pod
/// ([PostgreSQL documentation, `pg_hba.conf`](https://www.postgresql.org/docs/current/auth-pg-hba-conf.html)).
const ACCESS: &str = "\
local   all          all       scram-sha-256
hostssl all          all  all  scram-sha-256
hostssl replication  all  all  scram-sha-256
";

/// Says that the volume holds a database that was ready once.
const HOLDS_DATA: &str = "toygres.io/holds-data";
/// The file of the same meaning, in the container.
pub(super) const HOLDS_DATA_FILE: &str = "holds-data";

/// What is in it besides the password.
pub(in super::super) struct Contents<'a> {
    /// The server's certificate.
    pub(in super::super) certificate: &'a ServerCertificate,
    /// The certificate that it is signed by, PEM.
    pub(in super::super) authority: &'a str,
    /// Whether the volume must hold a database already.
    pub(in super::super) storage: Storage,
}

/// The secret with these contents.
pub(in super::super) fn secret(wanted: &Wanted<'_>, contents: &Contents<'_>) -> Secret {
    let certificate = contents.certificate;
    let mut data = BTreeMap::from([
        ("password".to_owned(), bytes(wanted.spec.password.reveal())),
        ("tls.crt".to_owned(), bytes(&certificate.certificate)),
        ("tls.key".to_owned(), bytes(certificate.private_key.reveal())),
        ("ca.crt".to_owned(), bytes(contents.authority)),
        ("pg_hba.conf".to_owned(), bytes(ACCESS)),
    ]);
    let mut annotations = certificate.annotations();
    if matches!(contents.storage, Storage::MustExist { .. }) {
        data.insert(HOLDS_DATA_FILE.to_owned(), bytes("true\n"));
        annotations.insert(HOLDS_DATA.to_owned(), "true".to_owned());
    }
    let mut metadata = wanted.metadata(wanted.object_name());
    metadata.annotations = Some(annotations);
    Secret {
        metadata,
        data: Some(data),
        ..Secret::default()
    }
}

/// What has the secret tell the server so, as a [merge patch](https://www.rfc-editor.org/rfc/rfc7386).
pub(in super::super) fn holding_data() -> Value {
    json!({
        "metadata": {"annotations": {HOLDS_DATA: "true"}},
        "data": {HOLDS_DATA_FILE: bytes("true\n")},
    })
}

/// Whether the secret tells the server never to make an empty database.
pub(in super::super) fn is_marked_as_holding_data(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(HOLDS_DATA))
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}
