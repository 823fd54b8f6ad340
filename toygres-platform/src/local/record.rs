//! What the platform writes down about an instance: `instance.json` in its directory. Never a password.

use super::fault::io_fault;
use super::files::{read_small, write_whole};
use crate::InstanceRef;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use toygres_models::{Error, InstanceId, InstanceName, PostgresVersion, Result};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: InstanceId,
    pub(crate) name: InstanceName,
    pub(crate) namespace: Option<String>,
    pub(crate) postgres_version: PostgresVersion,
    /// The machine it was made on.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// It has taken connections on this port: clients may have it, so it must not change any more.
    pub(crate) port_is_known: bool,
    pub(crate) storage_size_gb: i32,
    pub(crate) memory_mb: Option<i32>,
    pub(crate) created_at: DateTime<Utc>,
}

const FILE: &str = "instance.json";
const LIMIT: u64 = 64 * 1024;

impl Record {
    /// The record in an instance's directory; `None` if there is none.
    ///
    /// # Errors
    /// If there is one that can't be read or understood.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        match read_small(&path, LIMIT) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(io_fault(error, "read", &path)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::internal(format!("{} can't be understood", path.display())).source(error)
            }),
        }
    }

    /// Puts it in place whole, and on disk.
    ///
    /// # Errors
    /// As the file system's.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let json =
            serde_json::to_vec_pretty(self).map_err(|e| Error::internal("a record as JSON").source(e))?;
        write_whole(&directory.join(FILE), &json, 0o600)
    }

    pub(crate) fn instance(&self) -> InstanceRef {
        InstanceRef {
            id: self.id,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::cluster::{Cluster, Postmaster, ServerState};
    use crate::local::run_as::RunAs;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// Any bytes, and such that are nearly what is expected.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            r#"[{]?("(id|name|port|host|namespace)":("[a-z0-9-]{0,40}"|-?[0-9]{1,12}|null),?){0,9}[}]?"#
                .prop_map(String::into_bytes),
            "(-?[0-9]{1,25}\n|[a-z/]{0,9}\n|ready \n|\r\n){0,9}".prop_map(String::into_bytes),
            "(/?[a-z]{0,9} |\"?-?-?port=-?[0-9]{0,9}\"? |\"-c\" ){0,9}".prop_map(String::into_bytes),
        ]
    }

    fn is_understood_or_refused(directory: &Path, bytes: &[u8]) {
        std::fs::create_dir_all(directory.join("data/global")).unwrap();
        for file in [
            FILE,
            "data/postmaster.pid",
            "data/postmaster.opts",
            "data/global/pg_control",
        ] {
            std::fs::write(directory.join(file), bytes).unwrap();
        }
        match Record::read(directory) {
            Ok(record) => {
                let record = record.expect("the file is there");
                record.write(directory).unwrap();
                assert_eq!(Record::read(directory).unwrap(), Some(record));
            }
            Err(error) => assert!(error.detail().to_string().contains(FILE), "{error:?}"),
        }
        // No number is taken for a process that stands for many (kill(2)).
        if let Some(postmaster) = Postmaster::parse(&String::from_utf8_lossy(bytes)) {
            assert!(postmaster.pid > 0);
        }
        // No process works there, whatever number is named.
        let cluster = Cluster::new(directory.to_owned(), PathBuf::new(), RunAs::find().unwrap());
        assert_eq!(cluster.state(), ServerState::Stopped);
        assert_eq!(cluster.running_port(), None);
        cluster.last_port();
        assert_eq!(cluster.system_identifier().is_some(), bytes.len() >= 8);
    }

    #[test]
    fn fuzz_files_of_an_instance() {
        let home = tempfile::tempdir().unwrap();
        bolero::check!().for_each(|bytes: &[u8]| is_understood_or_refused(home.path(), bytes));
    }

    proptest! {
        #[test]
        fn whatever_stands_in_its_files_an_instance_is_understood_or_refused(bytes in bytes()) {
            let home = tempfile::tempdir().unwrap();
            is_understood_or_refused(home.path(), &bytes);
        }

        #[test]
        fn what_a_server_writes_of_itself_is_read(
            pid in 1..i32::MAX, port: u16, ready in "(ready|standby|starting|stopping) {0,4}", socket in "[/a-z]{0,9}",
        ) {
            let text = format!("{pid}\n/data\n1893456000\n{port}\n{socket}\n127.0.0.1\n  1 2\n{ready}\n");
            let many = format!("-{text}");
            prop_assert!(Postmaster::parse(&many).is_none());
            let read = Postmaster::parse(&text).unwrap();
            prop_assert_eq!((read.pid, read.port), (pid, Some(port)));
            prop_assert_eq!(read.is_ready, matches!(ready.trim(), "ready" | "standby"));
        }
    }
}
