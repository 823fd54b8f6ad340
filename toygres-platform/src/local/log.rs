//! The server's own log: appended to, read from its end.

use super::fault::io_fault;
use super::files::random_suffix;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use toygres_models::Result;

/// A log that has grown over this many bytes is cut when its server is started: the newest part stays.
const LIMIT: u64 = 32 * 1024 * 1024;
const KEPT: u64 = 8 * 1024 * 1024;
/// The most that is read to find the last lines.
const TAIL_LIMIT: u64 = 4 * 1024 * 1024;
const BLOCK: u64 = 64 * 1024;

/// Begins the line that is written before each start, so that what an earlier run said is not taken for this one's.
const MARK: &str = "toygres: starting PostgreSQL";

/// Opens a log to append to, cut if it has grown too large, with a mark that a start begins here.
///
/// # Errors
/// As the file system's.
pub(crate) fn begin(path: &Path, what: &str) -> Result<File> {
    let open = || -> io::Result<File> {
        let length = path.metadata().map_or(0, |metadata| metadata.len());
        if length > LIMIT {
            let temporary = path.with_added_extension(random_suffix());
            std::fs::write(&temporary, read_end(path, KEPT)?)?;
            std::fs::rename(&temporary, path)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        writeln!(file, "{MARK} {what}")?;
        Ok(file)
    };
    open().map_err(|e| io_fault(e, "write", path))
}

fn read_end(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines of a file, of which only the end is read; none if it is not there.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut limit = BLOCK;
    let bytes = loop {
        let bytes = read_end(path, limit).unwrap_or_default();
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let is_whole = (bytes.len() as u64) < limit;
        if newlines > lines || is_whole || limit >= TAIL_LIMIT {
            break bytes;
        }
        limit *= 4;
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// What was said since the last start began, or the last part of it.
pub(crate) fn since_start(path: &Path) -> String {
    let bytes = read_end(path, BLOCK).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    match text.rsplit_once(MARK) {
        Some((_, after)) => after.split_once('\n').map_or("", |(_, said)| said).to_owned(),
        None => text.into_owned(),
    }
}

/// The last three lines as one, for a message.
pub(crate) fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Whether PostgreSQL's programs met a full disk. They say so by the words of strerror(3) only.
pub(crate) fn says_disk_full(said: &str) -> bool {
    said.contains("No space left on device") || said.contains("Disk quota exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_and_reads_only_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(tail(&path, 3), Vec::<String>::new());
        std::fs::write(&path, "one\ntwo\nthree").unwrap();
        assert_eq!(tail(&path, 2), ["two", "three"]);
        assert_eq!(tail(&path, 9), ["one", "two", "three"]);
        assert_eq!(tail(&path, 0), Vec::<String>::new());
        let long = "x".repeat(100_000);
        std::fs::write(&path, format!("{long}\n{long}\nend\n")).unwrap();
        assert_eq!(tail(&path, 2), [long.as_str(), "end"]);
        // A sparse file of 64 GiB: would take for ever if it were read.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 36)
            .unwrap();
        assert_eq!(tail(&path, 1).len(), 1);
    }

    #[test]
    fn what_an_earlier_run_said_is_not_this_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        writeln!(begin(&path, "first").unwrap(), "No space left on device").unwrap();
        assert!(says_disk_full(&since_start(&path)));
        writeln!(begin(&path, "second").unwrap(), "a\n\nb\nc\nd").unwrap();
        assert!(!says_disk_full(&since_start(&path)));
        assert_eq!(last_words(&since_start(&path)), "b | c | d");
    }

    #[test]
    fn a_log_that_is_too_large_keeps_its_newest_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = File::create(&path).unwrap();
        file.set_len(LIMIT + 1).unwrap();
        (&file).seek(SeekFrom::End(0)).unwrap();
        writeln!(&file, "\nnewest").unwrap();
        begin(&path, "again").unwrap();
        assert!(path.metadata().unwrap().len() < KEPT + 100);
        assert_eq!(tail(&path, 2)[0], "newest");
    }
}
