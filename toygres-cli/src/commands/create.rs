//! `toygres create`

use super::{bulk, wait};
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
    if args.count.is_some() {
        let results = client.create_many(&body).await?;
        return bulk::finish(results, &args.wait, client, printer, "made").await;
    }
    let key = uuid::Uuid::new_v4().to_string();
    let accepted = client.create(&body, &key).await?;
    if !args.wait.wait {
        printer.operation_begun(&accepted)?;
        return show_password(&accepted, password.is_some(), printer);
    }
    // Before the wait: whoever interrupts it must have seen the password.
    show_password(&accepted, password.is_some(), printer)?;
    let waited = wait::for_end(&accepted.operation, args.wait.timeout, client).await;
    let operation = waited.as_ref().unwrap_or(&accepted.operation);
    let ended = waited.as_ref().map_or(Ok(()), wait::succeeded);
    if waited.is_err() || ended.is_err() {
        // Also then: the caller's program must not lose the password.
        printer.document(&InstanceAccepted {
            operation: operation.clone(),
            ..accepted
        })?;
        return waited.map(|_| ()).and(ended);
    }
    let id = NameOrId::from(accepted.instance.id);
    let connection = client.connection(&id, false).await?;
    if !printer.is_document() {
        return printer.connection(args.name.as_str(), &connection);
    }
    printer.document(&json!({
        "instance": client.get(&id).await?,
        "operation": operation,
        "connection": connection,
        "password": accepted.password,
    }))?;
    Ok(())
}

/// In a document it stands where the server put it.
fn show_password(accepted: &InstanceAccepted, chosen: bool, printer: &Printer) -> Result<()> {
    let name = accepted.instance.name.as_str();
    match &accepted.password {
        _ if printer.is_document() => Ok(()),
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
    match args.count {
        Some(count) => {
            put("base_name", json!(args.name));
            put("count", json!(count))
        }
        None => put("name", json!(args.name)),
    };
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
    if let Some(cpu) = &args.cpu {
        put("cpu", json!(cpu));
    }
    if let Some(memory) = args.memory {
        put("memory_mb", json!(memory));
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
        let password = super::secret_from_stdin("password")?.ok_or_else(|| {
            Failure::new(Exit::Usage, "there is no password on standard input").next(format!(
                "printf '%s\\n' \"$PASSWORD\" | toygres create {} --password-stdin",
                args.name
            ))
        })?;
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
