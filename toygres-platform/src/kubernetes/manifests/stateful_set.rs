//! The stateful set: the server itself.

use super::secret::HOLDS_DATA_FILE;
use super::{PORT, SECRET_DIRECTORY, Wanted};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, ExecAction, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// The user `postgres` of the image, and its group.
const POSTGRES_USER_ID: i64 = 999;
/// Where the volume is mounted. Images of PostgreSQL before 18 declare a volume of their own at `data` in it, which
/// the data therefore must not be in: it would be gone with the pod.
const VOLUME_DIRECTORY: &str = "/var/lib/postgresql";
/// How long a checkpoint at shutdown may take, in seconds.
const SHUTDOWN_SECONDS: i64 = 600;
/// How long a server may take to be up, in seconds: it may have a lot of WAL to replay.
const START_SECONDS: i32 = 3600;

/// What a container exits with that finds no database where one was.
pub(in super::super) const NO_DATABASE: i32 = 78;

/// Starts the server by the image's own entry point, unless that would make an empty database where one was.
///
/// A pod that was deleted by force is replaced while its server may still run. Two servers on one volume would destroy
/// the data, and don't notice each other, since each is process 1 of its own; so the volume is locked for as long as any
/// process of a server lives.
const START: &str = r#"
exec 9>>"$TOYGRES_LOCK"
if ! flock -n 9; then
  echo "toygres: the server before is still on this volume; its end is waited for" >&2
  flock 9
fi
if [ -e "$TOYGRES_HOLDS_DATA" ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  echo "toygres: the database is not on this volume any more; it is not made anew" >&2
  exit 78
fi
cp "$TOYGRES_CERTIFICATE" /var/run/postgresql/loaded.crt
exec docker-entrypoint.sh "$@"
"#;
/// Over TCP: while the database is made, a server answers on the socket only. A server that refuses connections counts
/// as started once it has been at it for a minute: then it replays WAL, and must not be killed for it.
const STARTED: &str = r#"
PATH="/usr/lib/postgresql/$PG_MAJOR/bin:$PATH"
pg_isready -q -h 127.0.0.1
case $? in
0) ;;
1) [ -n "$(find "$PGDATA/postmaster.pid" -mmin +1)" ] ;;
*) exit 1 ;;
esac
"#;
/// A server that refuses connections is alive. In Debian's images the program of the `PATH` is a wrapper in Perl, which
/// costs a probe many times as much as the one beside the server.
const ALIVE: &str = r#"
PATH="/usr/lib/postgresql/$PG_MAJOR/bin:$PATH"
pg_isready -q -h 127.0.0.1; [ $? -le 1 ]
"#;
/// Has the server load a certificate that was replaced, also one that nobody can connect by any more.
const READY: &str = r#"
if ! cmp -s "$TOYGRES_CERTIFICATE" /var/run/postgresql/loaded.crt; then
  cp "$TOYGRES_CERTIFICATE" /var/run/postgresql/loaded.crt
  kill -HUP "$(head -n 1 "$PGDATA/postmaster.pid")"
fi
PATH="/usr/lib/postgresql/$PG_MAJOR/bin:$PATH"
pg_isready -q -h 127.0.0.1
"#;

/// One replica, on the claim.
pub(in super::super) fn stateful_set(wanted: &Wanted<'_>) -> StatefulSet {
    StatefulSet {
        metadata: wanted.metadata(wanted.object_name()),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(wanted.object_name()),
            selector: LabelSelector {
                match_labels: Some(wanted.selector()),
                ..LabelSelector::default()
            },
            // A newer toygres must not restart every database at once: what it changes takes effect with the next pod.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(wanted.labels()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(wanted)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn pod(wanted: &Wanted<'_>) -> PodSpec {
    let config = wanted.config;
    let node_selector = (!config.node_selector.is_empty()).then(|| config.node_selector.clone());
    let pull_secret = config.image_pull_secret.as_ref();
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(SHUTDOWN_SECONDS),
        node_selector,
        image_pull_secrets: pull_secret.map(|name| vec![LocalObjectReference { name: name.clone() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(POSTGRES_USER_ID),
            run_as_group: Some(POSTGRES_USER_ID),
            fs_group: Some(POSTGRES_USER_ID),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(wanted)],
        volumes: Some(volumes(wanted)),
        ..PodSpec::default()
    }
}

fn container(wanted: &Wanted<'_>) -> Container {
    let version = wanted.spec.postgres_version;
    let image = match wanted.config.image_digests.get(&version) {
        Some(digest) => format!("{}:{version}@{digest}", wanted.config.image),
        None => format!("{}:{version}", wanted.config.image),
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: "postgresql".to_owned(),
        image: Some(image),
        command: Some(["sh", "-c", START.trim(), "toygres"].map(str::to_owned).to_vec()),
        args: Some(arguments(wanted)),
        env: Some(environment(wanted)),
        ports: Some(vec![ContainerPort {
            name: Some("postgresql".to_owned()),
            container_port: i32::from(PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(wanted)),
        startup_probe: Some(probe(STARTED, 1, START_SECONDS)),
        liveness_probe: Some(probe(ALIVE, 10, 6)),
        readiness_probe: Some(probe(READY, 10, 3)),
        // The last words of a server that ended stand in the pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("data", VOLUME_DIRECTORY, false),
            mount("secret", SECRET_DIRECTORY, true),
            mount("run", "/var/run/postgresql", false),
            mount("tmp", "/tmp", false),
            mount("shm", "/dev/shm", false),
        ]),
        ..Container::default()
    }
}

fn arguments(wanted: &Wanted<'_>) -> Vec<String> {
    // A quarter of the memory, as PostgreSQL's documentation says of `shared_buffers`.
    let shared_buffers = format!("{}MB", wanted.memory_mb() / 4);
    let file = |name: &str| format!("{SECRET_DIRECTORY}/{name}");
    let settings = [
        ("shared_buffers", shared_buffers),
        ("hba_file", file("pg_hba.conf")),
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", file("tls.crt")),
        ("ssl_key_file", file("tls.key")),
        ("ssl_min_protocol_version", "TLSv1.2".to_owned()),
    ];
    let settings = settings
        .into_iter()
        .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    std::iter::once("postgres".to_owned()).chain(settings).collect()
}

fn environment(wanted: &Wanted<'_>) -> Vec<EnvVar> {
    let version = wanted.spec.postgres_version;
    [
        // One for each major version, so that the next one finds room beside it.
        ("PGDATA", format!("{VOLUME_DIRECTORY}/{version}/docker")),
        ("TOYGRES_LOCK", format!("{VOLUME_DIRECTORY}/toygres.lock")),
        ("TOYGRES_CERTIFICATE", format!("{SECRET_DIRECTORY}/tls.crt")),
        ("POSTGRES_PASSWORD_FILE", format!("{SECRET_DIRECTORY}/password")),
        (
            "POSTGRES_INITDB_ARGS",
            "--auth-host=scram-sha-256 --data-checksums".to_owned(),
        ),
        (
            "TOYGRES_HOLDS_DATA",
            format!("{SECRET_DIRECTORY}/{HOLDS_DATA_FILE}"),
        ),
    ]
    .map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        ..EnvVar::default()
    })
    .to_vec()
}

/// What is asked for is also the limit: the pod is of the class Guaranteed, the last to be evicted, unless it has no
/// CPUs of its own.
fn resources(wanted: &Wanted<'_>) -> ResourceRequirements {
    let cpu = wanted.spec.cpu.as_ref().or(wanted.config.default_cpu.as_ref());
    let memory = ("memory".to_owned(), Quantity(format!("{}Mi", wanted.memory_mb())));
    let cpu = cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.clone())));
    let resources: BTreeMap<_, _> = cpu.into_iter().chain([memory]).collect();
    ResourceRequirements {
        requests: Some(resources.clone()),
        limits: Some(resources),
        ..ResourceRequirements::default()
    }
}

fn probe(script: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        exec: Some(ExecAction {
            command: Some(["sh", "-c", script.trim()].map(str::to_owned).to_vec()),
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn volumes(wanted: &Wanted<'_>) -> Vec<Volume> {
    let scratch = |name: &str, size_mb: i32, medium: Option<&str>| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(format!("{size_mb}Mi"))),
        }),
        ..Volume::default()
    };
    vec![
        Volume {
            name: "data".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: wanted.object_name(),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "secret".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(wanted.object_name()),
                // PostgreSQL takes a key of root's that its own group can read, and no more.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        scratch("run", 16, None),
        scratch("tmp", 64, None),
        // Counts as memory of the container. The 64 MiB that a container has else are too few for parallel queries.
        scratch("shm", wanted.memory_mb() / 2, Some("Memory")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_its_database_ends_as_it_is_understood() {
        assert!(START.contains(&format!("is not made anew\" >&2\n  exit {NO_DATABASE}\n")));
    }
}
