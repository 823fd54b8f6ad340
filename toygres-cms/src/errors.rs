//! What a failure of the database means: by SQLSTATE, by constraint name and by type, never by text.

use toygres_models::{Error, ErrorKind, InstanceId, OperationId};

/// Turns a failure of the database into toygres's error.
pub(crate) fn database(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(refusal) => match refusal.constraint() {
            Some(constraint) => by_constraint(constraint),
            None => by_sqlstate(refusal.code().as_deref().unwrap_or_default()),
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => unavailable(),
        sqlx::Error::Configuration(_) => Error::new(
            ErrorKind::Config,
            "database_url_invalid",
            "the URL of the control database can't be used",
        ),
        _ => Error::internal("a query of the control database failed"),
    }
    .source(error)
}

/// The one list of constraints that a request can run into; any other that is violated is a defect.
fn by_constraint(constraint: &str) -> Error {
    match constraint {
        "instances_name_live" => Error::new(ErrorKind::Conflict, "name_taken", "the name is in use")
            .hint("`toygres list` shows the instances there are"),
        "api_tokens_name" => Error::new(
            ErrorKind::Conflict,
            "token_name_taken",
            "there is a token of this name already",
        )
        .hint("choose another name, or revoke that token first"),
        other => Error::internal(format!("the constraint {other} was violated")),
    }
}

fn by_sqlstate(code: &str) -> Error {
    let config = |word: &'static str, message: &str| Error::new(ErrorKind::Config, word, message);
    match code {
        "28000" | "28P01" => config(
            "database_login_refused",
            "the control database refuses the login of toygres",
        )
        .hint("check user and password in the database URL"),
        "3D000" => config("database_missing", "the control database does not exist")
            .hint("create it, or correct the database URL"),
        "42501" => config(
            "database_permission_denied",
            "toygres's role may not do what it must in the control database",
        )
        .hint("make the role the owner of the database, or of the schema cms"),
        "3F000" | "42P01" | "42703" | "42883" => config(
            "database_not_migrated",
            "the control database lacks tables of this program's version",
        )
        .hint("start the server of this version once: it brings the tables up to date"),
        // A statement that was cut off, a lock that was not free in time, two transactions in each other's way, a
        // server that has become read-only after a failover, disk errors.
        "57014" | "55P03" | "25006" => unavailable(),
        // Connection trouble, rollbacks that a retry cures, out of resources, shut down or starting up, system errors.
        _ if ["08", "40", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            unavailable()
        }
        _ => Error::internal(format!("the control database refused a query (SQLSTATE {code})")),
    }
}

fn unavailable() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "database_unavailable",
        "the control database does not answer",
    )
    .hint("try again in a moment; instances that run are not affected")
}

/// A write of an actor that somebody else has replaced, or whose work nobody wants any more.
pub(crate) fn superseded(why: &str) -> Error {
    Error::new(ErrorKind::Superseded, "superseded", why)
}

/// A write for an operation that has ended.
pub(crate) fn operation_ended(id: OperationId) -> Error {
    Error::new(
        ErrorKind::Superseded,
        "operation_ended",
        "the operation has already ended",
    )
    .context(format!("operation {id}"))
}

/// No such instance.
pub(crate) fn instance_not_found(what: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "instance_not_found",
        format!("there is no instance {what}"),
    )
    .hint("`toygres list` shows the instances there are")
}

/// An actor asks about an instance that has no row.
pub(crate) fn no_such_actor(id: InstanceId) -> Error {
    superseded("another actor has taken the instance over").context(format!("instance {id}"))
}
