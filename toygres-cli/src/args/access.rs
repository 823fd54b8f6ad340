//! The commands on tokens, quotas and contexts.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use toygres_models::OwnerName;
use toygres_models::tokens::TokenScope;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and show it this once.
    #[command(after_help = "Example:\n  toygres token create ci --scope write --expires-in-days 90")]
    Create(CreateToken),
    /// List the tokens.
    #[command(after_help = "Example:\n  toygres token list -o wide")]
    List,
    /// Make a token worthless from now on.
    #[command(after_help = "Example:\n  toygres token revoke ci")]
    Revoke(RevokeToken),
}

#[derive(Debug, Args)]
pub(crate) struct CreateToken {
    /// What to call it.
    pub(crate) name: String,
    /// What it allows: read, write or admin. Each allows what the one before it does.
    #[arg(long)]
    pub(crate) scope: TokenScope,
    /// The only owner it may act for. Not for the scope admin.
    #[arg(long, value_name = "OWNER")]
    pub(crate) user_name: Option<OwnerName>,
    /// After so many days it is refused [default: never].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3650))]
    pub(crate) expires_in_days: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeToken {
    /// The token's name or id.
    pub(crate) name: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Show what each owner may have, and has.
    #[command(after_help = "Example:\n  toygres quota list")]
    List,
    /// Say how much an owner may have. What is left out is not limited.
    #[command(after_help = "Example:\n  toygres quota set web --max-instances 10 --max-storage 500")]
    Set(SetQuota),
    /// Take an owner's own limits away: those of every owner hold again.
    #[command(after_help = "Example:\n  toygres quota remove web")]
    Remove(RemoveQuota),
}

#[derive(Debug, Args)]
pub(crate) struct SetQuota {
    /// The owner.
    pub(crate) user_name: OwnerName,
    /// The most databases.
    #[arg(long, value_name = "N", required_unless_present = "max_storage")]
    pub(crate) max_instances: Option<u32>,
    /// The most storage of all of them, in GiB.
    #[arg(long, value_name = "GIB")]
    pub(crate) max_storage: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveQuota {
    /// The owner.
    pub(crate) user_name: OwnerName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// List the servers that are written down.
    #[command(after_help = "Example:\n  toygres context list")]
    List,
    /// Use this one from now on.
    #[command(after_help = "Example:\n  toygres context use prod")]
    Use(NamedContext),
    /// Write down a server: its address, and how to get in.
    #[command(
        after_help = "Example:\n  toygres context add prod --api-url https://db.example.org --token-stdin <token.txt"
    )]
    Add(AddContext),
    /// Forget a server.
    #[command(after_help = "Example:\n  toygres context remove prod")]
    Remove(NamedContext),
    /// Show one, without its token.
    #[command(after_help = "Example:\n  toygres context show")]
    Show(ShowContext),
}

#[derive(Debug, Args)]
pub(crate) struct NamedContext {
    /// The context's name.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ShowContext {
    /// The context's name [default: the one in use].
    pub(crate) name: Option<String>,
}

/// Its address and certificate are the options `--api-url` and `--ca-cert` of every command.
#[derive(Debug, Args)]
pub(crate) struct AddContext {
    /// What to call it. The address is --api-url, its certificate authority --ca-cert.
    pub(crate) name: String,
    /// Read the token from the first line of standard input.
    #[arg(long)]
    pub(crate) token_stdin: bool,
    /// Read the token from this file whenever it is needed.
    #[arg(long, value_name = "FILE", conflicts_with = "token_stdin")]
    pub(crate) token_file: Option<PathBuf>,
    /// Replace one of this name.
    #[arg(long)]
    pub(crate) force: bool,
}
