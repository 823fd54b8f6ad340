//! What the server says about itself.

use serde::{Deserialize, Serialize};

/// The answer of `/health`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerHealth {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// The program's version.
    pub version: String,
}

/// One thing that was looked at for `/livez` or `/readyz`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is good.
    pub ok: bool,
    /// What was found.
    pub message: String,
}

/// The answer of `/livez` and `/readyz`: status 200 if `ok`, else 503.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// Whether all checks are good.
    pub ok: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
}
