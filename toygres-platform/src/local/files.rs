//! Small file work that has to be right: whole or not at all, and never through a tenant's symbolic link.

use super::fault::io_fault;
use rand::RngExt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use toygres_models::Result;

/// Begins the extension of a file that is being written.
const UNFINISHED: &str = "unfinished-";

/// Eight random hexadecimal digits, for names that nothing else uses.
pub(crate) fn random_suffix() -> String {
    format!("{:08x}", rand::rng().random::<u32>())
}

/// Reads at most `limit` bytes. Does not follow a symbolic link and does not wait on a FIFO: data directories belong
/// to tenants, who are superusers of their servers and can put anything there.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts a whole new content in the place of the old one; after a crash there is one or the other. What a crash leaves
/// beside it is for [`remove_unfinished`].
///
/// # Errors
/// As the file system's.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_added_extension(format!("{UNFINISHED}{}", random_suffix()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // As long as it lives, this process writes it.
        file.lock()?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), sync_directory)
    };
    write().map_err(|error| {
        std::fs::remove_file(&temporary).ok();
        io_fault(error, "write", path)
    })
}

/// Removes the files in a directory that processes which are gone had begun to write with [`write_whole`].
///
/// # Errors
/// As the file system's.
pub(crate) fn remove_unfinished(directory: &Path) -> Result<()> {
    for name in names_in(directory)? {
        let is_unfinished = name
            .rsplit_once('.')
            .is_some_and(|(_, extension)| extension.starts_with(UNFINISHED));
        let path = directory.join(name);
        if !is_unfinished || !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        // Gone by now, or being written.
        let is_free = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if is_free {
            remove_all(&path)?;
        }
    }
    Ok(())
}

/// Makes the names in a directory survive a crash of the machine.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory, and those above it, if it is not there.
///
/// # Errors
/// As the file system's.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| io_fault(e, "make the directory", path))
}

/// Removes a file or a directory with all that is in it, if it is there.
///
/// # Errors
/// As the file system's.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_fault(error, "remove", path)),
        _ => Ok(()),
    }
}

/// The names in a directory; none if it is not there.
///
/// # Errors
/// As the file system's.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| io_fault(e, "read the directory", path))?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}
