//! `toygres token`

use super::confirm::Question;
use crate::args::Token;
use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;
use toygres_models::tokens::CreateTokenRequest;

pub(super) async fn run(command: Token, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Token::List => printer.tokens(&client.tokens().await?),
        Token::Create(args) => {
            let request = CreateTokenRequest {
                name: args.name,
                scope: args.scope,
                user_name: args.user_name.map(String::from),
                expires_in_days: args.expires_in_days,
            };
            printer.new_token(&client.create_token(&request).await?)
        }
        Token::Revoke(args) => {
            let name = args.name;
            Question {
                text: format!("This makes the token {name} worthless, for ever."),
                answer: None,
                otherwise: format!("the token {name} is not revoked"),
                forced: format!("toygres token revoke {name} --force"),
            }
            .ask(args.force)?;
            let token = client.revoke_token(&name).await?;
            if printer.document(&token)? {
                return Ok(());
            }
            printer.line(&format!("the token {} is revoked", token.name))
        }
    }
}
