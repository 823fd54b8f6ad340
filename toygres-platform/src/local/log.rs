//! The server's own log: appended to, read from its end.

use super::fault::io_fault;
use super::files::write_whole;
use crate::words::printable;
use futures_util::Stream;
use futures_util::stream::unfold;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toygres_models::Result;

/// A log that has grown over this many bytes is cut when its server is started: the newest part stays.
const LIMIT: u64 = 32 * 1024 * 1024;
const KEPT: u64 = 8 * 1024 * 1024;
/// The most that is read to find the last lines.
const TAIL_LIMIT: u64 = 4 * 1024 * 1024;
const BLOCK: u64 = 64 * 1024;
/// The most of a line that is passed on in a message, in characters.
const WORDS_LIMIT: usize = 400;
/// How often a log that is followed is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Begins the line that is written before each start, so that what an earlier run said is not taken for this one's.
const MARK: &str = "toygres: starting PostgreSQL";

/// Opens a log to append to, cut if it has grown too large, with a mark that a start begins here.
///
/// # Errors
/// As the file system's.
pub(crate) fn begin(path: &Path, what: &str) -> Result<File> {
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    if length > LIMIT {
        let end = read_end(path, KEPT).map_err(|e| io_fault(e, "read", path))?;
        write_whole(path, &end, 0o600)?;
    }
    let open = || -> io::Result<File> {
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
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    tail_with_end(path, lines).lines
}

#[derive(Default)]
struct Tail {
    lines: Vec<String>,
    /// Of the file, and where it ended.
    inode: u64,
    end: u64,
}

fn tail_with_end(path: &Path, lines: usize) -> Tail {
    let read = |limit| -> io::Result<(u64, u64, Vec<u8>)> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let end = metadata.len();
        file.seek(SeekFrom::Start(end.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit.min(end)).read_to_end(&mut bytes)?;
        Ok((metadata.ino(), end, bytes))
    };
    let mut limit = BLOCK;
    let (inode, end, bytes) = loop {
        let Ok((inode, end, bytes)) = read(limit) else {
            return Tail::default();
        };
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let is_whole = (bytes.len() as u64) < limit;
        if newlines > lines || is_whole || limit >= TAIL_LIMIT {
            break (inode, end, bytes);
        }
        limit *= 4;
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all[all.len().saturating_sub(lines)..].iter();
    Tail {
        lines: last.map(|line| (*line).to_owned()).collect(),
        inode,
        end,
    }
}

/// The last lines of a log, and those to come. A line that grows beyond a block is given in pieces. Ends when the file
/// is gone; goes on in the new one when it was cut.
pub(crate) fn follow(path: PathBuf, lines: usize) -> impl Stream<Item = Result<String>> {
    let last = tail_with_end(&path, lines);
    let follower = Follower {
        ready: last.lines.into(),
        inode: last.inode,
        at: last.end,
        partial: Vec::new(),
        path,
    };
    unfold(follower, |mut follower| async move {
        loop {
            if let Some(line) = follower.ready.pop_front() {
                return Some((Ok(line), follower));
            }
            let looked = tokio::task::spawn_blocking(move || {
                let read = follower.read();
                (follower, read)
            });
            let read;
            (follower, read) = looked.await.ok()?;
            match read {
                Ok(true) => {}
                Ok(false) => return None,
                Err(cause) => {
                    let error = io_fault(cause, "read", &follower.path);
                    return Some((Err(error), follower));
                }
            }
            if follower.ready.is_empty() {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        }
    })
}

struct Follower {
    path: PathBuf,
    ready: VecDeque<String>,
    inode: u64,
    at: u64,
    /// What has no line break yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Reads what is new, a block at most. False: the log is gone.
    fn read(&mut self) -> io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(cause),
        };
        let metadata = file.metadata()?;
        if metadata.ino() != self.inode || metadata.len() < self.at {
            // Cut at a start: the newest part, which was seen, is at its begin, and the mark of the start behind it.
            self.inode = metadata.ino();
            self.at = metadata.len();
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.at))?;
        let before = self.partial.len();
        file.take(BLOCK).read_to_end(&mut self.partial)?;
        self.at += (self.partial.len() - before) as u64;
        let whole = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.partial.len() as u64 >= BLOCK => self.partial.len(),
            None => 0,
        };
        let rest = self.partial.split_off(whole);
        let text = std::mem::replace(&mut self.partial, rest);
        self.ready
            .extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
        Ok(true)
    }
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
    let lines = said.lines().map(|line| printable(line, WORDS_LIMIT));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Whether PostgreSQL's programs met a full disk. They say so by the words of strerror(3) only.
pub(crate) fn says_disk_full(said: &str) -> bool {
    said.contains("No space left on device") || said.contains("Disk quota exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::assert_printable;
    use futures_util::StreamExt;
    use proptest::collection::vec;
    use proptest::prelude::*;

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

    #[tokio::test]
    async fn a_log_is_followed_through_being_cut_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let mut followed = std::pin::pin!(follow(path.clone(), 2));
        let mut next = async || {
            let line = tokio::time::timeout(Duration::from_secs(20), followed.next()).await;
            line.expect("a line in time").transpose().unwrap()
        };
        assert_eq!(next().await.as_deref(), Some("two"));
        // What had no end yet is shown as far as it went.
        assert_eq!(next().await.as_deref(), Some("thr"));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"ee\nfour\n").unwrap();
        assert_eq!(next().await.as_deref(), Some("ee"));
        assert_eq!(next().await.as_deref(), Some("four"));
        std::fs::write(directory.path().join("new"), "four\n").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        // Only what is written after the follower has seen the new file is new.
        let mut written = 0;
        let line = loop {
            written += 1;
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            writeln!(file, "five {written}").unwrap();
            if let Ok(line) = tokio::time::timeout(Duration::from_millis(300), followed.next()).await {
                break line.unwrap().unwrap();
            }
            assert!(written < 60, "nothing of the new file is seen");
        };
        assert!(line.starts_with("five"), "{line}");
        std::fs::remove_file(&path).unwrap();
        while tokio::time::timeout(Duration::from_secs(20), followed.next())
            .await
            .expect("an end in time")
            .is_some()
        {}
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

    #[test]
    fn last_words_can_be_shown_and_kept() {
        let said = format!("LOG:\u{0} a\nFATAL: \x1b[2J{}\n\x07\n", "x".repeat(9999));
        let words = last_words(&said);
        assert!(words.starts_with("LOG: a | FATAL: [2Jxxx"), "{words}");
        assert_printable(&words, 3 * (WORDS_LIMIT + 6));
    }

    /// Whatever a server writes, its log is read line by line: from its end, and as it grows.
    fn is_read(path: &Path, parts: &[Vec<u8>]) {
        std::fs::write(path, b"").unwrap();
        let mut follower = Follower {
            path: path.to_owned(),
            ready: VecDeque::new(),
            inode: path.metadata().unwrap().ino(),
            at: 0,
            partial: Vec::new(),
        };
        for part in parts {
            OpenOptions::new()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(part)
                .unwrap();
            assert!(follower.read().unwrap());
        }
        let whole = parts.concat();
        let text = String::from_utf8_lossy(&whole);
        let all: Vec<&str> = text.lines().collect();
        for lines in [0, 1, 3, usize::MAX] {
            assert_eq!(tail(path, lines), all[all.len().saturating_sub(lines)..]);
        }
        // Followed, a line is given when it has its end.
        let ended = text.matches('\n').count();
        assert_eq!(Vec::from(follower.ready), all[..ended]);

        let said = since_start(path);
        assert!(text.ends_with(&said) && !said.contains(MARK), "{said}");
        assert_printable(&last_words(&said), 3 * (WORDS_LIMIT + 6));
        writeln!(begin(path, "again").unwrap(), "new").unwrap();
        assert_eq!(since_start(path), "new\n");
    }

    #[test]
    fn fuzz_log_of_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        bolero::check!().for_each(|bytes: &[u8]| {
            let parts: Vec<_> = bytes.chunks(1 + bytes.len() / 3).map(<[u8]>::to_vec).collect();
            is_read(&path, &parts);
        });
    }

    proptest! {
        #[test]
        fn whatever_a_server_writes_its_log_is_read_line_by_line(
            bytes in vec(any::<Vec<u8>>(), 0..4),
            near in vec("(toygres: starting PostgreSQL|[a-zä\u{0}]{0,9}|\r|\n){0,9}", 0..4),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            is_read(&path, &bytes);
            is_read(&path, &near.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }
}
