//! The certificate and its key, read again when they are renewed.

use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use toygres_models::{Error, ErrorKind, Result};

/// A certificate chain and its key in PEM files. Whoever renews them need only replace the files.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    version: Version,
    config: Arc<ServerConfig>,
}

/// The digests of the two files, None for one that can't be read. Times of change would say too much: the files of a
/// mounted secret get new ones without any change.
type Version = [Option<[u8; 32]>; 2];

impl Tls {
    /// Reads the certificate chain, the server's own first, and the key of that one.
    ///
    /// # Errors
    /// `Config` `bad_tls` with the file and what is wrong with it.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let current = Current {
            version: version(certificate, key),
            config: read(certificate, key)?,
        };
        Ok(Self {
            files: Arc::new(Files {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                current: Mutex::new(current),
            }),
        })
    }

    /// The handshake, with the files as they are now.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let files = self.files.clone();
        let config = tokio::task::spawn_blocking(move || files.current()).await?;
        TlsAcceptor::from(config).accept(stream).await
    }
}

impl Files {
    fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before they are read: a change in between is then seen next time.
        let version = version(&self.certificate, &self.key);
        if version != current.version {
            current.version = version;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    current.config = config;
                    tracing::info!("the TLS certificate was renewed");
                }
                Err(error) => tracing::warn!("the TLS certificate in use stays: {error}"),
            }
        }
        current.config.clone()
    }
}

fn version(certificate: &Path, key: &Path) -> Version {
    [certificate, key].map(|path| fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into()))
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_slice_iter(&content(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad_pem(certificate))?;
    if chain.is_empty() {
        return Err(bad_tls(certificate, "there is no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_slice(&content(key)?).map_err(|cause| match cause {
        pem::Error::NoItemsFound => bad_tls(key, "there is no private key in it, or an encrypted one"),
        _ => bad_pem(key),
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| Error::internal("no version of TLS").source(cause))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|cause| match cause {
            rustls::Error::InconsistentKeys(_) => {
                let of = certificate.display();
                bad_tls(
                    key,
                    &format!("it is not the key of the first certificate in {of}"),
                )
            }
            rustls::Error::InvalidCertificate(_) => {
                bad_tls(certificate, "the first certificate in it is malformed")
            }
            cause => bad_tls(key, "the private key in it is malformed or of an unknown kind").source(cause),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn content(path: &Path) -> Result<Vec<u8>> {
    fs::read(path)
        .map_err(|cause| bad_tls(path, &format!("it can't be read: {}", cause.kind())).source(cause))
}

/// Without the cause, which may quote the file: that may be a key.
fn bad_pem(path: &Path) -> Error {
    bad_tls(path, "it is not PEM text, or not all of it")
}

fn bad_tls(path: &Path, what: &str) -> Error {
    let message = format!("TLS can't be set up with {}: {what}", path.display());
    Error::new(ErrorKind::Config, "bad_tls", message)
        .hint("give a PEM file with the certificate chain, the server's own first, and one with its unencrypted key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    /// A certificate and its key, PEM.
    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// In the place of the certificate, and in that of the key: used, or refused without being shown.
    fn is_used_or_refused(directory: &Path, (certificate, key): &(String, String), bytes: &[u8]) {
        let [first, second] = ["certificate", "key"].map(|name| directory.join(name));
        let shown = [bytes, b"\ncanary\n"].concat();
        for (certificate, key) in [
            (shown.as_slice(), key.as_bytes()),
            (certificate.as_bytes(), &shown),
        ] {
            fs::write(&first, certificate).unwrap();
            fs::write(&second, key).unwrap();
            if let Err(error) = Tls::load(&first, &second).map(|_| ()) {
                assert_eq!((error.kind(), error.code()), (ErrorKind::Config, "bad_tls"));
                assert!(!format!("{error:?}").contains("canary"), "{error:?}");
            }
        }
    }

    #[test]
    fn fuzz_certificate_files() {
        let (directory, pair) = (tempfile::tempdir().unwrap(), pair());
        bolero::check!().for_each(|bytes: &[u8]| is_used_or_refused(directory.path(), &pair, bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]
        #[test]
        fn whatever_the_files_hold_it_is_used_or_refused(
            bytes: Vec<u8>,
            near in "-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n([A-Za-z0-9+/=]{0,64}\n){0,3}-----END .{0,20}",
            at: prop::sample::Index, instead: u8,
        ) {
            let (directory, pair) = (tempfile::tempdir().unwrap(), pair());
            // A certificate that is not quite one.
            let mut damaged = pair.0.clone().into_bytes();
            let at = at.index(damaged.len());
            damaged[at] = instead;
            for bytes in [&bytes, near.as_bytes(), &damaged] {
                is_used_or_refused(directory.path(), &pair, bytes);
            }
            let [first, second] = ["certificate", "key"].map(|name| directory.path().join(name));
            fs::write(&first, &pair.0).unwrap();
            fs::write(&second, &pair.1).unwrap();
            prop_assert!(Tls::load(&first, &second).is_ok());
        }
    }
}
