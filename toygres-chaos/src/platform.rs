//! A platform of files.

use crate::faults::append;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, InstanceId, PostgresVersion, Result};
use toygres_platform::{
    InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Serving, Storage,
};

/// While this file is there, nothing can be removed.
const HELD: &str = "held";

/// A platform that several processes share, and on which everything is ready at once: each instance is a file, and
/// behind all of them is one PostgreSQL server, which must let everybody in.
pub struct SharedPlatform {
    directory: PathBuf,
    port: u16,
}

impl SharedPlatform {
    /// In this directory, with the server of this port.
    #[must_use]
    pub fn new(directory: &Path, port: u16) -> Arc<Self> {
        std::fs::create_dir_all(directory).unwrap();
        Arc::new(Self {
            directory: directory.to_owned(),
            port,
        })
    }

    /// The file of an instance.
    #[must_use]
    pub fn file(&self, id: InstanceId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Has the process of this id stop itself, as by SIGSTOP, when it is just about to make an instance.
    pub fn stop_before_making(directory: &Path, process: Pid) {
        std::fs::write(stop_file(directory, process), "").unwrap();
    }

    fn data(&self, id: InstanceId) -> PathBuf {
        self.directory.join(format!("{id}.data"))
    }

    /// Whether it refuses from now on to remove anything.
    pub fn hold(directory: &Path, hold: bool) {
        let held = directory.join(HELD);
        match hold {
            true => std::fs::write(held, "").unwrap(),
            false => std::fs::remove_file(held).unwrap(),
        }
    }

    fn serving(&self) -> Observation {
        Observation::Ready(Serving {
            endpoint: Endpoint {
                host: "127.0.0.1".to_owned(),
                port: self.port,
            },
            external_endpoint: None,
            system_identifier: None,
            doubt: None,
        })
    }
}

fn stop_file(directory: &Path, process: Pid) -> PathBuf {
    directory.join(format!("stop-{}", process.as_raw_nonzero()))
}

fn read(path: &Path) -> Option<InstanceRef> {
    let document: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(InstanceRef {
        id: document["id"].as_str()?.parse().ok()?,
        name: document["name"].as_str()?.parse().ok()?,
        namespace: None,
    })
}

#[async_trait]
impl Platform for SharedPlatform {
    fn name(&self) -> &'static str {
        "shared"
    }
    fn host(&self) -> Option<&str> {
        None
    }
    fn versions(&self) -> Vec<PostgresVersion> {
        vec!["17".parse().unwrap()]
    }
    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        let file = self.file(spec.id);
        if file.exists() {
            return Ok(());
        }
        if storage != Storage::Create {
            let message = "its file is gone";
            return Err(Error::new(
                ErrorKind::StorageLost,
                Reason::StorageMissing.as_str(),
                message,
            ));
        }
        let stop = stop_file(&self.directory, getpid());
        if std::fs::remove_file(stop).is_ok() {
            kill_process(getpid(), Signal::STOP).unwrap();
            // Another thread may take the signal, and this one get on a bit before it stands still.
            std::thread::sleep(Duration::from_millis(500));
        }
        let new = self
            .directory
            .join(format!("new-{}", uuid::Uuid::new_v4().simple()));
        std::fs::write(&new, json!({ "id": spec.id, "name": spec.name }).to_string()).unwrap();
        // Of two that make it at once, one does.
        if std::fs::hard_link(&new, &file).is_ok() {
            append(&self.directory.join("made"), &spec.id.to_string());
        }
        std::fs::remove_file(new).ok();
        Ok(())
    }
    async fn keep_data(&self, instance: &InstanceRef) -> Result<()> {
        std::fs::write(self.data(instance.id), "").unwrap();
        Ok(())
    }
    async fn differences(&self, spec: &InstanceSpec, _: Storage) -> Result<Option<Vec<String>>> {
        let missing = !self.file(spec.id).exists();
        Ok(Some(
            missing
                .then(|| "its file is missing".to_owned())
                .into_iter()
                .collect(),
        ))
    }
    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        match self.file(instance.id).exists() {
            true => Ok(self.serving()),
            false => Ok(Observation::Absent),
        }
    }
    async fn wait_ready(&self, instance: &InstanceRef, _: Duration) -> Result<Observation> {
        self.observe(instance).await
    }
    async fn logs(&self, _: &InstanceRef, _: LogOptions) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn follow_logs(
        &self,
        _: &InstanceRef,
        _: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>> {
        Ok(futures_util::stream::empty().boxed())
    }
    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        if self.directory.join(HELD).exists() {
            let message = "a planned finalizer holds it";
            return Err(Error::new(ErrorKind::Config, "planned_refusal", message));
        }
        std::fs::remove_file(self.file(instance.id)).ok();
        std::fs::remove_file(self.data(instance.id)).ok();
        Ok(())
    }
    async fn list(&self) -> Result<Vec<Listed>> {
        let entries = std::fs::read_dir(&self.directory).unwrap().flatten();
        let documents = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
        let listed = documents.filter_map(|entry| {
            let instance = read(&entry.path())?;
            Some(Listed {
                holds_data: self.data(instance.id).exists(),
                instance,
                running: true,
            })
        });
        Ok(listed.collect())
    }
}
