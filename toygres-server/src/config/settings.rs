//! Every variable of the environment that the server reads.

use std::fmt::Write as _;

/// A variable of the environment that the server reads.
pub(super) struct Setting {
    /// Its name.
    pub(super) name: &'static str,
    /// What holds without it.
    pub(super) default: &'static str,
    /// What it means.
    pub(super) meaning: &'static str,
    /// Whether its value must not be shown.
    pub(super) secret: bool,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        default,
        meaning,
        secret: false,
    }
}

const fn secret_setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        default,
        meaning,
        secret: true,
    }
}

/// Every variable that the server reads. The README's table is made from this list.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "TOYGRES_HOME",
        "`~/.toygres`",
        "Log and pid file; if set, also keys and PostgreSQL's directories (else, for root, those are in `/var/lib/toygres`)",
    ),
    setting(
        "TOYGRES_LISTEN",
        "`127.0.0.1:8080`",
        "Address of the API. Beyond loopback it takes a token and TLS",
    ),
    setting(
        "TOYGRES_TLS_CERTIFICATE_FILE",
        "none",
        "Certificate chain of the API, PEM; read again when it changes",
    ),
    setting(
        "TOYGRES_TLS_KEY_FILE",
        "none",
        "Private key of the certificate, PEM",
    ),
    setting(
        "TOYGRES_TLS_TERMINATED",
        "`false`",
        "`true`: a proxy in front does TLS, so plain HTTP is served beyond loopback",
    ),
    setting(
        "TOYGRES_BOOTSTRAP_TOKEN_FILE",
        "none",
        "File with a token of the scope `admin`, 20 characters or more, beside those made by `toygres token create`",
    ),
    setting(
        "TOYGRES_CORS_ORIGINS",
        "none",
        "Origins whose web pages may call the API with a token, separated by commas",
    ),
    setting(
        "TOYGRES_RATE_LIMIT_PER_SECOND",
        "`200`",
        "Requests of one client (token, else address) a second; twice as many at once",
    ),
    setting(
        "TOYGRES_MAX_CONNECTIONS",
        "`4096`",
        "Connections to the API at once",
    ),
    setting(
        "TOYGRES_MAX_STREAMS",
        "`2048`",
        "Streams of events and logs at once",
    ),
    setting(
        "TOYGRES_QUOTA_INSTANCES",
        "none",
        "Instances an owner may have, if it has no quota of its own",
    ),
    setting(
        "TOYGRES_QUOTA_STORAGE_GB",
        "none",
        "Storage an owner may have, in GiB, if it has no quota of its own",
    ),
    secret_setting(
        "DATABASE_URL",
        "embedded",
        "Control database; without it an embedded PostgreSQL is run",
    ),
    secret_setting(
        "TOYGRES_MASTER_KEY",
        "file",
        "32 bytes in base64 that encrypt credentials; without it the file `master.key`, made at first start",
    ),
    setting(
        "TOYGRES_PLATFORM",
        "`local`",
        "Where instances run: `local` or `kubernetes`",
    ),
    setting(
        "TOYGRES_MODE",
        "`all`",
        "`api`, `worker` or `all`; the first two need `DATABASE_URL`",
    ),
    setting(
        "TOYGRES_POSTGRES_VERSION",
        "newest there is",
        "Major version of instances that do not name one",
    ),
    setting(
        "TOYGRES_LOCAL_PORTS",
        "`20000-29999`",
        "Loopback ports for local instances",
    ),
    setting(
        "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS",
        "`30`",
        "Time between two health checks of an instance",
    ),
    setting(
        "TOYGRES_HEALTH_CHECK_TIMEOUT_SECONDS",
        "`5`",
        "A health check that takes longer has failed",
    ),
    setting(
        "TOYGRES_CREATE_DEADLINE_SECONDS",
        "`900`",
        "A create without progress for so long has failed",
    ),
    setting(
        "TOYGRES_SHUTDOWN_GRACE_SECONDS",
        "`20`",
        "How long requests and activities may take to end when the server stops",
    ),
    setting(
        "TOYGRES_SHUTDOWN_DELAY_SECONDS",
        "`0`",
        "How long a server that is told to stop goes on serving, not ready, so that balancers hear of it first",
    ),
    setting(
        "TOYGRES_PRUNE_INTERVAL_SECONDS",
        "`300`",
        "Time between two looks for what need not be kept any longer",
    ),
    setting(
        "TOYGRES_RETENTION_EXECUTIONS",
        "`20`",
        "Executions that are kept of an orchestration that goes on, the newest",
    ),
    setting(
        "TOYGRES_RETENTION_ORCHESTRATIONS_SECONDS",
        "`604800`",
        "How long an orchestration that has ended is kept (7 days)",
    ),
    setting(
        "TOYGRES_RETENTION_HEALTH_CHECKS_SECONDS",
        "`604800`",
        "The same of health checks (7 days)",
    ),
    setting(
        "TOYGRES_RETENTION_EVENTS_SECONDS",
        "`34560000`",
        "The same of events (400 days)",
    ),
    setting(
        "TOYGRES_RETENTION_OPERATIONS_SECONDS",
        "`34560000`",
        "The same of operations that have ended (400 days)",
    ),
    setting(
        "TOYGRES_RETENTION_IDEMPOTENCY_KEYS_SECONDS",
        "`86400`",
        "How long a request with an `Idempotency-Key` can be repeated without being done again (a day)",
    ),
    setting(
        "KUBECONFIG",
        "`~/.kube/config`, else the pod's service account",
        "The way to the cluster",
    ),
    setting(
        "TOYGRES_KUBERNETES_CONTEXT",
        "the current one",
        "Context of the kubeconfig",
    ),
    setting(
        "TOYGRES_KUBERNETES_NAMESPACE",
        "the context's, or the pod's",
        "Where instances are that do not name a namespace",
    ),
    setting(
        "TOYGRES_KUBERNETES_ALLOWED_NAMESPACES",
        "none",
        "Where else instances may be, separated by commas",
    ),
    setting(
        "TOYGRES_KUBERNETES_CONTROL_PLANE_NAMESPACE",
        "as for instances",
        "Where toygres keeps its certificate authority, and from where it connects",
    ),
    setting(
        "TOYGRES_KUBERNETES_IMAGE",
        "`docker.io/library/postgres`",
        "Repository of the image; the major version is its tag",
    ),
    setting(
        "TOYGRES_KUBERNETES_VERSIONS",
        "`15,16,17,18`",
        "Major versions to offer",
    ),
    setting(
        "TOYGRES_KUBERNETES_IMAGE_DIGESTS",
        "none",
        "Digests that pin the images: `17=sha256:...,18=sha256:...`",
    ),
    setting(
        "TOYGRES_KUBERNETES_IMAGE_PULL_SECRET",
        "none",
        "Secret with credentials for the repository, in every namespace of instances",
    ),
    setting(
        "TOYGRES_KUBERNETES_STORAGE_CLASS",
        "the cluster's default",
        "Storage class of volume claims",
    ),
    setting(
        "TOYGRES_KUBERNETES_DEFAULT_CPU",
        "`500m`",
        "CPUs of instances that do not say; `0`: neither reserved nor limited",
    ),
    setting(
        "TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB",
        "`512`",
        "Memory of instances that do not say, in MiB",
    ),
    setting(
        "TOYGRES_KUBERNETES_SERVICE_ANNOTATIONS",
        "none",
        "Annotations of the services that clients connect to: `key=value,...`; `{name}` stands for the instance's name",
    ),
    setting(
        "TOYGRES_KUBERNETES_NODE_SELECTOR",
        "none",
        "Labels of the nodes that instances may run on: `key=value,...`",
    ),
    setting(
        "TOYGRES_KUBERNETES_ALLOWED_SOURCES",
        "see docs/kubernetes.md",
        "Who may connect besides the control plane: `10.0.0.0/8,namespace:apps`",
    ),
    setting(
        "TOYGRES_KUBERNETES_CLUSTER_DOMAIN",
        "`cluster.local`",
        "The cluster's DNS domain",
    ),
    setting(
        "TOYGRES_KUBERNETES_ADDRESS",
        "`dns`",
        "How instances are reached: `dns`; `cluster-ip` in a cluster without DNS; `port-forward` from a machine outside",
    ),
    setting("RUST_LOG", "`info`", "Which log lines are written"),
    setting(
        "DUROXIDE_OBSERVABILITY_ENABLED",
        "`true` with an endpoint",
        "`true`: logs, traces and metrics are exported by OTLP/gRPC",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "`http://localhost:4317`",
        "The collector. This variable and the next four also with `LOGS_`, `TRACES_` or `METRICS_` after `OTLP_`, for that signal alone",
    ),
    secret_setting(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "none",
        "Headers of each request to it: `name=value,...`",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "`10000`",
        "An answer of it that takes longer is none, in milliseconds",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "`none`",
        "`gzip`: what is sent is compressed",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc`",
        "The one protocol that is spoken",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "public authorities",
        "Who may have signed its certificate, PEM",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "none",
        "toygres's own certificate, PEM",
    ),
    setting("OTEL_EXPORTER_OTLP_CLIENT_KEY", "none", "Its private key, PEM"),
    setting(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "`10000`",
        "Time between two exports of metrics, in milliseconds",
    ),
    setting(
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        "`8192`",
        "Log records that wait to be exported; what comes then is lost, and counted",
    ),
    setting("OTEL_BSP_MAX_QUEUE_SIZE", "`8192`", "The same of spans"),
    setting(
        "OTEL_SERVICE_NAME",
        "`toygres`",
        "`service.name` of all that is exported",
    ),
    setting(
        "OTEL_SERVICE_VERSION",
        "toygres's own",
        "`service.version` of all that is exported",
    ),
    setting(
        "OTEL_RESOURCE_ATTRIBUTES",
        "none",
        "Attributes of all that is exported: `deployment.environment.name=production,...`",
    ),
    setting(
        "OTEL_SDK_DISABLED",
        "`false`",
        "`true`: nothing is exported, and there are no traces",
    ),
    setting(
        "DUROXIDE_LOG_FORMAT",
        "`pretty` on a terminal, else `json`",
        "Log lines on the console: `json`, `pretty` or `compact`",
    ),
    setting(
        "DUROXIDE_LOG_LEVEL",
        "that of `RUST_LOG`",
        "Which lines of the orchestration engine are written: `debug`, `info`, ...",
    ),
    setting(
        "DUROXIDE_METRICS_ORCHESTRATION",
        "`true`",
        "Metrics of orchestrations",
    ),
    setting("DUROXIDE_METRICS_ACTIVITY", "`true`", "Metrics of activities"),
    setting(
        "DUROXIDE_METRICS_PROVIDER",
        "`true`",
        "Metrics of the orchestration store",
    ),
    setting(
        "DUROXIDE_METRICS_WORKER",
        "`true`",
        "Metrics of queues and worker slots",
    ),
    setting(
        "DUROXIDE_METRICS_SAMPLE_RATE",
        "`1.0`",
        "Share of the successes of activities that is recorded; rates stay true, failures are all recorded",
    ),
    setting(
        "DUROXIDE_METRICS_MAX_LABEL_VALUES",
        "`1000`",
        "Different values of a label of a metric; what comes later is `other`",
    ),
    setting(
        "DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES",
        "`false`",
        "`true`: messages of errors are a label of `duroxide_activity_errors_total`",
    ),
];

/// The README's table of settings.
#[must_use]
pub fn settings_table() -> String {
    let mut table = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Setting {
        name,
        default,
        meaning,
        ..
    } in SETTINGS
    {
        let _ = writeln!(table, "| `{name}` | {default} | {meaning} |");
    }
    table
}
