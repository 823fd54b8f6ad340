//! `toygres psql`

use crate::args::Psql;
use crate::client::Client;
use crate::config::keep_certificate;
use crate::failure::{Failure, Result};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use toygres_models::instances::Connection;

/// Becomes psql, so that its exit code, its signals and its terminal are its own.
pub(crate) async fn run(args: Psql, client: &Client) -> Result<ExitCode> {
    let connection = client.connection(&args.name, true).await?;
    let cause = command(&connection, client).await?.args(args.arguments).exec();
    Err(match cause.kind() {
        ErrorKind::NotFound => Failure::failed("psql is not installed, or not in PATH")
            .next("install it; on Debian and Ubuntu: apt-get install postgresql-client")
            .next(format!(
                "or use another client: toygres connect {} --show-password",
                args.name.as_str()
            )),
        _ => Failure::failed("psql can't be started").why(cause),
    })
}

/// psql on a database, with the server's certificate checked where it has one. By environment, not by arguments: those everybody on the machine can see, and the user's own
/// come in between.
pub(super) async fn command(connection: &Connection, client: &Client) -> Result<Command> {
    let mut psql = Command::new("psql");
    psql.env("PGHOST", &connection.host)
        .env("PGPORT", connection.port.to_string())
        .env("PGUSER", &connection.user)
        .env("PGDATABASE", &connection.database);
    if let Some(password) = &connection.password {
        psql.env("PGPASSWORD", password);
    }
    if let Some(sslmode) = &connection.sslmode {
        let authority = client.certificate_authority().await?;
        psql.env("PGSSLMODE", sslmode)
            .env("PGSSLROOTCERT", keep_certificate(client.base(), &authority)?);
    }
    Ok(psql)
}
