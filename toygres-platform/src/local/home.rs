//! What lies below the platform's directory: one directory an instance in `instances/`, and what is left of removed
//! ones in `trash/`.

use super::cluster::{Cluster, ServerState};
use super::fault::{fault, io_fault};
use super::files::{
    make_directory, names_in, random_suffix, remove_all, remove_unfinished, sync_directory, write_whole,
};
use super::ports;
use super::programs::Programs;
use super::record::Record;
use super::run_as::RunAs;
use crate::{InstanceRef, InstanceSpec, Listed, Storage, Unknown};
use chrono::Utc;
use std::fs::OpenOptions;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, PostgresVersion, Result};

/// Others may go through these directories, but not look around: servers run as another user than root.
const PASSABLE: u32 = 0o711;
/// Stands beside the data from the first time on that the control plane had an answer of it. A file of its own: the
/// record is written by whoever works on the instance.
const HOLDS_DATA: &str = "holds-data";

pub(crate) struct Home {
    pub(crate) directory: PathBuf,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) programs: Programs,
    pub(crate) run_as: RunAs,
    pub(crate) host: String,
    /// Held while a port is chosen and written down; the lock on `ports.lock` is for other processes.
    pub(crate) choosing: Mutex<()>,
}

impl Home {
    /// Makes the directories that are missing.
    pub(crate) fn prepare(&self) -> Result<()> {
        for directory in [self.directory.clone(), self.instances(), self.trash()] {
            make_directory(&directory, PASSABLE)?;
        }
        self.run_as.check_can_enter(&self.instances())
    }

    fn instances(&self) -> PathBuf {
        self.directory.join("instances")
    }

    fn trash(&self) -> PathBuf {
        self.directory.join("trash")
    }

    pub(crate) fn instance(&self, instance: &InstanceRef) -> PathBuf {
        self.instances().join(instance.object_name())
    }

    /// Whether there is a directory for the instance.
    pub(crate) fn has(&self, instance: &InstanceRef) -> Result<bool> {
        let directory = self.instance(instance);
        directory
            .try_exists()
            .map_err(|e| io_fault(e, "look at", &directory))
    }

    pub(crate) fn cluster(&self, instance: &InstanceRef, version: PostgresVersion) -> Result<Cluster> {
        let programs = self.programs.directory(version)?.to_owned();
        Ok(Cluster::new(self.instance(instance), programs, self.run_as))
    }

    /// For looking and ending only: no program is run by it.
    pub(crate) fn any_cluster(&self, instance: &InstanceRef) -> Cluster {
        Cluster::new(self.instance(instance), PathBuf::new(), self.run_as)
    }

    /// Checks what is there against what must be there.
    ///
    /// # Errors
    /// `StorageLost`.
    pub(crate) fn check_storage(&self, instance: &InstanceRef, storage: Storage) -> Result<()> {
        self.check_owner(instance)?;
        let Storage::MustExist { system_identifier } = storage else {
            return Ok(());
        };
        let cluster = self.any_cluster(instance);
        let data = cluster.data();
        match (cluster.read_system_identifier(), system_identifier) {
            (Ok(found), Some(expected)) if found != expected => Err(fault(
                Reason::StorageForeign,
                format!("the data in {} is not that of {}", data.display(), instance.name),
            )
            .context(format!("system identifier {found}, must be {expected}"))),
            (Ok(_), _) => Ok(()),
            (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(io_fault(error, "read", &data))
            }
            (Err(error), _) => Err(fault(
                Reason::StorageMissing,
                format!(
                    "the data of {} is not in {}, or is damaged",
                    instance.name,
                    data.display()
                ),
            )
            .source(error)),
        }
    }

    /// Checks that an instance's directory, if there is one, does not say that it is another's.
    pub(crate) fn check_owner(&self, instance: &InstanceRef) -> Result<()> {
        let directory = self.instance(instance);
        match Record::read(&directory) {
            Ok(Some(record)) if record.id != instance.id => Err(fault(
                Reason::StorageForeign,
                format!(
                    "{} belongs to the instance {}, not to {}",
                    directory.display(),
                    record.id,
                    instance.id
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The instance's directory with a record in it that says what the specification says; both are made if they
    /// are missing. The port is kept, unless nobody can know it yet and it is taken by now.
    pub(crate) fn record(&self, spec: &InstanceSpec, storage: Storage) -> Result<Record> {
        let instance = spec.reference();
        let directory = self.instance(&instance);
        make_directory(&directory, PASSABLE)?;
        self.run_as.check_can_enter(&directory)?;
        let known = Record::read(&directory).unwrap_or_else(|error| {
            tracing::warn!(
                detail = error.detail(),
                "an instance's record is written anew: {error}"
            );
            None
        });
        let cluster = self.any_cluster(&instance);
        let is_running = cluster.state() != ServerState::Stopped;
        let port_is_known = matches!(storage, Storage::MustExist { .. })
            || is_running
            || known.as_ref().is_some_and(|record| record.port_is_known);
        let port = cluster
            .running_port()
            .or_else(|| known.as_ref().map(|record| record.port))
            .or_else(|| cluster.last_port())
            .filter(|port| port_is_known || ports::is_free(*port));
        let mut record = Record {
            id: spec.id,
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            postgres_version: spec.postgres_version,
            host: self.host.clone(),
            port: port.unwrap_or_default(),
            port_is_known,
            storage_size_gb: spec.storage_size_gb,
            memory_mb: spec.memory_mb,
            created_at: known.as_ref().map_or_else(Utc::now, |record| record.created_at),
        };
        if port.is_none() {
            self.choose_port(&mut record)?;
        } else if known.as_ref() != Some(&record) {
            record.write(&directory)?;
        }
        Ok(record)
    }

    /// Gives the record a port that no other instance has, and writes it down.
    ///
    /// # Errors
    /// `Throttled` (`port_taken`) if no port of the range is free.
    pub(crate) fn choose_port(&self, record: &mut Record) -> Result<()> {
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.directory.join("ports.lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.map_err(|e| io_fault(e, "open", &path))?;
        lock.lock().map_err(|e| io_fault(e, "lock", &path))?;
        let taken: Vec<u16> = self.records()?.iter().map(|record| record.port).collect();
        record.port = ports::choose(&self.ports, record.id, &taken).ok_or_else(|| {
            let (first, last) = (self.ports.start(), self.ports.end());
            let message = format!("no port from {first} to {last} is free");
            Error::new(ErrorKind::Throttled, Reason::PortTaken.as_str(), message)
        })?;
        record.write(&self.instance(&record.instance()))
    }

    /// What is wrong with an instance's record, if it is to be written anew.
    pub(crate) fn record_is_lost(&self, instance: &InstanceRef) -> Option<String> {
        let directory = self.instance(instance);
        match Record::read(&directory) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("the record in {} is missing", directory.display())),
            Err(error) => Some(error.to_string()),
        }
    }

    fn records(&self) -> Result<Vec<Record>> {
        let instances = self.instances();
        let read = |name| Record::read(&instances.join(name)).ok().flatten();
        Ok(names_in(&instances)?.into_iter().filter_map(read).collect())
    }

    /// Whether the instance has taken connections once, so that it must have data.
    pub(crate) fn has_served(&self, instance: &InstanceRef) -> bool {
        Record::read(&self.instance(instance)).is_ok_and(|record| record.is_some_and(|it| it.port_is_known))
    }

    pub(crate) fn keep_data(&self, instance: &InstanceRef) -> Result<()> {
        let mark = self.instance(instance).join(HOLDS_DATA);
        write_whole(&mark, &[], 0o600)
    }

    pub(crate) fn list(&self) -> Result<Vec<Listed>> {
        let listed = |record: Record| {
            let instance = record.instance();
            Listed {
                running: self.any_cluster(&instance).state() != ServerState::Stopped,
                holds_data: self.instance(&instance).join(HOLDS_DATA).exists(),
                instance,
            }
        };
        Ok(self.records()?.into_iter().map(listed).collect())
    }

    pub(crate) fn unknown(&self) -> Result<Vec<Unknown>> {
        let instances = self.instances();
        let why = |name: &String| match Record::read(&instances.join(name)) {
            Ok(Some(record)) if record.instance().object_name() == *name => None,
            Ok(Some(record)) => Some(format!("it says that it is {}", record.instance().object_name())),
            Ok(None) => Some("it has no instance.json".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let unknown = |object: String| why(&object).map(|message| Unknown { object, message });
        Ok(names_in(&instances)?.into_iter().filter_map(unknown).collect())
    }

    /// Whether a removal of this instance has not come to its end.
    pub(crate) fn is_in_trash(&self, instance: &InstanceRef) -> Result<bool> {
        let prefix = trash_prefix(instance);
        Ok(names_in(&self.trash())?
            .iter()
            .any(|name| name.starts_with(&prefix)))
    }

    /// Takes an instance's directory out of sight, whole, if it is there.
    pub(crate) fn move_to_trash(&self, instance: &InstanceRef) -> Result<()> {
        let directory = self.instance(instance);
        let target = self
            .trash()
            .join(format!("{}{}", trash_prefix(instance), random_suffix()));
        match std::fs::rename(&directory, &target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_fault(error, "remove", &directory))
            }
            _ => sync_directory(&self.instances()).map_err(|e| io_fault(e, "write", &self.instances())),
        }
    }

    /// Removes what processes that are gone had begun to write down.
    pub(crate) fn remove_unfinished(&self) -> Result<()> {
        let instances = self.instances();
        for name in names_in(&instances)? {
            // It is in nobody's way, nor is what is no directory.
            remove_unfinished(&instances.join(name)).ok();
        }
        Ok(())
    }

    /// Removes for good what was moved to the trash: of one instance, or all.
    pub(crate) fn empty_trash(&self, instance: Option<&InstanceRef>) -> Result<()> {
        let prefix = instance.map(trash_prefix).unwrap_or_default();
        for name in names_in(&self.trash())? {
            if name.starts_with(&prefix) {
                remove_all(&self.trash().join(name))?;
            }
        }
        Ok(())
    }
}

/// A dot is in no name, so that no instance's leftovers are taken for another's.
fn trash_prefix(instance: &InstanceRef) -> String {
    format!("{}.", instance.object_name())
}
