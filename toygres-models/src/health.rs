//! Health: what real connections to an instance found.

use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

words! {
    /// What the last health checks say.
    HealthStatus {
        /// Not checked yet.
        Unknown = "unknown",
        /// The last check was good.
        Healthy = "healthy",
        /// Three checks in a row failed.
        Unhealthy = "unhealthy",
    }
}

/// How many failed checks in a row make an instance unhealthy.
pub const UNHEALTHY_AFTER: i32 = 3;

/// One health check: a real connection that ran a real query, or why it did not.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HealthCheck {
    /// When it was made.
    pub checked_at: DateTime<Utc>,
    /// Whether the query was answered.
    pub healthy: bool,
    /// From before connecting to after the answer, in milliseconds.
    pub response_time_ms: Option<f64>,
    /// What the server calls itself, such as `15.18`.
    pub server_version: Option<String>,
    /// A stable word for what went wrong, such as `connection_refused`.
    pub error_code: Option<String>,
    /// A sentence for people.
    pub error_message: Option<String>,
}
