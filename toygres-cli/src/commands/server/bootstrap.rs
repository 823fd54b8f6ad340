//! `toygres server bootstrap-token`: the first token, made where the server's files are.

use super::home;
use crate::args::BootstrapToken;
use crate::commands::confirm::Question;
use crate::config::write_private;
use crate::failure::{Failure, Result};
use crate::printer::Printer;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use toygres_server::config::Paths;

/// Holds the token's SHA-256, which the server compares with.
const FILE_NAME: &str = "bootstrap-token.sha256";
const TOKEN_BYTES: usize = 32;

pub(super) fn run(args: &BootstrapToken, printer: &Printer) -> Result<()> {
    let paths = Paths::from_environment()?;
    let file = paths.home.join(FILE_NAME);
    if args.remove {
        return match std::fs::remove_file(&file) {
            Ok(()) => {
                printer.note("the bootstrap token is worthless from now on");
                Ok(())
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                printer.note("there is no bootstrap token");
                Ok(())
            }
            Err(cause) => Err(home::unwritable(&file, &cause)),
        };
    }
    if file.exists() {
        Question {
            text: "There is a bootstrap token. This makes it worthless, and a new one.".to_owned(),
            answer: None,
            otherwise: "the bootstrap token is not replaced".to_owned(),
            forced: "toygres server bootstrap-token --force".to_owned(),
        }
        .ask(args.force)?;
    }
    home::prepare(&paths)?;
    let token = new_token()?;
    let hash: String = Sha256::digest(&token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    write_private(&file, &format!("{hash}\n")).map_err(|cause| home::unwritable(&file, &cause))?;
    if printer.document(&serde_json::json!({ "token": token }))? {
        return Ok(());
    }
    printer.line(&token)?;
    printer.note("this token may do everything and is shown this once; it holds from the server's next start at the latest");
    printer.note("use it to make others: TOYGRES_TOKEN=... toygres token create NAME --scope admin");
    printer.note("then take it away: toygres server bootstrap-token --remove");
    Ok(())
}

fn new_token() -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|cause| Failure::failed("the system gives no random numbers").why(cause))?;
    Ok(format!("tgr_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}
