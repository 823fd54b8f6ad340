//! The secret: what the server reads from files.

use super::{MANAGER, Wanted};
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

/// The files that it always has.
const FILES: [&str; 5] = ["password", "tls.crt", "tls.key", "ca.crt", "pg_hba.conf"];

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
    let contents_of_files = [
        wanted.spec.password.reveal(),
        &certificate.certificate,
        certificate.private_key.reveal(),
        contents.authority,
        ACCESS,
    ];
    let files = FILES.into_iter().zip(contents_of_files);
    let mut data: BTreeMap<String, ByteString> =
        files.map(|(name, text)| (name.to_owned(), bytes(text))).collect();
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

/// The first of its files that somebody else has written or taken away. What is in them is not watched, but who wrote
/// them is ([field management](https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management)).
pub(in super::super) fn file_of_another(metadata: &ObjectMeta) -> Option<&'static str> {
    let entries = metadata.managed_fields.iter().flatten();
    let written: Vec<&Value> = entries
        .filter(|entry| entry.manager.as_deref() == Some(MANAGER))
        .filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:data"))
        .collect();
    let holds_data = is_marked_as_holding_data(metadata).then_some(HOLDS_DATA_FILE);
    let is_written = |file: &str| {
        written
            .iter()
            .any(|files| files.get(format!("f:{file}")).is_some())
    };
    FILES.into_iter().chain(holds_data).find(|file| !is_written(file))
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(writers: &[(&str, &[&str])]) -> ObjectMeta {
        let entries = writers.iter().map(|(manager, files)| {
            let files: serde_json::Map<String, Value> = files
                .iter()
                .map(|file| (format!("f:{file}"), json!({})))
                .collect();
            json!({"manager": manager, "fieldsV1": {"f:data": files}})
        });
        let entries: Vec<Value> = entries.collect();
        serde_json::from_value(json!({"managedFields": entries})).unwrap()
    }

    #[test]
    fn a_file_that_another_has_written_is_named() {
        let (password, others) = (&FILES[..1], &FILES[1..]);
        assert_eq!(file_of_another(&metadata(&[(MANAGER, &FILES)])), None);
        let twice = metadata(&[(MANAGER, password), (MANAGER, others), ("somebody", password)]);
        assert_eq!(file_of_another(&twice), None);
        let changed = metadata(&[(MANAGER, others), ("somebody", password)]);
        assert_eq!(file_of_another(&changed), Some("password"));
        assert_eq!(file_of_another(&ObjectMeta::default()), Some("password"));

        let mut marked = metadata(&[(MANAGER, &FILES)]);
        marked.annotations = Some(BTreeMap::from([(HOLDS_DATA.to_owned(), "true".to_owned())]));
        assert_eq!(file_of_another(&marked), Some(HOLDS_DATA_FILE));
    }
}
