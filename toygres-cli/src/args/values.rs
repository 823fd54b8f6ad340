//! Values of arguments, valid once they are parsed.

use std::time::Duration;
use toygres_models::{InstanceId, InstanceName, OperationId, Secret};

/// What names an instance: live ones by name, all by id.
#[derive(Debug, Clone)]
pub(crate) struct NameOrId(String);

impl NameOrId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<InstanceId> for NameOrId {
    fn from(id: InstanceId) -> Self {
        Self(id.to_string())
    }
}

impl std::str::FromStr for NameOrId {
    type Err = toygres_models::names::ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<InstanceId>() {
            Ok(id) => Ok(Self(id.to_string())),
            Err(_) => text.parse::<InstanceName>().map(|name| Self(name.into())),
        }
    }
}

pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be like team=web".to_owned()),
    }
}

pub(super) fn operation_id(text: &str) -> Result<OperationId, String> {
    text.parse()
        .map_err(|_| "must be an operation's id, as `toygres operations` lists them".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
    {
        Some(seconds) if seconds > 0 && seconds <= 31 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a duration such as 90s, 10m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for bad in [
            "",
            "0s",
            "m",
            "-1s",
            "1d",
            "1.5m",
            "10 m",
            "99999999999999999999s",
            "9999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_can_be_put_into_a_path_is_a_name_or_an_id() {
        for good in ["demo", "6f2c4b8e-0000-4000-8000-000000000001"] {
            assert!(good.parse::<NameOrId>().is_ok(), "{good}");
        }
        for bad in ["", "../health", "a/b", "a?b", "A"] {
            assert!(bad.parse::<NameOrId>().is_err(), "{bad}");
        }
    }

    fn is_taken_or_refused(text: &str) {
        if let Ok(name) = text.parse::<NameOrId>() {
            // It goes into a path as it is.
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(name.as_str().bytes().all(fits));
        }
        if let Ok((key, value)) = tag(text) {
            assert_eq!(format!("{key}={value}"), text);
        }
        if let Ok(duration) = duration(text) {
            assert!((1..=31 * 86_400).contains(&duration.as_secs()));
        }
        operation_id(text).ok();
        if let Ok(url) = crate::client::parse_url(text) {
            assert!(url.has_host() && url.password().is_none());
        }
    }

    #[test]
    fn fuzz_argument() {
        bolero::check!().for_each(|bytes: &[u8]| is_taken_or_refused(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_an_argument_is_it_is_taken_or_refused(
            any in ".*", near in "[0-9]{0,22}[smhd]?", name in "[a-z0-9./?%-]{0,45}", pair in "[a-z=]{0,9}",
        ) {
            for text in [any, near, name, pair] {
                is_taken_or_refused(&text);
            }
        }
    }
}
