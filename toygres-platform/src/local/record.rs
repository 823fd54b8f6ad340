//! What the platform writes down about an instance: `instance.json` in its directory. Never a password.

use super::cluster::{io_error, sync_directory};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use toygres_models::{InstanceId, InstanceName, PostgresVersion, Result};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: InstanceId,
    pub(crate) name: InstanceName,
    pub(crate) namespace: Option<String>,
    pub(crate) postgres_version: PostgresVersion,
    pub(crate) port: u16,
    pub(crate) host: String,
    pub(crate) storage_size_gb: i32,
}

const FILE: &str = "instance.json";

impl Record {
    /// None if it is not there or can't be read.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()
    }

    /// Puts it in place whole, and on disk.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let new = directory.join("instance.json.new");
            let mut file = std::fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&new, directory.join(FILE))?;
            sync_directory(directory)
        };
        write().map_err(|cause| io_error(&directory.join(FILE), cause))
    }
}
