//! Instances: what is asked for, what is shown.

pub use crate::connection::{Connection, DATABASE_NAME, Endpoint, ROLE_NAME};
use crate::error::{Error, FieldError};
use crate::health::HealthStatus;
use crate::ids::InstanceId;
use crate::names::{InstanceName, OwnerName, PostgresVersion};
use crate::secret::Secret;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

words! {
    /// The state of an instance as people see it.
    InstanceState {
        /// Being made.
        Creating = "creating",
        /// There, and its last health checks were good.
        Running = "running",
        /// There, but not healthy; repair is being tried.
        Degraded = "degraded",
        /// Being changed.
        Updating = "updating",
        /// Being removed.
        Deleting = "deleting",
        /// Gone; the row stays for audit, the name is free.
        Deleted = "deleted",
        /// Could not be made; nothing of it is left but the row, the name is free.
        Failed = "failed",
    }
}

impl InstanceState {
    /// Whether an instance in this state holds its name.
    #[must_use]
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Deleted | Self::Failed)
    }
}

words! {
    /// What the user wants the instance to be. The API writes it, the instance's actor makes it true.
    DesiredState {
        /// There and serving.
        Running = "running",
        /// Gone.
        Deleted = "deleted",
    }
}

/// The body of `POST /api/instances`, as sent. [`CreateInstanceRequest::parse`] turns it into a [`NewInstance`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateInstanceRequest {
    /// The instance's name: 1 to 40 characters, lower-case letters, digits, hyphens, a letter first.
    pub name: String,
    /// The password of the role `postgres`; made by the server if absent.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The owner; `default` if absent.
    #[serde(default)]
    pub user_name: Option<String>,
    /// The PostgreSQL major version; the server's default if absent.
    #[serde(default)]
    pub postgres_version: Option<String>,
    /// Storage in GiB, 1 to 65536; 10 if absent. Recorded, not enforced, on the platform `local`.
    #[serde(default)]
    pub storage_size_gb: Option<i64>,
    /// CPUs as a Kubernetes quantity such as `500m` or `2`.
    #[serde(default)]
    pub cpu: Option<String>,
    /// Memory in MiB, 128 to 1048576.
    #[serde(default)]
    pub memory_mb: Option<i64>,
    /// No address outside the cluster if true.
    #[serde(default)]
    pub internal: Option<bool>,
    /// The namespace to put it in, where the platform has such and the policy allows it.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Labels of the user's own: at most 32, keys 1 to 63 and values up to 255 characters.
    #[serde(default)]
    pub tags: Option<BTreeMap<String, String>>,
    /// Refuses deletion while true.
    #[serde(default)]
    pub deletion_protection: Option<bool>,
}

/// A request to make an instance whose every field is valid.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// The name.
    pub name: InstanceName,
    /// The password, if the user chose one.
    pub password: Option<Secret>,
    /// The owner.
    pub user_name: OwnerName,
    /// The version, if the user chose one.
    pub postgres_version: Option<PostgresVersion>,
    /// Storage in GiB.
    pub storage_size_gb: i32,
    /// CPUs as a Kubernetes quantity.
    pub cpu: Option<String>,
    /// Memory in MiB.
    pub memory_mb: Option<i32>,
    /// No address outside the cluster.
    pub internal: bool,
    /// The namespace.
    pub namespace: Option<String>,
    /// The user's labels.
    pub tags: BTreeMap<String, String>,
    /// Refuses deletion while true.
    pub deletion_protection: bool,
}

/// Shortest password allowed, in characters.
pub const PASSWORD_MIN_CHARS: usize = 6;
/// Longest password allowed, in bytes.
pub const PASSWORD_MAX_BYTES: usize = 256;
const DEFAULT_STORAGE_SIZE_GB: i32 = 10;

impl CreateInstanceRequest {
    /// Checks every field, and says all that is wrong at once.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with one entry a wrong field.
    pub fn parse(self) -> crate::Result<NewInstance> {
        let mut wrong: Vec<FieldError> = Vec::new();
        let mut reject = |field: &str, message: &str| {
            wrong.push(FieldError {
                field: field.to_owned(),
                message: message.to_owned(),
            });
        };

        let name = self
            .name
            .parse::<InstanceName>()
            .map_err(|e| reject("name", &e.to_string()))
            .ok();
        let user_name = match &self.user_name {
            None => Some(OwnerName::default()),
            Some(text) => text
                .parse()
                .map_err(|e: crate::names::ParseNameError| reject("user_name", &e.to_string()))
                .ok(),
        };
        let postgres_version = match &self.postgres_version {
            None => None,
            Some(text) => text
                .parse()
                .map_err(|e: crate::names::ParseNameError| reject("postgres_version", &e.to_string()))
                .ok(),
        };
        if let Some(password) = &self.password
            && let Err(why) = check_password(password.reveal())
        {
            reject("password", &why);
        }
        let storage_size_gb = match self.storage_size_gb {
            None => DEFAULT_STORAGE_SIZE_GB,
            Some(size) => in_range(size, 1, 65_536).unwrap_or_else(|| {
                reject("storage_size_gb", "must be a whole number from 1 to 65536 (GiB)");
                0
            }),
        };
        let memory_mb = self.memory_mb.map(|size| {
            in_range(size, 128, 1_048_576).unwrap_or_else(|| {
                reject("memory_mb", "must be a whole number from 128 to 1048576 (MiB)");
                0
            })
        });
        if let Some(cpu) = &self.cpu
            && !is_cpu_quantity(cpu)
        {
            reject(
                "cpu",
                "must be a number of CPUs such as \"2\", \"0.5\" or \"500m\"",
            );
        }
        if let Some(namespace) = &self.namespace
            && namespace.parse::<OwnerName>().is_err()
        {
            reject(
                "namespace",
                "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter",
            );
        }
        let tags = self.tags.unwrap_or_default();
        if let Err(why) = check_tags(&tags) {
            reject("tags", &why);
        }

        match (name, user_name) {
            (Some(name), Some(user_name)) if wrong.is_empty() => Ok(NewInstance {
                name,
                password: self.password,
                user_name,
                postgres_version,
                storage_size_gb,
                cpu: self.cpu,
                memory_mb,
                internal: self.internal.unwrap_or(false),
                namespace: self.namespace,
                tags,
                deletion_protection: self.deletion_protection.unwrap_or(false),
            }),
            _ => Err(Error::invalid_fields(wrong)),
        }
    }
}

fn in_range(value: i64, min: i64, max: i64) -> Option<i32> {
    if (min..=max).contains(&value) {
        i32::try_from(value).ok()
    } else {
        None
    }
}

fn check_password(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_MIN_CHARS {
        Err(format!("must be at least {PASSWORD_MIN_CHARS} characters"))
    } else if password.len() > PASSWORD_MAX_BYTES {
        Err(format!("must be at most {PASSWORD_MAX_BYTES} bytes"))
    } else if password.chars().any(char::is_control) {
        // PostgreSQL reads the password's first line only, and no client can send a NUL.
        Err("must not hold control characters such as line breaks, tabs or NUL".to_owned())
    } else {
        Ok(())
    }
}

fn is_cpu_quantity(text: &str) -> bool {
    let (number, milli) = match text.strip_suffix('m') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let digits_only =
        !number.is_empty() && number.len() <= 6 && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = match number.parse() {
        Ok(value) if digits_only => value,
        _ => return false,
    };
    let cpus = if milli { value / 1000.0 } else { value };
    let whole_when_milli = !milli || !number.contains('.');
    whole_when_milli && cpus > 0.0 && cpus <= 256.0
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > 32 {
        return Err("must be at most 32 tags".to_owned());
    }
    for (key, value) in tags {
        let key_ok = !key.is_empty()
            && key.len() <= 63
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
        if !key_ok {
            return Err("keys must be 1 to 63 letters, digits, '-', '_', '.' and '/'".to_owned());
        }
        if value.len() > 255 || value.chars().any(char::is_control) {
            return Err(format!(
                "the value of {key:?} must be at most 255 bytes without control characters"
            ));
        }
    }
    Ok(())
}

/// An instance as the API shows it. Never holds a password.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity.
    pub id: InstanceId,
    /// Its name.
    pub name: InstanceName,
    /// Its owner.
    pub user_name: OwnerName,
    /// Where it is in its life.
    pub state: InstanceState,
    /// What the last health checks found.
    pub health_status: HealthStatus,
    /// Why it is not running, if it is not: a sentence for people.
    pub state_reason: Option<String>,
    /// The PostgreSQL major version.
    pub postgres_version: PostgresVersion,
    /// Storage in GiB.
    pub storage_size_gb: i32,
    /// CPUs as a Kubernetes quantity.
    pub cpu: Option<String>,
    /// Memory in MiB.
    pub memory_mb: Option<i32>,
    /// No address outside the cluster.
    pub internal: bool,
    /// The namespace it was asked to be in.
    pub namespace: Option<String>,
    /// The user's labels.
    pub tags: BTreeMap<String, String>,
    /// Refuses deletion while true.
    pub deletion_protection: bool,
    /// Where it can be reached, once it is known.
    pub endpoint: Option<Endpoint>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its row was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was gone, if it is.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// The answer of `POST /api/instances` and `DELETE /api/instances/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceAccepted {
    /// The instance as it is now.
    pub instance: Instance,
    /// The operation that was started; poll it at `/api/operations/{id}`.
    pub operation: crate::operations::Operation,
    /// The password that was made for it. Shown this once; a replay leaves it out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: serde_json::Value) -> CreateInstanceRequest {
        serde_json::from_value(json).expect("a request that can be read")
    }

    #[test]
    fn a_name_is_enough() {
        let new = request(serde_json::json!({"name": "demo"}))
            .parse()
            .expect("valid");
        assert_eq!(
            (new.name.as_str(), new.user_name.as_str(), new.storage_size_gb),
            ("demo", "default", 10)
        );
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let error = request(serde_json::json!({
            "name": "No Way", "password": "12345", "user_name": "", "postgres_version": "latest",
            "storage_size_gb": 0, "cpu": "many", "memory_mb": 1, "namespace": "A", "tags": {"": "x"},
        }))
        .parse()
        .expect_err("nothing in it is valid");
        let fields: Vec<&str> = error.fields().iter().map(|f| f.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "name",
                "user_name",
                "postgres_version",
                "password",
                "storage_size_gb",
                "memory_mb",
                "cpu",
                "namespace",
                "tags"
            ]
        );
        assert!(
            !error.message().contains("12345"),
            "an error must not show the password"
        );
    }

    #[test]
    fn passwords_are_checked_but_may_be_any_printable_text() {
        let check = |p: &str| {
            request(serde_json::json!({"name": "a", "password": p}))
                .parse()
                .is_ok()
        };
        for good in [
            "test123",
            "pass'word\"",
            "пароль-密码",
            "      ",
            &"x".repeat(256),
        ] {
            assert!(check(good), "{good:?}");
        }
        for bad in [
            "",
            "short",
            "with\nnewline",
            "with\0nul",
            "tab\tbed!",
            &"x".repeat(257),
        ] {
            assert!(!check(bad), "{bad:?}");
        }
    }

    #[test]
    fn cpu_quantities() {
        for good in ["1", "0.5", "500m", "256"] {
            assert!(is_cpu_quantity(good), "{good}");
        }
        for bad in ["", "m", "0", "-1", "1.5m", "257", "1e3", "two", "inf", "1 "] {
            assert!(!is_cpu_quantity(bad), "{bad}");
        }
    }
}
