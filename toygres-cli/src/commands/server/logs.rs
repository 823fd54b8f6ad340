//! `toygres server logs`

use crate::args::Logs;
use crate::client::Client;
use crate::commands::Target;
use crate::failure::{Exit, Failure, Result};
use crate::printer::Printer;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toygres_models::server::SettingOrigin;
use toygres_server::config::Paths;

const POLL_PAUSE: Duration = Duration::from_millis(200);
const BLOCK_BYTES: u64 = 64 * 1024;

pub(super) async fn run(args: &Logs, target: &Target, printer: &Printer) -> Result<()> {
    let access = target.access()?;
    if access.api_url.origin != SettingOrigin::Default {
        return remote(args, &Client::new(access, target.timeout)?, printer).await;
    }
    let mut log = LogFile::open(Paths::from_environment()?.server_log)?;
    log.seek_to_last(args.tail)?;
    loop {
        // Asked before reading: what was written to the old file before the new one came is read first.
        let rotated = log.is_rotated();
        for line in log.read_lines(!args.follow || rotated)? {
            if is_wanted(&line, args) {
                printer.log_line(&line)?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        if rotated {
            log = LogFile::open(log.path)?;
        } else {
            tokio::select! {
                () = tokio::time::sleep(POLL_PAUSE) => {}
                _ = tokio::signal::ctrl_c() => return Err(Failure::quiet(Exit::Interrupted)),
            }
        }
    }
}

async fn remote(args: &Logs, client: &Client, printer: &Printer) -> Result<()> {
    if args.follow {
        return Err(Failure::new(
            Exit::Usage,
            "a server's log can be followed on its own machine only",
        )
        .why("an address or a context says which server")
        .next("without -f, as often as you like: toygres server logs"));
    }
    for line in client.server_log(args.tail).await? {
        let line = line.to_string();
        if is_wanted(&line, args) {
            printer.log_line(&line)?;
        }
    }
    Ok(())
}

/// Whether the line is about the orchestration that was asked for: one of its fields names it.
fn is_wanted(line: &str, args: &Logs) -> bool {
    let Some(id) = &args.orchestration else {
        return true;
    };
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => fields.values().any(|value| value.as_str() == Some(id)),
        _ => false,
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl LogFile {
    fn open(path: PathBuf) -> Result<Self> {
        match File::open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                partial: Vec::new(),
            }),
            Err(cause) => Err(unreadable(&path, &cause).next("toygres server start")),
        }
    }

    /// Goes back from the end by `lines` lines.
    fn seek_to_last(&mut self, lines: usize) -> Result<()> {
        let find = |file: &mut File| -> std::io::Result<()> {
            let end = file.metadata()?.len();
            if lines == 0 {
                file.seek(SeekFrom::Start(end))?;
                return Ok(());
            }
            let mut begin = end;
            let mut breaks = 0;
            while begin > 0 {
                let block_begin = begin.saturating_sub(BLOCK_BYTES);
                let mut block = vec![0; usize::try_from(begin - block_begin).unwrap_or_default()];
                file.seek(SeekFrom::Start(block_begin))?;
                file.read_exact(&mut block)?;
                for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                    let after = block_begin + offset as u64 + 1;
                    // The line break at the very end ends the last line, it begins none.
                    breaks += usize::from(after < end);
                    if breaks == lines {
                        file.seek(SeekFrom::Start(after))?;
                        return Ok(());
                    }
                }
                begin = block_begin;
            }
            file.seek(SeekFrom::Start(0))?;
            Ok(())
        };
        find(&mut self.file).map_err(|cause| unreadable(&self.path, &cause))
    }

    /// The lines that were written since the last call; with `also_partial` what has no end yet, too.
    fn read_lines(&mut self, also_partial: bool) -> Result<Vec<String>> {
        let mut bytes = std::mem::take(&mut self.partial);
        self.file
            .read_to_end(&mut bytes)
            .map_err(|cause| unreadable(&self.path, &cause))?;
        let whole = if also_partial {
            bytes.len()
        } else {
            bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |last| last + 1)
        };
        self.partial = bytes.split_off(whole);
        Ok(String::from_utf8_lossy(&bytes)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Whether the path leads to another file by now. For the moment between two files it leads nowhere.
    fn is_rotated(&self) -> bool {
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(now), Ok(open)) => (now.dev(), now.ino()) != (open.dev(), open.ino()),
            _ => false,
        }
    }
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Failure {
    Failure::failed(format!("the log {} can't be read", path.display())).why(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The last lines, and then those that are written, each once.
    fn is_read_line_by_line(path: &Path, first: &[u8], then: &[u8]) {
        let text = String::from_utf8_lossy(first);
        let all: Vec<&str> = text.lines().collect();
        for lines in [0, 1, 3, usize::MAX] {
            std::fs::write(path, first).unwrap();
            let mut log = LogFile::open(path.to_owned()).unwrap();
            log.seek_to_last(lines).unwrap();
            let mut read = log.read_lines(false).unwrap();
            let mut file = File::options().append(true).open(path).unwrap();
            file.write_all(then).unwrap();
            read.extend(log.read_lines(true).unwrap());
            let mut wanted = first.to_vec();
            if lines == 0 {
                wanted.clear();
            }
            wanted.extend_from_slice(then);
            let wanted = String::from_utf8_lossy(&wanted);
            let skipped = match lines {
                0 => 0,
                lines => all.len().saturating_sub(lines),
            };
            assert_eq!(
                read,
                wanted.lines().skip(skipped).collect::<Vec<_>>(),
                "{lines} of {text:?}"
            );
        }
    }

    #[test]
    fn fuzz_log_of_the_server() {
        let file = tempfile::NamedTempFile::new().unwrap();
        bolero::check!().for_each(|bytes: &[u8]| {
            let (first, then) = bytes.split_at(bytes.len() / 2);
            is_read_line_by_line(file.path(), first, then);
        });
    }

    #[test]
    fn no_lines_are_no_part_of_one_either() {
        let file = tempfile::NamedTempFile::new().unwrap();
        is_read_line_by_line(file.path(), b"unfinished", b" now\nnew\n");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_a_log_it_is_read_line_by_line(
            first: Vec<u8>, then: Vec<u8>, near in proptest::array::uniform2("([a-zä]{0,3}\r?\n?){0,6}"),
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            is_read_line_by_line(file.path(), &first, &then);
            is_read_line_by_line(file.path(), near[0].as_bytes(), near[1].as_bytes());
        }
    }
}
