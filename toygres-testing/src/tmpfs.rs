//! A small file system that a test can fill.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A file system of its own in memory, that goes with the test however it ends.
pub struct Tmpfs {
    keeper: Child,
}

const TMPFS_KEEPER: &str = r#"
mount -t tmpfs -o size="$SIZE",mode=755 toygres-test "$DIR" && echo ok || exit 1
while read -r size; do mount -o remount,size="$size" "$DIR" && echo ok; done
for process in /proc/[0-9]*; do
    case $(readlink "$process/cwd") in "$DIR"/*) kill -QUIT "${process#/proc/}" ;; esac
done
umount -l "$DIR" && rm -rf "$DIR"
"#;

impl Tmpfs {
    /// Mounts one; `None` if this user may not, after saying so.
    pub fn mount(directory: &Path, size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can mount a small file system to fill");
            return None;
        }
        let mut keeper = Command::new("sh")
            .args(["-c", TMPFS_KEEPER])
            .env("DIR", directory)
            .env("SIZE", size)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap())
            .read_line(&mut answer)
            .unwrap();
        let mounted = Self { keeper };
        if answer.trim() != "ok" {
            eprintln!("SKIPPED: mounting a small file system to fill is not permitted here");
            return None;
        }
        Some(mounted)
    }

    /// Gives it another size.
    pub fn resize(&mut self, size: &str) {
        writeln!(self.keeper.stdin.as_mut().unwrap(), "{size}").unwrap();
        let mut answer = String::new();
        BufReader::new(self.keeper.stdout.as_mut().unwrap())
            .read_line(&mut answer)
            .unwrap();
        assert_eq!(answer.trim(), "ok");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}
