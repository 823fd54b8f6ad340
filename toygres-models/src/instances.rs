//! Instances: what is asked for, what is shown.

pub use crate::connection::{CA_FILE, Connection, DATABASE_NAME, Endpoint, ROLE_NAME};
use crate::error::{Error, FieldError};
use crate::health::HealthStatus;
use crate::ids::InstanceId;
use crate::names::{InstanceName, OwnerName, PostgresVersion};
use crate::secret::Secret;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

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

/// A request with everything that can be said of a new instance but its name.
macro_rules! request {
    ($(#[$doc:meta])* $request:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $request {
            $($own)*
            /// The password of the role `postgres`: 6 to 256 characters, none of them a control character. Made by the
            /// server and shown once if absent.
            #[serde(default)]
            #[schema(value_type = Option<String>, min_length = 6, max_length = 256, format = Password, write_only,
                pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
            pub password: Option<Secret>,
            /// The owner; the token's, else `default`, if absent.
            #[serde(default)]
            #[schema(value_type = Option<OwnerName>)]
            pub user_name: Option<String>,
            /// The PostgreSQL major version; the server's default if absent.
            #[serde(default)]
            #[schema(value_type = Option<PostgresVersion>)]
            pub postgres_version: Option<String>,
            /// Storage in GiB; 10 if absent. Recorded, not enforced, on the platform `local`.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 65536, example = 10)]
            pub storage_size_gb: Option<i64>,
            /// CPUs as a Kubernetes quantity such as `500m` or `2`.
            #[serde(default)]
            #[schema(example = "500m")]
            pub cpu: Option<String>,
            /// Memory in MiB.
            #[serde(default)]
            #[schema(minimum = 128, maximum = 1048576, example = 512)]
            pub memory_mb: Option<i64>,
            /// No address outside the cluster if true.
            #[serde(default)]
            pub internal: Option<bool>,
            /// The namespace to put it in, where the platform has such and the policy allows it.
            #[serde(default)]
            #[schema(value_type = Option<OwnerName>)]
            pub namespace: Option<String>,
            /// Labels of the user's own: at most 32, keys of 1 to 63 letters, digits, `-`, `_`, `.` and `/`, values of up
            /// to 255 characters, none of them a control character.
            #[serde(default)]
            #[schema(schema_with = tags_schema)]
            pub tags: Option<BTreeMap<String, String>>,
            /// Refuses deletion while true.
            #[serde(default)]
            pub deletion_protection: Option<bool>,
        }
    };
}

request! {
    /// The body of `POST /api/instances`, as sent. [`CreateInstanceRequest::parse`] turns it into a [`NewInstance`].
    CreateInstanceRequest {
        /// The instance's name, unique among those that are neither deleted nor failed.
        #[schema(value_type = InstanceName, example = "demo")]
        pub name: String,
    }
}

request! {
    /// The body of `POST /api/instances/bulk`: instances named `base_name-1` to `base_name-count`.
    BulkCreateRequest {
        /// What their names begin with.
        #[schema(min_length = 1, max_length = 37, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$", example = "demo")]
        pub base_name: String,
        /// How many.
        #[schema(minimum = 1, maximum = 50, example = 3)]
        pub count: i64,
    }
}

/// The most instances of one bulk request.
pub const BULK_LIMIT: usize = 50;
/// Room in a name for `-` and a number up to [`BULK_LIMIT`].
const BULK_SUFFIX_LEN: usize = 3;

impl BulkCreateRequest {
    /// One request an instance, each valid.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with one entry a wrong field.
    pub fn parse(self) -> crate::Result<Vec<NewInstance>> {
        let mut wrong = Vec::new();
        let mut reject = |field: &str, message: String| {
            wrong.push(FieldError {
                field: field.to_owned(),
                message,
            });
        };
        let count = usize::try_from(self.count).unwrap_or(0);
        if !(1..=BULK_LIMIT).contains(&count) {
            reject("count", format!("must be a whole number from 1 to {BULK_LIMIT}"));
        }
        let longest = InstanceName::MAX_LEN - BULK_SUFFIX_LEN;
        match self.base_name.parse::<InstanceName>() {
            Err(why) => reject("base_name", why.to_string()),
            Ok(name) if name.as_str().len() > longest => {
                reject(
                    "base_name",
                    format!("must be at most {longest} characters: a number follows"),
                );
            }
            Ok(_) => {}
        }
        let named = |name: String| CreateInstanceRequest {
            name,
            password: self.password.clone(),
            user_name: self.user_name.clone(),
            postgres_version: self.postgres_version.clone(),
            storage_size_gb: self.storage_size_gb,
            cpu: self.cpu.clone(),
            memory_mb: self.memory_mb,
            internal: self.internal,
            namespace: self.namespace.clone(),
            tags: self.tags.clone(),
            deletion_protection: self.deletion_protection,
        };
        // What all of them share is checked once, under a name that is valid.
        if let Err(error) = named("a".to_owned()).parse() {
            wrong.extend(error.fields().iter().cloned());
        }
        if !wrong.is_empty() {
            return Err(Error::invalid_fields(wrong));
        }
        (1..=count)
            .map(|number| named(format!("{}-{number}", self.base_name)).parse())
            .collect()
    }
}

/// The body of `POST /api/instances/bulk/delete`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkDeleteRequest {
    /// Names, or ids, of the instances to delete.
    #[schema(min_items = 1, max_items = 50, example = json!(["demo-1", "demo-2"]))]
    pub names: Vec<String>,
}

/// What came of one item of a bulk request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BulkResult {
    /// The item's name, as it was sent or made.
    pub name: String,
    /// What its request alone would have been answered with: 202, or the status of `problem`.
    #[schema(example = 202)]
    pub status: u16,
    /// What was accepted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accepted: Option<InstanceAccepted>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<crate::problem::Problem>,
}

/// The body of `PATCH /api/instances/{name}`. What is absent stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchInstanceRequest {
    /// Tags to set; those with the value null are removed, the others stay (a merge patch, RFC 7396).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = tag_changes_schema)]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    /// Whether deletion is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_protection: Option<bool>,
}

impl PatchInstanceRequest {
    /// Checks what can be checked without the instance.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with one entry a wrong field.
    pub fn parse(self) -> crate::Result<Self> {
        let set = self.tags.iter().flatten();
        let set = set
            .filter_map(|(key, value)| Some((key.clone(), value.clone()?)))
            .collect();
        check_all_tags(&set)?;
        Ok(self)
    }

    /// The tags that an instance with these will have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] if they would be too many.
    pub fn merge_tags(&self, tags: &BTreeMap<String, String>) -> crate::Result<BTreeMap<String, String>> {
        let mut merged = tags.clone();
        for (key, value) in self.tags.iter().flatten() {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        check_all_tags(&merged)?;
        Ok(merged)
    }
}

fn check_all_tags(tags: &BTreeMap<String, String>) -> crate::Result<()> {
    check_tags(tags).map_err(|message| Error::invalid_field("tags", message))
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

/// Would be unreachable: `/api/instances/bulk` is another thing.
const RESERVED_NAME: &str = "bulk";
/// Shortest password allowed, in characters.
pub const PASSWORD_MIN_CHARS: usize = 6;
/// Longest password allowed, in characters.
pub const PASSWORD_MAX_CHARS: usize = 256;
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
        if self.name == RESERVED_NAME {
            reject(
                "name",
                "is reserved: it stands for many instances in the API's paths",
            );
        }
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
    } else if password.chars().count() > PASSWORD_MAX_CHARS {
        Err(format!("must be at most {PASSWORD_MAX_CHARS} characters"))
    } else if password.chars().any(char::is_control) {
        // PostgreSQL reads the password's first line only, and no client can send a NUL.
        Err("must not hold control characters such as line breaks, tabs or NUL".to_owned())
    } else {
        Ok(())
    }
}

/// Whether it is a number of CPUs such as `2`, `0.5` or `500m`, as Kubernetes writes them.
#[must_use]
pub fn is_cpu_quantity(text: &str) -> bool {
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

/// The most tags of an instance.
const TAGS_MAX: usize = 32;
/// Longest value of a tag, in characters.
const TAG_VALUE_MAX_CHARS: usize = 255;

fn tags_schema() -> Schema {
    tags_object(false, serde_json::json!({"team": "web"}))
}

fn tag_changes_schema() -> Schema {
    tags_object(true, serde_json::json!({"team": "web", "old": null}))
}

/// What [`check_tags`] lets through; with `nullable` also null as a value.
fn tags_object(nullable: bool, example: serde_json::Value) -> Schema {
    let or_null = |one: Type, nullable: bool| match nullable {
        true => SchemaType::from_iter([one, Type::Null]),
        false => SchemaType::new(one),
    };
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(63))
        .pattern(Some("^[A-Za-z0-9._/-]+$"))
        .build();
    let value = ObjectBuilder::new()
        .schema_type(or_null(Type::String, nullable))
        .max_length(Some(TAG_VALUE_MAX_CHARS))
        .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"))
        .build();
    ObjectBuilder::new()
        .schema_type(or_null(Type::Object, true))
        .property_names(Some(Schema::from(key)))
        .additional_properties(Some(Schema::from(value)))
        .max_properties(Some(TAGS_MAX))
        .examples([example])
        .build()
        .into()
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > TAGS_MAX {
        return Err(format!("must be at most {TAGS_MAX} tags"));
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
        if value.chars().count() > TAG_VALUE_MAX_CHARS || value.chars().any(char::is_control) {
            return Err(format!(
                "the value of {key:?} must be at most {TAG_VALUE_MAX_CHARS} characters, none of them a control character"
            ));
        }
    }
    Ok(())
}

/// An instance as the API shows it. Never holds a password.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// Why it is not running, not running yet, or does not answer: a sentence for people.
    pub state_reason: Option<String>,
    /// The same as a stable word for programs, such as `image_pull`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason_code: Option<String>,
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
    /// Where it can be reached from outside the platform's network, while there is such an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_endpoint: Option<Endpoint>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its row was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was gone, if it is.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// The answer of `POST /api/instances` and `DELETE /api/instances/{name}`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceAccepted {
    /// The instance as it is now.
    pub instance: Instance,
    /// The operation that was started; poll it at `/api/operations/{id}`.
    pub operation: crate::operations::Operation,
    /// The password that was made for it. Shown this once; a replay leaves it out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password: Option<String>,
}

impl fmt::Debug for InstanceAccepted {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceAccepted")
            .field("instance", &self.instance)
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
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
    fn a_name_that_could_not_be_reached_is_refused() {
        let error = request(serde_json::json!({"name": "bulk"}))
            .parse()
            .expect_err("reserved");
        assert_eq!(error.fields()[0].field, "name");
    }

    #[test]
    fn a_bulk_request_makes_numbered_instances() {
        let bulk = |json| {
            serde_json::from_value::<BulkCreateRequest>(json)
                .expect("readable")
                .parse()
        };
        let all = bulk(serde_json::json!({"base_name": "a", "count": 3, "memory_mb": 256})).expect("valid");
        let names: Vec<_> = all.iter().map(|new| new.name.as_str()).collect();
        assert_eq!(names, ["a-1", "a-2", "a-3"]);
        assert_eq!(all[2].memory_mb, Some(256));
        let long = "a".repeat(38);
        let error =
            bulk(serde_json::json!({"base_name": long, "count": 51, "cpu": "many"})).expect_err("all wrong");
        let fields: Vec<_> = error.fields().iter().map(|f| f.field.as_str()).collect();
        assert_eq!(fields, ["count", "base_name", "cpu"]);
    }

    #[test]
    fn a_patch_sets_and_removes_tags_and_leaves_the_others() {
        let patch: PatchInstanceRequest =
            serde_json::from_value(serde_json::json!({"tags": {"a": "2", "b": null}})).expect("readable");
        let tags = [("a", "1"), ("b", "1"), ("c", "1")];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let merged = patch.merge_tags(&tags).expect("few");
        assert_eq!(format!("{merged:?}"), r#"{"a": "2", "c": "1"}"#);
        let many: BTreeMap<_, _> = (0..32).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(patch.merge_tags(&many).is_err());
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
            &"é".repeat(256),
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
