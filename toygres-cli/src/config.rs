//! Which server to talk to, and how to get in: flags over environment over the configuration file.

use crate::args::{Chosen, Given};
use crate::client::segment;
use crate::failure::{Exit, Failure, Result};
use etcetera::base_strategy::{BaseStrategy, Xdg};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use toygres_models::Secret;
use toygres_models::server::SettingOrigin;

/// Where the API is if nothing says otherwise.
pub(crate) const DEFAULT_API_URL: &str = "http://127.0.0.1:8080";

/// The server to talk to.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) context: Option<Chosen<String>>,
    pub(crate) api_url: Chosen<String>,
    pub(crate) token: Option<Chosen<Secret>>,
    pub(crate) ca_cert: Option<Chosen<PathBuf>>,
}

/// A server that is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) api_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    pub(crate) token: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<PathBuf>,
}

/// For the configuration file alone, which only its owner can read.
fn reveal<S: Serializer>(token: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    token
        .as_ref()
        .map(|token| token.reveal().as_str())
        .serialize(serializer)
}

/// The configuration file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

impl ConfigFile {
    pub(crate) fn path() -> Result<PathBuf> {
        let base = Xdg::new().map_err(|cause| {
            Failure::failed("there is no place for the configuration file")
                .why(cause)
                .next("set HOME or XDG_CONFIG_HOME")
        })?;
        Ok(base.config_dir().join("toygres/config.toml"))
    }

    /// What the file says; nothing if there is none.
    pub(crate) fn load() -> Result<Self> {
        let path = Self::path()?;
        let wrong = |cause: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Usage,
                format!("the configuration {} can't be used", path.display()),
            )
            .why(cause)
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => return Err(wrong(&cause)),
        };
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|cause| wrong(&cause))?;
        let config = Self::parse(&text).map_err(|why| wrong(&why))?;
        if config.contexts.values().any(|context| context.token.is_some()) {
            check_private(&file, &path)?;
        }
        Ok(config)
    }

    /// What is wrong is told without what stands there, which may be a token.
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|cause: toml::de::Error| {
            let before = cause.span().and_then(|place| text.get(..place.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            match cause.message().rsplit_once(", expected ") {
                Some((wrong, wanted)) if wrong.starts_with("invalid ") => {
                    format!("line {line}: expected {wanted}")
                }
                _ => format!("line {line}: {}", cause.message()),
            }
        })
    }

    /// Writes the file in one step, for its owner's eyes only.
    pub(crate) fn save(&self) -> Result<()> {
        let path = Self::path()?;
        let unwritable = |cause: &dyn std::fmt::Display| {
            Failure::failed(format!("{} can't be written", path.display())).why(cause)
        };
        let text = toml::to_string(self).map_err(|cause| unwritable(&cause))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .and_then(|()| write_private(&path, &text))
            .map_err(|cause| unwritable(&cause))
    }

    /// The context of this name.
    pub(crate) fn context(&self, name: &str) -> Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let failure = Failure::new(Exit::Usage, format!("there is no context {name:?}"));
            let failure = match crate::failure::nearest(name, self.contexts.keys().map(String::as_str)) {
                Some(known) => failure.next(format!("did you mean {known}?")),
                None => failure,
            };
            failure.next("toygres context list")
        })
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Keeps what the certificates of this server's databases are checked by, in a file that stays: psql reads it when
/// this program is gone.
pub(crate) fn keep_certificate(server: &str, pem: &str) -> Result<PathBuf> {
    let base = Xdg::new().map_err(|cause| {
        Failure::failed("there is no place for the certificate")
            .why(cause)
            .next("set HOME or XDG_CACHE_HOME")
    })?;
    let directory = base.cache_dir().join("toygres");
    let path = directory.join(format!("{}.pem", segment(server)));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .and_then(|()| write_private(&path, pem))
        .map_err(|cause| Failure::failed(format!("{} can't be written", path.display())).why(cause))?;
    Ok(path)
}

/// A token that others can read is no secret.
fn check_private(file: &File, path: &Path) -> Result<()> {
    let mode = file.metadata().map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 == 0) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("{} holds a token, but others can read it", path.display()),
    )
    .next(format!("chmod 600 {}", path.display()))
    .next("if somebody may have read it: toygres token revoke, and make another"))
}

impl Context {
    /// Its token, wherever that stands.
    fn token(&self) -> Result<Option<Secret>> {
        let Some(path) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let unreadable = |cause: std::io::Error| {
            Failure::new(
                Exit::Usage,
                format!("the token file {} can't be read", path.display()),
            )
            .why(cause)
        };
        let mut file = File::open(path).map_err(unreadable)?;
        check_private(&file, path)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
        Ok(Some(Secret::new(text.trim().to_owned())))
    }
}

/// The server to talk to. `running` says where the server that runs on this home listens.
///
/// A context is a unit: its token and certificate go with its own address only.
pub(crate) fn resolve(
    given: Given,
    load: impl FnOnce() -> Result<ConfigFile>,
    running: impl FnOnce() -> Option<String>,
) -> Result<Access> {
    let Given {
        api_url,
        context,
        token,
        ca_cert,
    } = given;
    let flag_over_variable = |context: &Chosen<String>, url: &Chosen<String>| {
        context.origin == SettingOrigin::Flag && url.origin != SettingOrigin::Flag
    };
    let api_url = api_url.filter(|url| {
        !context
            .as_ref()
            .is_some_and(|context| flag_over_variable(context, url))
    });
    if let Some(api_url) = api_url {
        return Ok(Access {
            context: None,
            api_url,
            token,
            ca_cert,
        });
    }
    let file = load()?;
    let from_file = |value: &String| Chosen {
        value: value.clone(),
        origin: SettingOrigin::File,
    };
    let Some(name) = context.or_else(|| file.current_context.as_ref().map(from_file)) else {
        let value = running().unwrap_or_else(|| DEFAULT_API_URL.to_owned());
        let api_url = Chosen {
            value,
            origin: SettingOrigin::Default,
        };
        return Ok(Access {
            context: None,
            api_url,
            token,
            ca_cert,
        });
    };
    let context = file.context(&name.value)?;
    let outranks =
        |origin: SettingOrigin| !(name.origin == SettingOrigin::Flag && origin == SettingOrigin::Environment);
    let own_token = |token: Option<Secret>| {
        token.map(|value| Chosen {
            value,
            origin: SettingOrigin::File,
        })
    };
    let token = match token {
        Some(token) if outranks(token.origin) => Some(token),
        weaker => own_token(context.token()?).or(weaker),
    };
    let own_cert = context.ca_cert.clone().map(|value| Chosen {
        value,
        origin: SettingOrigin::File,
    });
    let ca_cert = match ca_cert {
        Some(ca_cert) if outranks(ca_cert.origin) => Some(ca_cert),
        weaker => own_cert.or(weaker),
    };
    Ok(Access {
        api_url: from_file(&context.api_url),
        context: Some(name.clone()),
        token,
        ca_cert,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use SettingOrigin::{Default as Preset, Environment, File as InFile, Flag};

    fn chosen(text: &str, origin: SettingOrigin) -> Option<Chosen<String>> {
        Some(Chosen {
            value: text.to_owned(),
            origin,
        })
    }

    fn secret(text: &str, origin: SettingOrigin) -> Option<Chosen<Secret>> {
        Some(Chosen {
            value: Secret::new(text.to_owned()),
            origin,
        })
    }

    fn file(current: Option<&str>) -> Result<ConfigFile> {
        let text = "[contexts.prod]\napi_url = 'https://prod'\ntoken = 'of-prod'\n[contexts.test]\napi_url = 'http://test'\n";
        let mut file: ConfigFile = toml::from_str(text).unwrap();
        file.current_context = current.map(str::to_owned);
        Ok(file)
    }

    /// Address, its origin, token.
    fn resolved(given: Given, current: Option<&str>) -> (String, SettingOrigin, Option<String>) {
        let access = resolve(given, || file(current), || None).unwrap();
        let token = access.token.map(|token| token.value.reveal().clone());
        (access.api_url.value, access.api_url.origin, token)
    }

    #[test]
    fn fuzz_config_file() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_kept_or_refused(&String::from_utf8_lossy(bytes));
        });
    }

    /// What is read is read again as it is written; what is refused is told without what stands there.
    fn is_kept_or_refused(text: &str) {
        match ConfigFile::parse(text) {
            Ok(config) => {
                let written = toml::to_string(&config).unwrap();
                let read = ConfigFile::parse(&written).unwrap();
                assert_eq!(toml::to_string(&read).unwrap(), written);
            }
            Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why}"),
        }
        if !text.contains("canary") {
            let why = ConfigFile::parse(&text.replace('"', "\"canary")).err();
            assert!(why.is_none_or(|why| !why.contains("\"canary")), "{text}");
        }
    }

    #[test]
    fn no_value_of_the_file_is_shown() {
        for text in [
            "contexts.prod = 'canary'",
            "current_context = ['canary']",
            "[contexts.prod]\napi_url = 'x'\ntoken = { canary = 'canary' }",
            "contexts = \"canary, expected \"",
            "[contexts.prod]\napi_url = 'canary",
        ] {
            let why = ConfigFile::parse(text).unwrap_err();
            assert!(!why.contains("canary"), "{text}: {why}");
        }
        let why = ConfigFile::parse("\n[contexts.prod]\napi_url = 1").unwrap_err();
        assert_eq!(why, "line 3: expected a string");
        let why = ConfigFile::parse("[contexts.prod]\nurl = 'x'").unwrap_err();
        assert!(why.contains("line 2: unknown field `url`"), "{why}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_file_holds_it_is_kept_or_refused(
            any in ".*",
            near in "((current_context|contexts|token|api_url|x) = (\"[a-z, ]{0,9}\"|'x'|[0-9]{1,3}|\\{\\})?\n\
                |\\[contexts[.][a-z]?\\]\n){0,5}",
        ) {
            is_kept_or_refused(&any);
            is_kept_or_refused(&near);
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let prod = || ("https://prod".to_owned(), InFile, Some("of-prod".to_owned()));
        let nothing = Given::default;
        assert_eq!(
            resolved(nothing(), None),
            (DEFAULT_API_URL.to_owned(), Preset, None)
        );
        assert_eq!(resolved(nothing(), Some("prod")), prod());
        let by_variable = || Given {
            context: chosen("prod", Environment),
            ..nothing()
        };
        assert_eq!(resolved(by_variable(), Some("test")), prod());
        let both = |context, url| Given {
            context: chosen("prod", context),
            api_url: chosen("http://u", url),
            ..nothing()
        };
        assert_eq!(resolved(both(Flag, Environment), None), prod());
        assert_eq!(resolved(both(Environment, Environment), None).0, "http://u");
        assert_eq!(resolved(both(Flag, Flag), None).0, "http://u");
    }

    #[test]
    fn a_contexts_token_goes_to_its_own_server_only() {
        let elsewhere = Given {
            api_url: chosen("http://elsewhere", Environment),
            ..Given::default()
        };
        assert_eq!(resolved(elsewhere, Some("prod")).2, None);
        let token = || secret("of-variable", Environment);
        let by_flag = Given {
            context: chosen("prod", Flag),
            token: token(),
            ..Given::default()
        };
        assert_eq!(resolved(by_flag, None).2.as_deref(), Some("of-prod"));
        let current = Given {
            token: token(),
            ..Given::default()
        };
        assert_eq!(resolved(current, Some("prod")).2.as_deref(), Some("of-variable"));
        let without = Given {
            context: chosen("test", Flag),
            token: token(),
            ..Given::default()
        };
        assert_eq!(resolved(without, None).2.as_deref(), Some("of-variable"));
    }

    #[test]
    fn a_context_that_is_not_there_is_named_with_the_nearest() {
        let given = Given {
            context: chosen("prd", Flag),
            ..Given::default()
        };
        let failure = resolve(given, || file(None), || None).unwrap_err();
        assert_eq!(failure.message, "there is no context \"prd\"");
        assert_eq!(failure.next[0], "did you mean prod?");
    }
}
