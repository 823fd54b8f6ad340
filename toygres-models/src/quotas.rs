//! Quotas: how much an owner may have.

use crate::error::{Error, FieldError, Result};
use crate::names::OwnerName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most that a quota can allow: beyond it, leave it out.
const MOST: i64 = 1_000_000_000;

/// How much an owner may have. What is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaLimits {
    /// Instances that hold a name.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub max_instances: Option<i64>,
    /// Storage of all of them, in GiB.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub max_storage_gb: Option<i64>,
}

impl QuotaLimits {
    /// Checks every field, and says all that is wrong at once.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with one entry a wrong field.
    pub fn parse(self) -> Result<Self> {
        let fields = [
            ("max_instances", self.max_instances),
            ("max_storage_gb", self.max_storage_gb),
        ];
        let wrong: Vec<FieldError> = fields
            .iter()
            .filter(|(_, value)| value.is_some_and(|value| !(0..=MOST).contains(&value)))
            .map(|(field, _)| FieldError {
                field: (*field).to_owned(),
                message: format!("must be a whole number from 0 to {MOST}"),
            })
            .collect();
        if wrong.is_empty() {
            Ok(self)
        } else {
            Err(Error::invalid_fields(wrong))
        }
    }
}

/// What an owner may have, and has.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// The owner.
    pub user_name: OwnerName,
    /// What it may have: its own limits, else those that hold for every owner.
    pub limits: QuotaLimits,
    /// Whether these limits are its own.
    pub own: bool,
    /// Instances that hold a name now.
    pub instances: i64,
    /// Storage of all of them, in GiB.
    pub storage_gb: i64,
}
