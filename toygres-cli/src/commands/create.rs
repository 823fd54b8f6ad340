//! `toygres create`

use super::wait;
use crate::args::{Create, NameOrId};
use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::printer::Printer;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use toygres_models::Secret;
use toygres_models::instances::InstanceAccepted;

pub(crate) async fn run(args: Create, client: &Client, printer: &Printer) -> Result<()> {
    let password = password(&args)?;
    let body = body(&args, password.as_ref());
    let key = uuid::Uuid::new_v4().to_string();
    let accepted = client.create(&body, &key).await?;
    let name = args.name.as_str();

    if !args.wait.wait {
        if printer.is_json() {
            return printer.json(&accepted);
        }
        printer.operation_begun(&accepted)?;
        show_password(&accepted, password.is_some(), printer)?;
        printer.note(&format!(
            "follow it: toygres operations {}",
            accepted.operation.id
        ));
        return Ok(());
    }
    // Before the wait: whoever interrupts it must have seen the password.
    if !printer.is_json() {
        show_password(&accepted, password.is_some(), printer)?;
    }
    let waited = wait::for_end(&accepted.operation, args.wait.timeout, client).await;
    let operation = waited.as_ref().unwrap_or(&accepted.operation);
    let ended = waited.as_ref().map_or(Ok(()), wait::succeeded);
    if waited.is_err() || ended.is_err() {
        // Also then: the caller's program must not lose the password.
        if printer.is_json() {
            printer.json(&InstanceAccepted {
                operation: operation.clone(),
                ..accepted
            })?;
        }
        return waited.map(|_| ()).and(ended);
    }
    let connection = client.connection(name, false).await?;
    if printer.is_json() {
        return printer.json(&json!({
            "instance": client.get(&NameOrId::from(accepted.instance.id)).await?,
            "operation": operation,
            "connection": connection,
            "password": accepted.password,
        }));
    }
    printer.connection(name, &connection)
}

fn show_password(accepted: &InstanceAccepted, chosen: bool, printer: &Printer) -> Result<()> {
    let name = accepted.instance.name.as_str();
    match &accepted.password {
        Some(password) => printer.new_password(name, password),
        None if chosen => Ok(()),
        // The first answer, which held it, was lost on the way.
        None => {
            printer.note(&format!(
                "see the password that was made: toygres connect {name} --show-password"
            ));
            Ok(())
        }
    }
}

/// Only what was said: all defaults are the server's.
fn body(args: &Create, password: Option<&Secret>) -> Value {
    let mut body = Map::new();
    let mut put = |field: &str, value: Value| body.insert(field.to_owned(), value);
    put("name", json!(args.name));
    if let Some(password) = password {
        put("password", json!(password.reveal()));
    }
    if let Some(owner) = &args.user_name {
        put("user_name", json!(owner));
    }
    if let Some(version) = args.postgres_version {
        put("postgres_version", json!(version));
    }
    if let Some(storage) = args.storage {
        put("storage_size_gb", json!(storage));
    }
    if let Some(namespace) = &args.namespace {
        put("namespace", json!(namespace));
    }
    if args.internal {
        put("internal", json!(true));
    }
    if args.deletion_protection {
        put("deletion_protection", json!(true));
    }
    if !args.tags.is_empty() {
        put(
            "tags",
            args.tags
                .iter()
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect(),
        );
    }
    Value::Object(body)
}

fn password(args: &Create) -> Result<Option<Secret>> {
    if args.password_stdin {
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|cause| Failure::failed("standard input can't be read").why(cause))?;
        let password = Secret::new(line.trim_end_matches(['\r', '\n']).to_owned());
        if password.reveal().is_empty() {
            return Err(
                Failure::new(Exit::Usage, "there is no password on standard input").next(format!(
                    "printf '%s\\n' \"$PASSWORD\" | toygres create {} --password-stdin",
                    args.name
                )),
            );
        }
        return Ok(Some(password));
    }
    if !args.password {
        return Ok(None);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "--password asks for the password, but there is no terminal",
        )
        .next("hand it over with --password-stdin"));
    }
    let unreadable = |cause: std::io::Error| Failure::failed("the terminal can't be read").why(cause);
    let password = Secret::new(rpassword::prompt_password("Password: ").map_err(unreadable)?);
    let again = Secret::new(rpassword::prompt_password("Again: ").map_err(unreadable)?);
    if password != again {
        return Err(Failure::new(Exit::Usage, "the two passwords are not the same"));
    }
    Ok(Some(password))
}
