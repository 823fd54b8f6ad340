//! `toygres quota`

use crate::args::Quota;
use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;
use toygres_models::quotas::QuotaLimits;

pub(super) async fn run(command: Quota, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Quota::List => printer.quotas(&client.quotas().await?),
        Quota::Set(args) => {
            let limits = QuotaLimits {
                max_instances: args.max_instances.map(i64::from),
                max_storage_gb: args.max_storage.map(i64::from),
            };
            let quota = client.set_quota(&args.user_name, limits).await?;
            if printer.document(&quota)? {
                return Ok(());
            }
            printer.quotas(&[quota])
        }
        Quota::Remove(args) => {
            client.remove_quota(&args.user_name).await?;
            printer.note(&format!("{} has no limits of its own any more", args.user_name));
            Ok(())
        }
    }
}
