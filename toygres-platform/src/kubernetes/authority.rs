//! Where the certificate authority is kept: a secret of the control plane's.

use super::access::call;
use super::certificates::Authority;
use super::manifests::MANAGER;
use chrono::Utc;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use std::collections::BTreeMap;
use toygres_models::{Error, ErrorKind, Result};

/// The secret's name.
pub(super) const NAME: &str = "toygres-ca";
/// How often it is read and made, should others make and remove it at the same time.
const TRIES: usize = 3;

/// The authority of this deployment. The first of its processes makes it; of several that do so at once, one does.
pub(super) async fn load_or_create(client: &Client, namespace: &str) -> Result<Authority> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut failed = None;
    for _ in 0..TRIES {
        let there = call("read the secret toygres-ca", secrets.get_opt(NAME)).await?;
        if let Some(secret) = there {
            return load(&secret);
        }
        let (certificate, key) = Authority::generate(Utc::now())?;
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                // Not `managed-by`: it is no instance's, and is not to be watched or removed with them.
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/part-of".to_owned(),
                    MANAGER.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                ("tls.crt".to_owned(), bytes(&certificate)),
                ("tls.key".to_owned(), bytes(key.reveal())),
            ])),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        let made = secrets.create(&parameters, &secret);
        match call("create the secret toygres-ca", made).await {
            Ok(_) => {
                tracing::info!(namespace, "made a certificate authority for instances");
                return Authority::load(&certificate, &key);
            }
            // Another has made it, or this was done but not answered: it is there then.
            Err(error) if error.retryable() => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failed.unwrap_or_else(|| Error::internal("no try was made")))
}

fn load(secret: &Secret) -> Result<Authority> {
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key))?;
        String::from_utf8(value.0.clone()).ok()
    };
    let (Some(certificate), Some(key)) = (text("tls.crt"), text("tls.key")) else {
        return Err(Error::new(
            ErrorKind::Config,
            "bad_certificate_authority",
            format!("the secret {NAME} has no tls.crt and tls.key"),
        )
        .hint("put a certificate authority into it, or delete it to have a new one made"));
    };
    Authority::load(&certificate, &toygres_models::Secret::new(key))
}
