//! The certificates of instances: one authority of the deployment's own, and one certificate a server.

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;
use time::OffsetDateTime;
use toygres_models::{Error, Result, Secret};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);
const SERVER_LIFETIME: Duration = DAY.saturating_mul(90);
/// A server's certificate is replaced when this much of its life is left.
const RENEW_BEFORE_END: Duration = DAY.saturating_mul(30);
/// Clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);

const NAMES: &str = "toygres.io/certificate-names";
const ISSUED_AT: &str = "toygres.io/certificate-issued-at";
const EXPIRES_AT: &str = "toygres.io/certificate-expires-at";
const AUTHORITY: &str = "toygres.io/certificate-authority-sha256";

/// Signs the certificates of servers.
pub(super) struct Authority {
    /// PEM.
    certificate: String,
    fingerprint: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate, and its private key.
pub(super) struct ServerCertificate {
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    pub(super) private_key: Secret,
    facts: Facts,
}

/// What a certificate is good for: kept beside it, so that nobody has to read it to know.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    names: BTreeSet<String>,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    authority: String,
}

impl Authority {
    /// A new authority: its certificate and its private key, both PEM.
    pub(super) fn generate(now: DateTime<Utc>) -> Result<(String, Secret)> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters = Self::parameters();
        (parameters.not_before, parameters.not_after) = lifetime(now, AUTHORITY_LIFETIME)?;
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        Ok((certificate.pem(), Secret::new(key.serialize_pem())))
    }

    /// The authority with this certificate and private key.
    pub(super) fn load(certificate: &str, private_key: &Secret) -> Result<Self> {
        let wrong = |cause: rcgen::Error| failed(cause).context("the certificate authority can't be read");
        let key = KeyPair::from_pem(private_key.reveal()).map_err(wrong)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(wrong)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            fingerprint: sha256(certificate),
            issuer,
        })
    }

    /// PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new certificate of a server with these names and addresses.
    pub(super) fn issue(&self, names: &BTreeSet<String>, now: DateTime<Utc>) -> Result<ServerCertificate> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters =
            CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(failed)?;
        // A common name would be cut off at 64 characters; the names above are what clients look at.
        parameters.distinguished_name.remove(DnType::CommonName);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        (parameters.not_before, parameters.not_after) = lifetime(now, SERVER_LIFETIME)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(ServerCertificate {
            certificate: certificate.pem(),
            private_key: Secret::new(key.serialize_pem()),
            facts: Facts {
                names: names.clone(),
                issued_at: now,
                expires_at: now + SERVER_LIFETIME,
                authority: self.fingerprint.clone(),
            },
        })
    }

    fn parameters() -> CertificateParams {
        let mut parameters = CertificateParams::default();
        let name = &mut parameters.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CommonName, "toygres certificate authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
    }

    /// Why the certificate that these annotations tell of is to be replaced, if it is.
    pub(super) fn is_outdated(
        &self,
        metadata: &ObjectMeta,
        names: &BTreeSet<String>,
        now: DateTime<Utc>,
    ) -> Option<&'static str> {
        let Some(facts) = Facts::read(metadata) else {
            return Some("it is not known what its certificate is good for");
        };
        if facts.authority != self.fingerprint {
            Some("its certificate is signed by another authority")
        } else if &facts.names != names {
            Some("its certificate is for other addresses")
        } else if facts.expires_at - RENEW_BEFORE_END <= now {
            Some("its certificate ends soon")
        } else {
            None
        }
    }
}

impl ServerCertificate {
    /// The certificate that stands in a secret.
    pub(super) fn stored(metadata: &ObjectMeta, certificate: String, private_key: Secret) -> Option<Self> {
        let facts = Facts::read(metadata)?;
        Some(Self {
            certificate,
            private_key,
            facts,
        })
    }

    /// One that is always the same, for golden files.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        let time = |text: &str| text.parse().unwrap();
        Self {
            certificate: "certificate\n".to_owned(),
            private_key: Secret::new("private key\n".to_owned()),
            facts: Facts {
                names: ["10.96.0.10", "shop-1a2b3c4d-rw.databases.svc"]
                    .map(str::to_owned)
                    .into(),
                issued_at: time("2030-01-01T00:00:00Z"),
                expires_at: time("2030-04-01T00:00:00Z"),
                authority: "0123abcd".to_owned(),
            },
        }
    }

    /// What is written beside it.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let names: Vec<&str> = self.facts.names.iter().map(String::as_str).collect();
        [
            (NAMES, names.join(",")),
            (ISSUED_AT, time(self.facts.issued_at)),
            (EXPIRES_AT, time(self.facts.expires_at)),
            (AUTHORITY, self.facts.authority.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// Whether the certificate that these annotations tell of is for this name or address.
pub(super) fn is_for(metadata: &ObjectMeta, host: &str) -> bool {
    Facts::read(metadata).is_some_and(|facts| facts.names.contains(host))
}

impl Facts {
    fn read(metadata: &ObjectMeta) -> Option<Self> {
        let annotations = metadata.annotations.as_ref()?;
        let time = |key: &str| DateTime::parse_from_rfc3339(annotations.get(key)?).ok();
        Some(Self {
            names: annotations.get(NAMES)?.split(',').map(str::to_owned).collect(),
            issued_at: time(ISSUED_AT)?.into(),
            expires_at: time(EXPIRES_AT)?.into(),
            authority: annotations.get(AUTHORITY)?.clone(),
        })
    }
}

fn lifetime(now: DateTime<Utc>, lifetime: Duration) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let begin = OffsetDateTime::from_unix_timestamp(now.timestamp())
        .map_err(|cause| Error::internal("this machine's clock is out of range").source(cause))?;
    Ok((begin - BACKDATED, begin + lifetime))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // A String takes everything.
            write!(hex, "{byte:02x}").ok();
            hex
        })
}

fn failed(cause: rcgen::Error) -> Error {
    Error::internal("a certificate can't be made").source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn metadata(certificate: &ServerCertificate) -> ObjectMeta {
        ObjectMeta {
            annotations: Some(certificate.annotations()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_certificate_is_replaced_when_it_ends_soon_or_is_for_something_else() {
        let now = Utc::now();
        let (certificate, key) = Authority::generate(now).unwrap();
        let authority = Authority::load(&certificate, &key).unwrap();
        let wanted = names(&["10.0.0.1", "shop-1a2b3c4d-rw.databases.svc"]);
        let metadata = metadata(&authority.issue(&wanted, now).unwrap());
        let outdated = |names: &BTreeSet<String>, at| authority.is_outdated(&metadata, names, at);
        assert_eq!(outdated(&wanted, now), None);
        assert_eq!(outdated(&wanted, now + 59 * DAY), None);
        assert!(outdated(&wanted, now + 60 * DAY).is_some());
        assert!(outdated(&names(&["10.0.0.1"]), now).is_some());
        assert!(
            authority
                .is_outdated(&ObjectMeta::default(), &wanted, now)
                .is_some()
        );

        let (certificate, key) = Authority::generate(now).unwrap();
        let another = Authority::load(&certificate, &key).unwrap();
        assert!(another.is_outdated(&metadata, &wanted, now).is_some());
    }

    fn annotated(annotations: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }
    }

    /// What is read of annotations is read again, as the same to the second, of what is written of it.
    fn is_known_or_not(annotations: BTreeMap<String, String>) {
        let metadata = annotated(annotations);
        let nothing = || Secret::new(String::new());
        let Some(certificate) = ServerCertificate::stored(&metadata, String::new(), nothing()) else {
            assert!(!is_for(&metadata, ""));
            return;
        };
        assert!(certificate.facts.names.iter().all(|name| is_for(&metadata, name)));
        let written = annotated(certificate.annotations());
        let again = ServerCertificate::stored(&written, String::new(), nothing()).unwrap();
        assert_eq!(again.annotations(), certificate.annotations());
    }

    #[test]
    fn fuzz_annotations() {
        bolero::check!().for_each(|bytes: &[u8]| {
            // A value a line, in the order of the keys.
            let text = String::from_utf8_lossy(bytes);
            let keys = [NAMES, ISSUED_AT, EXPIRES_AT, AUTHORITY].map(str::to_owned);
            let values = text.lines().map(str::to_owned);
            is_known_or_not(keys.into_iter().zip(values).collect());
        });
    }

    proptest::proptest! {
        #[test]
        fn annotations_are_read_as_they_are_written(
            names in "[a-z0-9.,-]{0,30}",
            times in proptest::array::uniform2(
                "9999-01-01T00:00:00Z|-?[0-9]{4,5}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-6][0-9]\
                    (Z|[+-][0-2][0-9]:00|.)"
            ),
            authority in ".*",
        ) {
            let [issued, expires] = times;
            let fields = [(NAMES, names), (ISSUED_AT, issued), (EXPIRES_AT, expires), (AUTHORITY, authority)];
            let annotations: BTreeMap<_, _> = fields.map(|(key, value)| (key.to_owned(), value)).into();
            is_known_or_not(annotations.clone());
            // What another has signed is not left in its place, whatever else is said of it.
            let (certificate, key) = Authority::generate(Utc::now()).unwrap();
            let authority = Authority::load(&certificate, &key).unwrap();
            let names = ServerCertificate::stored(&annotated(annotations.clone()), String::new(), key)
                .map(|it| it.facts.names)
                .unwrap_or_default();
            proptest::prop_assert!(authority.is_outdated(&annotated(annotations), &names, Utc::now()).is_some());
        }
    }
}
