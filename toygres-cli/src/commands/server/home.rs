//! The files by which a server and this program find each other.

use crate::failure::{Failure, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use toygres_server::config::{Paths, ServerConfig};

/// The server that runs on a home.
pub(super) struct Running {
    pub(super) pid: i32,
    /// Where it listens, as it wrote down when it started.
    pub(super) url: Option<String>,
}

/// The server that runs on this home. A pid file alone proves nothing: its server may have been killed, and its pid be
/// another process's by now. The lock ends with the server.
pub(super) fn running(paths: &Paths) -> Result<Option<Running>> {
    let Some(pid) = recorded_pid(paths) else {
        return Ok(None);
    };
    if !lock_is_held(&paths.lock_file)? {
        return Ok(None);
    }
    let url = std::fs::read_to_string(url_file(paths)).ok();
    let url = url
        .map(|text| text.trim().to_owned())
        .filter(|url| !url.is_empty());
    Ok(Some(Running { pid, url }))
}

/// What the pid file says, whether or not that process runs.
pub(super) fn recorded_pid(paths: &Paths) -> Option<i32> {
    pid_in(&std::fs::read_to_string(&paths.pid_file).ok()?)
}

/// Never a number that stands for many processes (kill(2)).
fn pid_in(text: &str) -> Option<i32> {
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn lock_is_held(lock_file: &Path) -> Result<bool> {
    let unusable = |cause: std::io::Error| {
        Failure::failed(format!("{} can't be read", lock_file.display()))
            .why(cause)
            .next("run this as the user that the server runs as")
    };
    let file = match File::open(lock_file) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(unusable(cause)),
    };
    // Shared: two that look at once do not take each other for a server.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(cause) => Err(unusable(cause.into())),
    }
}

/// Makes the home, if it is not there: others may go through it, to PostgreSQL's directories beneath, but not read it.
pub(super) fn prepare(paths: &Paths) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&paths.home)
        .map_err(|cause| unwritable(&paths.home, &cause))
}

/// Where programs of this machine reach the server. One that listens everywhere is reached by loopback.
pub(super) fn url(config: &ServerConfig) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let mut address = config.listen;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("{scheme}://{address}")
}

/// Writes down where the server is reached.
pub(super) fn record_url(config: &ServerConfig) -> Result<()> {
    let path = url_file(&config.paths);
    let written = private_file(&path).and_then(|mut file| writeln!(file, "{}", url(config)));
    written.map_err(|cause| unwritable(&path, &cause))
}

/// What a server in the background prints: panics, and why it did not start.
pub(super) fn out_file(paths: &Paths) -> PathBuf {
    paths.home.join("server.out")
}

pub(super) fn private_file(path: &Path) -> std::io::Result<File> {
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

pub(super) fn unwritable(path: &Path, cause: &std::io::Error) -> Failure {
    Failure::failed(format!("{} can't be written", path.display()))
        .why(cause)
        .next("set TOYGRES_HOME to a directory that this user can write to")
}

fn url_file(paths: &Paths) -> PathBuf {
    paths.home.join("server.url")
}

#[cfg(test)]
mod tests {
    use super::super::stop::is_gone;
    use super::*;

    /// A pid file names one process or none; a process is there whatever its name is.
    fn is_one_process_or_none(bytes: &[u8]) {
        assert!(pid_in(&String::from_utf8_lossy(bytes)).is_none_or(|pid| pid > 0));
        for (state, gone) in [(b'S', false), (b'R', false), (b'Z', true)] {
            let status = [b"17 (", bytes, b") ", &[state], b" 1 17 17 0 -1"].concat();
            assert_eq!(is_gone(&status), gone, "{status:?}");
        }
    }

    #[test]
    fn fuzz_pid_file() {
        bolero::check!().for_each(is_one_process_or_none);
    }

    proptest::proptest! {
        #[test]
        fn a_pid_file_names_one_process_or_none(
            bytes: Vec<u8>, near in "[ +-]?[0-9]{0,11}[ \r]?\n?.{0,9}", pid in 1..i32::MAX,
        ) {
            is_one_process_or_none(&bytes);
            is_one_process_or_none(near.as_bytes());
            proptest::prop_assert_eq!(pid_in(&format!("{pid}\n")), Some(pid));
        }
    }
}
