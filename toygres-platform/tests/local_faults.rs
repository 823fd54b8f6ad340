//! What goes wrong on a machine: the local platform names it, and goes on when it has passed.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;
use support::{Bystander, Local, not_ready, settled, signal, wait_dead};
use toygres_models::ErrorKind;
use toygres_models::operations::Reason;
use toygres_platform::conformance::{Hooks, PASSWORD, connect, made, new_spec, ready_on};
use toygres_platform::local::{LocalPlatform, Programs};
use toygres_platform::{InstanceRef, InstanceSpec, Observation, Platform, Storage};
use toygres_testing::{Tmpfs, server_programs, wait_for};

const MUST_EXIST: Storage = Storage::MustExist {
    system_identifier: None,
};

fn port_of(local: &Local, instance: &InstanceRef) -> u16 {
    let text = std::fs::read(local.instance(instance).join("instance.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    record["port"].as_u64().unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_before_the_first_start_is_changed() {
    let local = Local::new().await;
    let spec = new_spec(&local, "taken-early");
    local.platform.ensure(&spec, Storage::Create).await.unwrap();
    let first = port_of(&local, &spec.reference());
    let _other = TcpListener::bind(("127.0.0.1", first)).unwrap();
    let (endpoint, _) = ready_on(&local, &local.platform, &spec.reference()).await;
    assert_ne!(endpoint.port, first);
    assert_eq!(port_of(&local, &spec.reference()), endpoint.port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_clients_know_is_never_changed() {
    let local = Local::new().await;
    let spec = new_spec(&local, "taken-late");
    let instance = spec.reference();
    let first = settled(&local, &spec).await;
    local.kill_server(&instance).await;
    let other = wait_for("the port to be free", Duration::from_secs(30), || async {
        TcpListener::bind(("127.0.0.1", first.0.port)).ok()
    })
    .await;
    for storage in [MUST_EXIST, Storage::Create] {
        local.platform.ensure(&spec, storage).await.unwrap();
        let (reason, message) = not_ready(&local.platform, &instance).await;
        assert_eq!(reason, Reason::PortTaken, "{message}");
        assert!(message.contains(&first.0.port.to_string()), "{message}");
    }
    drop(other);
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    assert_eq!(ready_on(&local, &local.platform, &instance).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_an_instance_that_does_not_run_is_not_given_away() {
    let local = Local::with(|config| config.ports(31_000..=31_001)).await;
    let (one, two, three) = (
        new_spec(&local, "one"),
        new_spec(&local, "two"),
        new_spec(&local, "three"),
    );
    let first = settled(&local, &one).await.0;
    local.kill_server(&one.reference()).await;
    let second = settled(&local, &two).await.0;
    assert_ne!(first.port, second.port);
    let error = local.platform.ensure(&three, Storage::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Throttled, "port_taken"));
    local.platform.remove(&one.reference()).await.unwrap();
    assert_eq!(settled(&local, &three).await.0.port, first.port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_passes() {
    let home = toygres_testing::TestHome::new();
    let Some(disk) = Tmpfs::mount(home.path(), "20m") else {
        return;
    };
    let directory = home.path().join("local");
    let platform = LocalPlatform::open(support::config(&directory)).await.unwrap();
    let local = Local {
        platform,
        directory,
        home,
    };
    // Goes before the directory it is mounted on.
    let mut disk = disk;
    let spec = new_spec(&local, "full");
    let instance = spec.reference();
    local.platform.ensure(&spec, Storage::Create).await.unwrap();
    let (reason, message) = not_ready(&local.platform, &instance).await;
    assert_eq!(reason, Reason::DiskFull, "while it is made: {message}");

    disk.resize("200m");
    let (_, system_identifier) = settled(&local, &spec).await;
    local.kill_server(&instance).await;
    let filler = local.home.path().join("filler");
    let written = std::fs::write(&filler, vec![1; 300 << 20]).unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::StorageFull);
    let must_exist = Storage::MustExist { system_identifier };
    // Told by `ensure` or by what it has begun, whichever meets it first.
    let reason = match local.platform.ensure(&spec, must_exist).await {
        Err(error) => error.code().parse().unwrap(),
        Ok(()) => not_ready(&local.platform, &instance).await.0,
    };
    assert_eq!(reason, Reason::DiskFull, "while it starts");
    std::fs::remove_file(&filler).unwrap();
    local.platform.ensure(&spec, must_exist).await.unwrap();
    ready_on(&local, &local.platform, &instance).await;
    local.platform.remove(&instance).await.unwrap();
    assert_eq!(local.left_over().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_programs_are_named() {
    let home = toygres_testing::TestHome::new();
    let directory = home.path().join("local");
    let config = support::config(&directory).programs(Programs::default());
    let error = LocalPlatform::open(config).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Config, "binaries_missing")
    );

    // Uninstalled while toygres runs.
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["initdb", "postgres"] {
        symlink(server_programs().join(program), bin.join(program)).unwrap();
    }
    let local = Local::with(|config| config.programs(Programs::in_directories([bin.clone()]))).await;
    std::fs::remove_dir_all(&bin).unwrap();
    let spec = new_spec(&local, "gone");
    local.platform.ensure(&spec, Storage::Create).await.unwrap();
    let (reason, message) = not_ready(&local.platform, &spec.reference()).await;
    assert_eq!(reason, Reason::BinariesMissing, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_the_server_user_cannot_enter_is_named() {
    let home = toygres_testing::TestHome::new();
    let closed = home.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let mode = if rustix::process::geteuid().is_root() {
        0o700
    } else {
        0o500
    };
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
    let opened = LocalPlatform::open(support::config(&closed.join("local"))).await;
    let error = opened.err().unwrap();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Config, "permission_denied")
    );
    assert!(error.message().contains(closed.to_str().unwrap()), "{error}");
    if mode == 0o700 {
        assert!(error.next_step().unwrap().contains("TOYGRES_HOME"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_again_and_again_is_named_with_its_last_words() {
    let local = Local::new().await;
    let spec = new_spec(&local, "crash-loop");
    let instance = spec.reference();
    settled(&local, &spec).await;
    local.kill_server(&instance).await;
    let (reason, message) = not_ready(&local.platform, &instance).await;
    assert_eq!(reason, Reason::Stopped, "{message}");
    let settings = local.instance(&instance).join("data/postgresql.auto.conf");
    std::fs::write(&settings, "shared_preload_libraries = 'nonsense-canary'\n").unwrap();
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    let (reason, message) = not_ready(&local.platform, &instance).await;
    assert_eq!(reason, Reason::CrashLoop, "{message}");
    assert!(message.contains("nonsense-canary"), "{message}");
    std::fs::write(&settings, "").unwrap();
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    ready_on(&local, &local.platform, &instance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_another_process_has_by_now_is_not_taken_for_the_server() {
    let local = Local::new().await;
    let (spec, other) = (new_spec(&local, "reused"), new_spec(&local, "other"));
    let instance = spec.reference();
    let first = settled(&local, &spec).await;
    settled(&local, &other).await;
    local.kill_server(&instance).await;
    let pid_file = local.instance(&instance).join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    // Another server of the same user: PostgreSQL itself would refuse to start.
    let reused = local.pid(&other.reference());
    std::fs::write(&pid_file, format!("{reused}\n{rest}")).unwrap();
    let (reason, message) = not_ready(&local.platform, &instance).await;
    assert_eq!(reason, Reason::Stopped, "{message}");
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    assert_eq!(ready_on(&local, &local.platform, &instance).await, first);
    // Nor does a removal end it.
    local.kill_server(&instance).await;
    std::fs::write(&pid_file, format!("{reused}\n{rest}")).unwrap();
    local.platform.remove(&instance).await.unwrap();
    assert_eq!(local.pid(&other.reference()), reused);
    ready_on(&local, &local.platform, &other.reference()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lives_but_takes_no_connections_is_left_alone() {
    let local = Local::new().await;
    let spec = new_spec(&local, "recovering");
    let instance = spec.reference();
    settled(&local, &spec).await;
    let pid = local.pid(&instance);
    let pid_file = local.instance(&instance).join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    std::fs::write(&pid_file, text.replace("ready   ", "starting")).unwrap();
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    let waited = local
        .platform
        .wait_ready(&instance, Duration::from_millis(50))
        .await
        .unwrap();
    assert!(
        matches!(
            waited,
            Observation::NotReady {
                reason: Reason::Starting,
                ..
            }
        ),
        "{waited:?}"
    );
    assert_eq!(local.pid(&instance), pid);
    std::fs::write(&pid_file, text).unwrap();
    ready_on(&local, &local.platform, &instance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_for_their_turn_say_so() {
    let local = Local::with(|config| config.at_once(1)).await;
    let specs: Vec<_> = (0..3).map(|n| new_spec(&local, &format!("queue-{n}"))).collect();
    for spec in &specs {
        local.platform.ensure(spec, Storage::Create).await.unwrap();
    }
    let mut reasons = Vec::new();
    for spec in &specs {
        if let Observation::NotReady { reason, .. } = local.platform.observe(&spec.reference()).await.unwrap()
        {
            reasons.push(reason);
        }
    }
    assert!(reasons.contains(&Reason::Queued), "{reasons:?}");
    // One that waits can be removed, and does not keep its place.
    local.platform.remove(&specs[1].reference()).await.unwrap();
    for spec in [&specs[0], &specs[2]] {
        ready_on(&local, &local.platform, &spec.reference()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_goes_while_its_server_waits_for_its_turn_is_not_made_anew() {
    let local = Local::with(|config| config.at_once(1)).await;
    let specs = ["first", "waiting"].map(|name| new_spec(&local, name));
    for spec in &specs {
        settled(&local, spec).await;
        local.kill_server(&spec.reference()).await;
    }
    let [first, waiting] = specs.each_ref().map(InstanceSpec::reference);
    // Without it the first one is not started, and keeps its place.
    let lock = std::fs::File::open(local.instance(&first).join("cluster.lock")).unwrap();
    lock.lock().unwrap();
    for (spec, expected) in specs.iter().zip([Reason::Starting, Reason::Queued]) {
        local.platform.ensure(spec, MUST_EXIST).await.unwrap();
        wait_for(expected.as_str(), Duration::from_secs(30), || async {
            let seen = local.platform.observe(&spec.reference()).await.unwrap();
            matches!(seen, Observation::NotReady { reason, .. } if reason == expected).then_some(())
        })
        .await;
    }
    let data = local.instance(&waiting).join("data");
    std::fs::rename(&data, data.with_extension("gone")).unwrap();
    drop(lock);
    let (reason, _) = not_ready(&local.platform, &waiting).await;
    assert_eq!(reason, Reason::StorageMissing);
    assert!(!data.exists());
    ready_on(&local, &local.platform, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_control_plane_had_begun_is_cleaned_up() {
    let local = Local::new().await;
    let spec = new_spec(&local, "orphan");
    let instance = spec.reference();
    let unfinished = local.instance(&instance).join("data.0badcafe");
    std::fs::create_dir_all(&unfinished).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let orphan = Bystander::run(&unfinished, "setsid", &["-w", "sleep", "1000"]);
    let seen = local.platform.observe(&instance).await.unwrap();
    assert!(
        matches!(
            seen,
            Observation::NotReady {
                reason: Reason::Stopped,
                ..
            }
        ),
        "{seen:?}"
    );
    made(&local, &spec).await;
    wait_dead(orphan.pid()).await;
    assert!(!unfinished.exists());

    let record = local
        .instance(&instance)
        .join("instance.json.unfinished-0badcafe");
    let not_its_own = local.instance(&instance).join("postgres.log.20261122");
    let no_instance = local.directory.join("instances/file");
    for file in [&record, &not_its_own, &no_instance] {
        std::fs::write(file, "{").unwrap();
    }
    let writer = std::fs::File::open(&record).unwrap();
    writer.lock().unwrap();
    local.reopened().await;
    assert!(record.exists(), "somebody writes it");
    drop(writer);
    local.reopened().await;
    assert!(!record.exists() && not_its_own.exists());
    std::fs::remove_file(no_instance).unwrap();

    let trash = local.directory.join("trash");
    let left = trash.join(format!("{}.0badcafe", instance.object_name()));
    local.platform.remove(&instance).await.unwrap();
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("file"), "x").unwrap();
    assert_ne!(
        local.platform.observe(&instance).await.unwrap(),
        Observation::Absent
    );
    local.platform.remove(&instance).await.unwrap();
    assert_eq!(
        local.platform.observe(&instance).await.unwrap(),
        Observation::Absent
    );
    std::fs::create_dir(&left).unwrap();
    local.reopened().await;
    assert_eq!(local.left_over().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_start_one_server() {
    let local = Local::new().await;
    let spec = new_spec(&local, "both");
    let instance = spec.reference();
    let first = made(&local, &spec).await;
    let other = local.reopened().await;
    for _ in 0..5 {
        local.kill_server(&instance).await;
        let (one, two) = tokio::join!(
            local.platform.ensure(&spec, MUST_EXIST),
            other.ensure(&spec, MUST_EXIST)
        );
        one.unwrap();
        two.unwrap();
        assert_eq!(ready_on(&local, &local.platform, &instance).await, first);
        assert_eq!(ready_on(&local, &*other, &instance).await, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_lost_is_made_again_with_the_same_port() {
    let local = Local::new().await;
    let spec = new_spec(&local, "record");
    let instance = spec.reference();
    let (endpoint, system_identifier) = settled(&local, &spec).await;
    let record = local.instance(&instance).join("instance.json");
    let must_exist = Storage::MustExist { system_identifier };
    #[derive(PartialEq)]
    enum Server {
        Runs,
        IsDead,
        Starts,
    }
    // First those that run: what starts one may make a lost record, too.
    for (state, damage) in [
        (Server::Runs, None),
        (Server::Runs, Some("{")),
        (Server::IsDead, None),
        (Server::Starts, Some("{")),
    ] {
        if state != Server::Runs {
            local.kill_server(&instance).await;
        }
        // Without it nothing is started.
        let lock = std::fs::File::open(local.instance(&instance).join("cluster.lock")).unwrap();
        if state == Server::Starts {
            lock.lock().unwrap();
            local.platform.ensure(&spec, must_exist).await.unwrap();
        }
        match damage {
            None => std::fs::remove_file(&record).unwrap(),
            Some(text) => std::fs::write(&record, text).unwrap(),
        }
        assert_eq!(local.platform.list().await.unwrap(), []);
        let unknown = local.platform.unknown().await.unwrap();
        assert_eq!(unknown[0].object, instance.object_name());
        local.platform.ensure(&spec, must_exist).await.unwrap();
        drop(lock);
        let again = ready_on(&local, &local.platform, &instance).await.0;
        assert_eq!(again, endpoint);
        // The server may be found ready before the record is written.
        let listed = wait_for("the record", Duration::from_secs(30), || async {
            local.platform.list().await.unwrap().pop()
        });
        assert_eq!(listed.await.instance, instance);
        assert_eq!(local.platform.unknown().await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_another_instance_is_not_touched() {
    let local = Local::new().await;
    let spec = new_spec(&local, "owner");
    made(&local, &spec).await;
    let mut impostor = spec.clone();
    let mut bytes = *spec.id.0.as_bytes();
    bytes[15] ^= 1;
    impostor.id = toygres_models::InstanceId(uuid::Uuid::from_bytes(bytes));
    assert_eq!(impostor.reference().object_name(), spec.reference().object_name());
    for storage in [Storage::Create, MUST_EXIST] {
        let error = local.platform.ensure(&impostor, storage).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::StorageLost, "storage_foreign")
        );
    }
    let error = local.platform.remove(&impostor.reference()).await.unwrap_err();
    assert_eq!(error.code(), "storage_foreign");
    let (reason, _) = not_ready(&local.platform, &impostor.reference()).await;
    assert_eq!(reason, Reason::StorageForeign);
    ready_on(&local, &local.platform, &spec.reference()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_started_or_put_there_stops_nothing() {
    let local = Local::new().await;
    let spec = new_spec(&local, "tenant");
    let instance = spec.reference();
    let (endpoint, _) = settled(&local, &spec).await;
    let mut connection = connect(&local, &endpoint, PASSWORD).await.unwrap();
    let program = "copy (select 1) to program 'cat >/dev/null; setsid sleep 1000 >/dev/null 2>&1 &'";
    sqlx::query(program).execute(&mut connection).await.unwrap();
    drop(connection);
    local.kill_server(&instance).await;
    // A pipe that nobody writes to: reading it as a file would wait for ever.
    let pid_file = local.instance(&instance).join("data/postmaster.pid");
    std::fs::remove_file(&pid_file).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&pid_file)
        .status()
        .unwrap();
    assert!(made.success());
    let (reason, message) = not_ready(&local.platform, &instance).await;
    assert_eq!(reason, Reason::Stopped, "{message}");
    local.platform.ensure(&spec, MUST_EXIST).await.unwrap();
    ready_on(&local, &local.platform, &instance).await;
    local.platform.remove(&instance).await.unwrap();
    assert_eq!(local.left_over().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_obey_is_killed_and_a_person_is_not() {
    let local = Local::new().await;
    let spec = new_spec(&local, "stubborn");
    let instance = spec.reference();
    made(&local, &spec).await;
    let inside = local.instance(&instance);
    // On a terminal of its own, as a person's shell is.
    let command = format!("cd {} && exec sleep 1000", inside.display());
    let _terminal = Bystander::run(Path::new("/"), "script", &["-qc", &command, "/dev/null"]);
    let person = wait_for("the person's program", Duration::from_secs(10), || async {
        let there = support::processes_below(&inside);
        let (pid, _) = there.into_iter().find(|(_, command)| command == "sleep 1000")?;
        Some(pid)
    })
    .await;
    let pid = local.pid(&instance);
    signal(pid, Signal::STOP);
    local.platform.remove(&instance).await.unwrap();
    assert!(!support::is_alive(pid));
    assert!(support::is_alive(person));
    // Its terminal's end is no signal to it where signals of that kind are ignored, as under nohup.
    signal(person, Signal::KILL);
}
