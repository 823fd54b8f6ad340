//! Real PostgreSQL servers for tests.
//!
//! Each server is the child of a small shell that waits for its standard input to end. When the test process ends,
//! in whatever way, the kernel closes that pipe, and the shell stops the server and removes its files. So nothing is
//! left behind even by a test run that was killed.

use sqlx::{Connection, PgConnection};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// The directory of the server programs (`initdb`, `postgres`) with the highest version on this machine.
///
/// # Panics
/// When there is none; says what to install.
pub fn server_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let debian = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u16>().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max();
    if let Some((_, bin)) = debian {
        return bin;
    }
    let output = Command::new("pg_config").arg("--bindir").output();
    let output = output.expect("no PostgreSQL server programs: run scripts/test.sh, which installs them");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The user that servers run as when the test runs as root, which PostgreSQL refuses.
pub(crate) fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

const KEEPER: &str = r#"
# Nobody may be there to hear the answer.
trap : PIPE
start() { "$BIN/postgres" -D "$DIR/data" -p "$PORT" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c max_connections=300 $TLS >>"$DIR/postgres.log" 2>&1 & pid=$!; }
"$BIN/initdb" -D "$DIR/data" -U postgres --auth=trust --no-sync --no-instructions >"$DIR/initdb.log" 2>&1 || exit 1
echo ok
while read -r command; do
    case $command in
        start) start ;;
        stop) kill -INT "$pid"; wait "$pid" ;;
        crash) kill -QUIT "$pid"; wait "$pid" ;;
    esac
    echo ok
done
# What has only just been started does not hear it yet.
while kill -QUIT "$pid" 2>/dev/null; do sleep 0.1; done
rm -rf "$DIR"
"#;

/// Its working directory is its data.
const TLS_OPTIONS: &str = "-c ssl=on -c ssl_cert_file=../server.crt -c ssl_key_file=../server.key";

/// Writes the files of `TLS_OPTIONS`, the key for the server's eyes only.
fn write_certificate(directory: &Path, certificate: &str, key: &str) {
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(directory.join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        if let Some((user, group)) = unprivileged_user() {
            std::os::unix::fs::fchown(&file, Some(user), Some(group)).unwrap();
        }
    }
}

/// A PostgreSQL server of a test's own, that can be stopped and started.
pub struct TestPostgres {
    keeper: Mutex<(Child, Option<ChildStdin>, BufReader<ChildStdout>)>,
    directory: PathBuf,
    port: u16,
}

impl TestPostgres {
    /// Makes and starts a server on a free loopback port, and waits until it takes connections.
    pub async fn start() -> Self {
        Self::begin(None).await
    }

    /// The same with TLS, by this certificate and key, both PEM.
    pub async fn start_with_tls(certificate: &str, key: &str) -> Self {
        Self::begin(Some((certificate.to_owned(), key.to_owned()))).await
    }

    /// The same in a directory of that one, which every user may go through.
    pub async fn start_in(directory: &Path) -> Self {
        let directory = directory.to_owned();
        let server = tokio::task::spawn_blocking(move || Self::spawn_in(&directory, None))
            .await
            .unwrap();
        server.wait_until_ready().await;
        server
    }

    async fn begin(tls: Option<(String, String)>) -> Self {
        let server = tokio::task::spawn_blocking(|| Self::spawn(tls)).await.unwrap();
        server.wait_until_ready().await;
        server
    }

    fn spawn(tls: Option<(String, String)>) -> Self {
        Self::spawn_in(&std::env::temp_dir(), tls)
    }

    fn spawn_in(parent: &Path, tls: Option<(String, String)>) -> Self {
        let directory = parent.join(format!("toygres-test-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&directory).unwrap();
        // Held while the data is made, so that nobody else is given it.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(KEEPER)
            .current_dir(&directory)
            .process_group(0);
        command
            .env("BIN", server_programs())
            .env("DIR", &directory)
            .env("PORT", port.to_string())
            .env("TLS", if tls.is_some() { TLS_OPTIONS } else { "" });
        if let Some((certificate, key)) = tls {
            write_certificate(&directory, &certificate, &key);
        }
        if let Some((user, group)) = unprivileged_user() {
            chown(&directory, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = keeper.stdin.take();
        let stdout = BufReader::new(keeper.stdout.take().unwrap());
        let server = Self {
            keeper: Mutex::new((keeper, stdin, stdout)),
            directory,
            port,
        };
        server.read_ok();
        drop(listener);
        server.tell("start");
        server
    }

    fn read_ok(&self) {
        let mut line = String::new();
        self.keeper.lock().unwrap().2.read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(self.directory.join("initdb.log")).unwrap_or_default();
        assert_eq!(line.trim(), "ok", "the test server did not start: {}", log());
    }

    fn tell(&self, word: &str) {
        writeln!(self.keeper.lock().unwrap().1.as_mut().unwrap(), "{word}").unwrap();
        self.read_ok();
    }

    async fn wait_until_ready(&self) {
        let url = self.url("postgres");
        crate::wait_for("the test server", std::time::Duration::from_secs(60), || async {
            PgConnection::connect(&url).await.ok()
        })
        .await;
    }

    /// Stops it as an administrator would (`fast`): every connection is ended.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// Ends it without a checkpoint, as a crash would.
    pub fn crash(&self) {
        self.tell("crash");
    }

    /// Starts it again after [`stop`](Self::stop) or [`crash`](Self::crash).
    pub async fn restart(&self) {
        self.tell("start");
        self.wait_until_ready().await;
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of one of its databases, as superuser.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Makes a new empty database and gives its URL.
    pub async fn new_database(&self) -> String {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(&format!("create database {name}"))
            .execute(&mut connection)
            .await
            .unwrap();
        self.url(&name)
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if let Ok(keeper) = self.keeper.get_mut() {
            keeper.1 = None;
            // Waits until the server is stopped and its files are gone.
            keeper.0.wait().ok();
        }
    }
}

/// An empty database of a test's own, on a server that all tests of the process share.
pub struct TestDatabase {
    /// Its URL, as superuser.
    pub url: String,
}

impl TestDatabase {
    /// Makes one.
    pub async fn new() -> Self {
        // Never dropped: the keeper ends the server when the process ends.
        static SHARED: OnceLock<TestPostgres> = OnceLock::new();
        let server = tokio::task::spawn_blocking(|| SHARED.get_or_init(|| TestPostgres::spawn(None)))
            .await
            .unwrap();
        server.wait_until_ready().await;
        Self {
            url: server.new_database().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_test_server_that_is_just_being_started_ends_too() {
        for _ in 0..5 {
            let server = TestPostgres::start().await;
            let directory = server.directory.clone();
            server.crash();
            server.tell("start");
            drop(server);
            assert!(!directory.exists());
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "what tells a run that it is to be killed"
    )]
    #[tokio::test]
    async fn nothing_is_left_of_a_run_that_is_killed_while_it_makes_a_server() {
        const WHERE: &str = "TOYGRES_TEST_WHERE_TO_BE_KILLED";
        if let Some(directory) = std::env::var_os(WHERE) {
            TestPostgres::start_in(Path::new(&directory)).await;
            return;
        }
        // Ends the server of a keeper that did not.
        let home = crate::TestHome::new();
        let here = "postgres::tests::nothing_is_left_of_a_run_that_is_killed_while_it_makes_a_server";
        let mut run = Command::new(std::env::current_exe().unwrap());
        let mut run = run
            .args(["--exact", here])
            .env(WHERE, home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let servers = || std::fs::read_dir(home.path()).unwrap().flatten();
        let limit = std::time::Duration::from_secs(60);
        crate::wait_for("initdb", limit, async || {
            servers()
                .any(|server| server.path().join("data/PG_VERSION").exists())
                .then_some(())
        })
        .await;
        run.kill().unwrap();
        run.wait().unwrap();
        // The directory itself is not its own to remove.
        crate::wait_for("the keeper's end", limit, async || {
            servers()
                .all(|server| !server.path().join("data").exists())
                .then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_test_server_stops_starts_and_leaves_nothing() {
        let server = TestPostgres::start().await;
        let url = server.url("postgres");
        server.stop();
        assert!(PgConnection::connect(&url).await.is_err());
        server.restart().await;
        assert!(PgConnection::connect(&url).await.is_ok());
        drop(server);
        assert!(PgConnection::connect(&url).await.is_err());
    }

    #[tokio::test]
    async fn databases_are_separate() {
        let (one, two) = (TestDatabase::new().await, TestDatabase::new().await);
        assert_ne!(one.url, two.url);
    }
}
