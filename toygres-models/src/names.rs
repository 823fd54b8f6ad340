//! Names and versions, parsed at the edge: who holds one of these types holds a valid value.

use crate::error::FieldError;
use std::fmt;
use std::str::FromStr;

/// Why a text is not a valid name or version; says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseNameError(String);

impl ParseNameError {
    /// This failure as one wrong field of a request.
    #[must_use]
    pub fn in_field(self, field: &str) -> FieldError {
        FieldError {
            field: field.to_owned(),
            message: self.0,
        }
    }
}

/// An RFC 1123 label that begins with a letter: lower-case letters, digits and inner hyphens.
fn parse_label(text: &str, max: usize) -> Result<String, ParseNameError> {
    let allowed = || {
        ParseNameError(format!(
            "must be 1 to {max} characters: lower-case letters, digits and hyphens, beginning with a letter and \
             ending with a letter or digit"
        ))
    };
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(allowed());
    };
    let inner_ok = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if bytes.len() <= max && first.is_ascii_lowercase() && *last != b'-' && inner_ok {
        Ok(text.to_owned())
    } else {
        Err(allowed())
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $max:tt) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
        )]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, min_length = 1, max_length = $max, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")]
        pub struct $name(String);

        impl $name {
            /// The longest one allowed, in characters.
            pub const MAX_LEN: usize = $max;

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_label(text, Self::MAX_LEN).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// An instance's name, unique among live instances. With `-` and eight hexadecimal digits behind it, it is
    /// still a valid Kubernetes name.
    InstanceName, 40
}
label! {
    /// The owner of an instance: the name that tokens and quotas are bound to.
    OwnerName, 63
}

impl Default for OwnerName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// A PostgreSQL major version, such as `17`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[1-9][0-9]$", example = "17")]
pub struct PostgresVersion(u16);

impl PostgresVersion {
    /// The major version as a number.
    #[must_use]
    pub const fn major(self) -> u16 {
        self.0
    }
}

impl FromStr for PostgresVersion {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<u16>() {
            // `parse` also takes "+17" and "017", which are not how a version is written.
            Ok(major) if (10..100).contains(&major) && major.to_string() == text => Ok(Self(major)),
            _ => Err(ParseNameError(
                "must be a PostgreSQL major version such as \"17\"".to_owned(),
            )),
        }
    }
}

impl TryFrom<String> for PostgresVersion {
    type Error = ParseNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<i32> for PostgresVersion {
    type Error = ParseNameError;
    fn try_from(major: i32) -> Result<Self, Self::Error> {
        major.to_string().parse()
    }
}

impl From<PostgresVersion> for String {
    fn from(version: PostgresVersion) -> String {
        version.to_string()
    }
}

impl fmt::Display for PostgresVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_labels_that_begin_with_a_letter() {
        for good in ["a", "demo", "my-db-2", &"a".repeat(40)] {
            assert!(good.parse::<InstanceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a_b",
            "a.b",
            "a b",
            "ä",
            "a\0",
            "a\n",
            "a'b",
            "a\"b",
            "a;drop",
            "../a",
            &"a".repeat(41),
        ] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_plain_major_numbers() {
        assert_eq!(
            "17".parse::<PostgresVersion>().map(PostgresVersion::major),
            Ok(17)
        );
        for bad in ["", "9", "100", "17.2", "+17", "017", " 17", "latest", "17\0"] {
            assert!(bad.parse::<PostgresVersion>().is_err(), "{bad:?}");
        }
    }
}
