//! What must not be seen: passwords, the control plane's environment, servers from outside; and what a server alone
//! does.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use support::{Local, pid_of, processes_below};
use toygres_models::Secret;
use toygres_platform::conformance::{Hooks, PASSWORD, connect, made, new_spec, ready_on};
use toygres_platform::local::{Cluster, RunAs, ServerState, StartOptions};
use toygres_platform::{Platform, Storage};
use toygres_testing::{TestHome, server_programs};

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle.as_bytes())
}

/// Every file below a directory that holds the text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_file_and_on_no_command_line() {
    let local = Local::new().await;
    let spec = new_spec(&local, "canary");
    let instance = spec.reference();
    local.platform.ensure(&spec, Storage::Create).await.unwrap();
    let mut looks = 0;
    loop {
        assert_eq!(files_with(&local.directory, PASSWORD), Vec::<String>::new());
        for (_, command) in processes_below(&local.directory) {
            assert!(!command.contains(PASSWORD), "{command}");
        }
        looks += 1;
        let budget = Duration::from_millis(20);
        let seen = local.platform.wait_ready(&instance, budget).await.unwrap();
        if matches!(seen, toygres_platform::Observation::Ready(_)) {
            break;
        }
    }
    assert!(looks > 3, "it was looked at while it was made");
    assert_eq!(files_with(&local.directory, PASSWORD), Vec::<String>::new());
    assert!(!files_with(&local.directory, "SCRAM-SHA-256$").is_empty());
    assert!(!local.instance(&instance).join("initdb.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_nothing_of_the_control_plane_and_cannot_change_its_files() {
    let local = Local::new().await;
    let spec = new_spec(&local, "tenant");
    let instance = spec.reference();
    let (endpoint, _) = made(&local, &spec).await;
    let pid = local.pid(&instance);
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    for name in ["CARGO", "HOME=", "USER"] {
        assert!(!holds(&environment, name), "{name}");
    }
    let root = rustix::process::geteuid().is_root();
    for file in ["", "instance.json", "postgres.log", "toygres.conf", "initdb.log"] {
        let owner = local.instance(&instance).join(file).metadata().unwrap().uid();
        assert!(!root || owner == 0, "{file:?} belongs to {owner}");
    }
    let group = rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(group.as_raw_nonzero().get(), pid, "a Ctrl-C would end it");
    // The tenant tries to open his server to others.
    let mut connection = connect(&local, &endpoint, PASSWORD).await.unwrap();
    for statement in [
        "alter system set listen_addresses = '*'",
        "alter system set port = 1",
        "alter system set unix_socket_directories = '/tmp'",
        "alter system set shared_buffers = '40MB'",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    drop(connection);
    local.kill_server(&instance).await;
    let must_exist = Storage::MustExist {
        system_identifier: None,
    };
    local.platform.ensure(&spec, must_exist).await.unwrap();
    assert_eq!(ready_on(&local, &local.platform, &instance).await.0, endpoint);
    assert_eq!(
        listening(endpoint.port),
        ["0100007F"],
        "127.0.0.1 only, as the kernel writes it"
    );
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.contains(&format!(".s.PGSQL.{}", endpoint.port)));
    assert_eq!(
        show(&local, &endpoint, "shared_buffers").await,
        "40MB",
        "his own setting wins"
    );
    assert_eq!(show(&local, &endpoint, "data_checksums").await, "on");
    assert_eq!(show(&local, &endpoint, "server_encoding").await, "UTF8");
}

/// The addresses that somebody listens on this port on (proc_net_tcp(5): state 0A).
fn listening(port: u16) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (address, its_port) = fields[1].split_once(':').unwrap();
            if fields[3] == "0A" && its_port == format!("{port:04X}") {
                found.push(address.to_owned());
            }
        }
    }
    found
}

async fn show(local: &Local, endpoint: &toygres_models::instances::Endpoint, setting: &str) -> String {
    let mut connection = connect(local, endpoint, PASSWORD).await.unwrap();
    let query = format!("show {setting}");
    sqlx::query_scalar(&query)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_decides_the_buffers_as_far_as_the_machine_has_it() {
    let local = Local::new().await;
    for (memory_mb, expected) in [
        (Some(512), Some("128MB")),
        (Some(1_048_576), None),
        (None, Some("64MB")),
    ] {
        let mut spec = new_spec(&local, "memory");
        spec.memory_mb = memory_mb;
        let (endpoint, _) = made(&local, &spec).await;
        let buffers = show(&local, &endpoint, "shared_buffers").await;
        assert!(expected.is_none_or(|expected| expected == buffers), "{buffers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_zombie_stays() {
    let local = Local::new().await;
    let spec = new_spec(&local, "zombie");
    made(&local, &spec).await;
    let pid = local.pid(&spec.reference());
    local.kill_server(&spec.reference()).await;
    toygres_testing::wait_for("its parent to take note", Duration::from_secs(10), || async {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_stops_in_order_and_is_adopted() {
    let home = TestHome::new();
    let new = || {
        Cluster::new(
            home.path().join("control"),
            server_programs(),
            RunAs::find().unwrap(),
        )
    };
    let cluster = new();
    assert!(!cluster.exists());
    assert_eq!(cluster.state(), ServerState::Stopped);
    assert!(
        cluster.stop(Duration::from_secs(1)).await,
        "there is nothing to stop"
    );
    cluster.create(&Secret::new(PASSWORD.to_owned())).await.unwrap();
    let system_identifier = cluster.system_identifier().unwrap();
    cluster.create(&Secret::new("another".to_owned())).await.unwrap();
    assert_eq!(
        cluster.system_identifier(),
        Some(system_identifier),
        "made only once"
    );

    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = vec!["max_connections=17".to_owned(), "cluster_name=it's".to_owned()];
    let options = StartOptions { port, settings };
    cluster.start(&options).await.unwrap();
    assert_eq!(
        cluster.wait_ready(Duration::from_secs(60)).await,
        ServerState::Ready
    );
    // Another object finds it, and starting it again does nothing.
    let adopted = new();
    assert_eq!(adopted.running_port(), Some(port));
    let pid = pid_of(&home.path().join("control"));
    adopted.start(&options).await.unwrap();
    assert_eq!(pid_of(&home.path().join("control")), pid);

    let ended = tokio::spawn(async move { adopted.wait_stopped().await });
    assert!(!ended.is_finished());
    assert!(cluster.stop(Duration::from_secs(60)).await);
    ended.await.unwrap();
    assert_eq!(cluster.state(), ServerState::Stopped);
    let last_words = cluster.last_words(3).join("\n");
    assert!(
        last_words.contains("database system is shut down"),
        "{last_words}"
    );

    cluster.start(&options).await.unwrap();
    cluster.stop_immediately().await;
    assert_eq!(cluster.state(), ServerState::Stopped);
    assert_eq!(processes_below(home.path()), []);
}
