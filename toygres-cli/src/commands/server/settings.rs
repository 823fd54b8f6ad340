//! `toygres server config` and `toygres server env`: what is in effect, and where it comes from.

use crate::args::{Chosen, Env};
use crate::client::Client;
use crate::commands::Target;
use crate::config::{Access, ConfigFile};
use crate::failure::Result;
use crate::printer::{Printer, Settings};
use serde_json::{Map, Value};
use std::fmt::Display;
use toygres_models::server::{EffectiveSetting, SettingOrigin};
use toygres_server::config::Paths;

const REDACTED: &str = "[redacted]";

/// This program's settings are shown also if the server's can't be had.
pub(super) async fn config(target: &Target, printer: &Printer) -> Result<()> {
    let access = target.access()?;
    let cli = own(&access)?;
    let server = Client::new(access, target.timeout)?.settings().await;
    let (server, failed) = match server {
        Ok(settings) => (Some(settings), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    printer.settings(&Settings { server, cli })?;
    failed
}

fn own(access: &Access) -> Result<Vec<EffectiveSetting>> {
    fn setting<T>(
        name: &str,
        chosen: Option<&Chosen<T>>,
        show: impl Fn(&T) -> String,
        meaning: &str,
    ) -> EffectiveSetting {
        EffectiveSetting {
            name: name.to_owned(),
            value: chosen.map(|chosen| show(&chosen.value)),
            origin: chosen.map_or(SettingOrigin::Default, |chosen| chosen.origin),
            meaning: meaning.to_owned(),
        }
    }
    let file = Chosen {
        value: ConfigFile::path()?,
        origin: SettingOrigin::Default,
    };
    Ok(vec![
        setting(
            "TOYGRES_API_URL",
            Some(&access.api_url),
            String::clone,
            "The server to talk to",
        ),
        setting(
            "TOYGRES_CONTEXT",
            access.context.as_ref(),
            String::clone,
            "What the configuration file calls it",
        ),
        setting(
            "TOYGRES_TOKEN",
            access.token.as_ref(),
            |_| REDACTED.to_owned(),
            "The API token",
        ),
        setting(
            "TOYGRES_CA_CERT",
            access.ca_cert.as_ref(),
            |file| file.display().to_string(),
            "Certificate authorities that are trusted too",
        ),
        setting(
            "config file",
            Some(&file),
            |file| file.display().to_string(),
            "Where contexts are written down",
        ),
    ])
}

/// Lines for `eval`. A token that is not to be seen is a comment: the shell keeps the one it has.
pub(super) fn env(args: &Env, target: &Target, printer: &Printer) -> Result<()> {
    let access = target.access()?;
    let text = |value: &dyn Display| value.to_string();
    let mut variables = vec![
        ("TOYGRES_HOME", text(&Paths::from_environment()?.home.display())),
        ("TOYGRES_API_URL", access.api_url.value.clone()),
    ];
    if let Some(file) = &access.ca_cert {
        variables.push(("TOYGRES_CA_CERT", text(&file.value.display())));
    }
    let token = access.token.as_ref().map(|token| token.value.reveal().as_str());
    let shown = token.map(|token| if args.show_secrets { token } else { REDACTED });
    if printer.is_document() {
        let token = shown.map(|token| ("TOYGRES_TOKEN", token.to_owned()));
        let all = variables.into_iter().chain(token);
        let document: Map<String, Value> = all.map(|(name, value)| (name.to_owned(), value.into())).collect();
        return printer.document(&document).map(|_| ());
    }
    for (name, value) in &variables {
        printer.line(&format!("export {name}={}", quoted(value)))?;
    }
    match shown {
        Some(token) if args.show_secrets => printer.line(&format!("export TOYGRES_TOKEN={}", quoted(token))),
        Some(_) => {
            printer.line("# export TOYGRES_TOKEN: hidden")?;
            printer.note("with the token: toygres server env --show-secrets");
            Ok(())
        }
        None => Ok(()),
    }
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
