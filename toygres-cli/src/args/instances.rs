//! The commands on databases.

use super::values::{NameOrId, duration, operation_id, tag};
use clap::{ArgGroup, Args, ValueEnum};
use std::time::Duration;
use toygres_models::health::HealthStatus;
use toygres_models::instances::{BULK_LIMIT, InstanceState};
use toygres_models::operations::{OperationKind, OperationState};
use toygres_models::{InstanceName, OperationId, OwnerName, PostgresVersion};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The name: 1 to 40 lower-case letters, digits and hyphens, a letter first.
    pub(crate) name: InstanceName,
    /// Make so many at once, named NAME-1, NAME-2 and so on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=BULK_LIMIT as i64))]
    pub(crate) count: Option<u16>,
    /// Ask for the password of the role postgres. Without it and --password-stdin the server makes one.
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: bool,
    /// Read the password from the first line of standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// The owner [server's default: default].
    #[arg(long, value_name = "OWNER")]
    pub(crate) user_name: Option<OwnerName>,
    /// PostgreSQL major version [server's default: the newest there is].
    #[arg(long = "version", value_name = "MAJOR")]
    pub(crate) postgres_version: Option<PostgresVersion>,
    /// Storage in GiB [server's default: 10].
    #[arg(long, value_name = "GIB")]
    pub(crate) storage: Option<u32>,
    /// CPUs, such as 2 or 500m.
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpu: Option<String>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// No address outside the cluster.
    #[arg(long)]
    pub(crate) internal: bool,
    /// The namespace to put it in, where the platform has such.
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// A label of your own; may be given again.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Refuse deletion.
    #[arg(long)]
    pub(crate) deletion_protection: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until it is done, with progress on standard error.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, such as 90s, 10m or 1h; then exit code 4. The work goes on.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        requires = "wait",
        value_parser = duration
    )]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Go on showing it: drawn anew on a terminal, else what has changed. Ends by Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often to look.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        requires = "watch",
        value_parser = duration
    )]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those in this state: creating, running, degraded, updating, deleting, failed or deleted.
    #[arg(long)]
    pub(crate) state: Option<InstanceState>,
    /// Only those of this health: unknown, healthy or unhealthy.
    #[arg(long)]
    pub(crate) health: Option<HealthStatus>,
    /// Only those whose name matches; * stands for anything.
    #[arg(long, value_name = "GLOB")]
    pub(crate) filter: Option<String>,
    /// Only those with this tag.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tag: Option<(String, String)>,
    /// Only those of this owner.
    #[arg(long, value_name = "OWNER")]
    pub(crate) user_name: Option<OwnerName>,
    /// More columns: the same as -o wide.
    #[arg(long)]
    pub(crate) wide: bool,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

impl List {
    /// Whether it is about some databases only.
    pub(crate) fn is_narrowed(&self) -> bool {
        self.state.is_some()
            || self.health.is_some()
            || self.filter.is_some()
            || self.tag.is_some()
            || self.user_name.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The database's name or id.
    pub(crate) name: NameOrId,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Show the last health checks too.
    #[arg(long)]
    pub(crate) show_health: bool,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("change")
        .args(["tags", "remove_tags", "deletion_protection"])
        .required(true)
        .multiple(true)
))]
pub(crate) struct Update {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Set this tag; may be given again.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Remove this tag; may be given again.
    #[arg(long = "remove-tag", value_name = "KEY")]
    pub(crate) remove_tags: Vec<String>,
    /// Refuse deletion, or allow it again.
    #[arg(long, value_name = "ON|OFF")]
    pub(crate) deletion_protection: Option<OnOff>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Names or ids of databases.
    #[arg(required = true, value_name = "NAME", num_args = 1..=BULK_LIMIT)]
    pub(crate) names: Vec<NameOrId>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Show the password too.
    #[arg(long)]
    pub(crate) show_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Psql {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Arguments for psql.
    #[arg(last = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Health {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// How many of the last checks to show.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct InstanceLogs {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Go on with what is written from now on. Ends by Ctrl-C.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to show.
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    pub(crate) tail: u32,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").args(["name", "follow"]).required(true).multiple(true)))]
pub(crate) struct Events {
    /// The database's name or id. Can be left out with --follow: then of all databases.
    pub(crate) name: Option<NameOrId>,
    /// Go on with what happens from now on. Ends by Ctrl-C.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Operations {
    /// Show this one.
    #[arg(value_parser = operation_id)]
    pub(crate) id: Option<OperationId>,
    /// Do it again: a new operation for what failed. Needs an id.
    #[arg(long, requires = "id")]
    pub(crate) retry: bool,
    /// Only those in this state: pending, running, succeeded, failed or cancelled.
    #[arg(long, conflicts_with = "id")]
    pub(crate) state: Option<OperationState>,
    /// Only those of this kind: create or delete.
    #[arg(long, conflicts_with = "id")]
    pub(crate) kind: Option<OperationKind>,
    /// Only those of this database.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub(crate) instance: Option<NameOrId>,
    /// Only those of this owner's databases.
    #[arg(long, value_name = "OWNER", conflicts_with = "id")]
    pub(crate) user_name: Option<OwnerName>,
    #[command(flatten)]
    pub(crate) rows: Rows,
}

#[derive(Debug, Args)]
pub(crate) struct Rows {
    /// How many to show, newest first.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}
