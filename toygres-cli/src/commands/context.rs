//! `toygres context`: the servers that are written down.

use crate::args::{AddContext, Context as Command, Given};
use crate::client::{is_loopback, parse_url};
use crate::config::{ConfigFile, Context};
use crate::failure::{Exit, Failure, Result};
use crate::printer::{ContextView, Printer};
use toygres_models::Secret;

pub(super) fn run(command: Command, given: Given, printer: &Printer) -> Result<()> {
    let mut file = ConfigFile::load()?;
    match command {
        Command::List => {
            let current = file.current_context.as_deref();
            let view = |(name, context): (&String, &Context)| ContextView::new(name, context, current);
            printer.contexts(&file.contexts.iter().map(view).collect::<Vec<_>>())
        }
        Command::Show(args) => {
            let in_use = given.context.map(|context| context.value);
            let Some(name) = args.name.or(in_use).or_else(|| file.current_context.clone()) else {
                return Err(Failure::failed("no context is in use")
                    .next("toygres context use NAME")
                    .next("which server that means: toygres server config"));
            };
            let context = file.context(&name)?;
            printer.context(&ContextView::new(&name, context, file.current_context.as_deref()))
        }
        Command::Use(args) => {
            file.context(&args.name)?;
            printer.note(&format!("from now on: {}", args.name));
            file.current_context = Some(args.name);
            file.save()
        }
        Command::Remove(args) => {
            file.context(&args.name)?;
            file.contexts.remove(&args.name);
            if file.current_context.as_ref() == Some(&args.name) {
                file.current_context = None;
            }
            file.save()?;
            printer.note(&format!(
                "{} is forgotten; if nobody else uses its token: toygres token revoke",
                args.name
            ));
            Ok(())
        }
        Command::Add(args) => add(args, given, file, printer),
    }
}

fn add(args: AddContext, given: Given, mut file: ConfigFile, printer: &Printer) -> Result<()> {
    let name = args.name;
    if file.contexts.contains_key(&name) && !args.force {
        return Err(Failure::failed(format!("there is a context {name:?} already"))
            .next(format!("see it: toygres context show {name}"))
            .next("replace it with --force"));
    }
    let Some(api_url) = given.api_url else {
        return Err(
            Failure::new(Exit::Usage, "a context needs the address of its API")
                .next(format!("toygres context add {name} --api-url URL")),
        );
    };
    let url = parse_url(&api_url.value)?;
    let absolute = |path: std::path::PathBuf| {
        std::path::absolute(&path)
            .map_err(|cause| Failure::new(Exit::Usage, format!("{} is no path", path.display())).why(cause))
    };
    let context = Context {
        api_url: api_url.value,
        token: args.token_stdin.then(|| token(&name)).transpose()?,
        token_file: args.token_file.map(absolute).transpose()?,
        ca_cert: given.ca_cert.map(|file| absolute(file.value)).transpose()?,
    };
    let has_token = context.token.is_some() || context.token_file.is_some();
    if has_token && url.scheme() == "http" && !is_loopback(&url) {
        printer.note(&format!(
            "whoever is in between can read the token on its way to {url}: better https://"
        ));
    }
    file.contexts.insert(name.clone(), context);
    // The first one is what is meant from now on.
    let in_use = *file.current_context.get_or_insert_with(|| name.clone()) == name;
    file.save()?;
    printer.note(&match in_use {
        true => format!("{name} is written down and in use"),
        false => format!("{name} is written down; use it: toygres context use {name}"),
    });
    Ok(())
}

fn token(name: &str) -> Result<Secret> {
    super::secret_from_stdin("token")?.ok_or_else(|| {
        Failure::new(Exit::Usage, "there is no token on standard input").next(format!(
            "toygres context add {name} --api-url URL --token-stdin <token.txt"
        ))
    })
}
