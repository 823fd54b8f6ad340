//! API tokens: who may call the API, and what they may do.

use crate::error::{Error, FieldError, Result};
use crate::ids::TokenId;
use crate::names::OwnerName;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

words! {
    /// What a token allows. Each allows all that the one before it does.
    TokenScope {
        /// Look at everything but passwords.
        Read = "read",
        /// Make, change and remove instances, and see their passwords.
        Write = "write",
        /// Look after the server: tokens, quotas, orchestrations, audit.
        Admin = "admin",
    }
}

impl TokenScope {
    /// Whether this scope allows what `wanted` does.
    #[must_use]
    pub const fn allows(self, wanted: Self) -> bool {
        self as u8 >= wanted as u8
    }
}

/// The body of `POST /api/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTokenRequest {
    /// What to call it; unique among those that are not revoked.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._@-]*$",
        example = "ci"
    )]
    pub name: String,
    /// What it allows.
    pub scope: TokenScope,
    /// The only owner it may act for; any if absent. Not for the scope `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OwnerName>)]
    pub user_name: Option<String>,
    /// After so many days it is refused; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3650)]
    pub expires_in_days: Option<i64>,
}

/// A request for a token whose every field is valid.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What to call it.
    pub name: String,
    /// What it allows.
    pub scope: TokenScope,
    /// The only owner it may act for.
    pub user_name: Option<OwnerName>,
    /// After so many days it is refused.
    pub expires_in_days: Option<i32>,
}

impl CreateTokenRequest {
    /// Checks every field, and says all that is wrong at once.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with one entry a wrong field.
    pub fn parse(self) -> Result<NewToken> {
        let mut wrong = Vec::new();
        let mut reject = |field: &str, message: String| {
            wrong.push(FieldError {
                field: field.to_owned(),
                message,
            });
        };
        let name_ok = self.name.len() <= 63
            && self.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-'));
        if !name_ok {
            let allowed =
                "must be 1 to 63 letters, digits, '.', '_', '@' and '-', beginning with a letter or digit";
            reject("name", allowed.to_owned());
        }
        let user_name = self.user_name.as_ref().and_then(|text| {
            text.parse::<OwnerName>()
                .map_err(|why| reject("user_name", why.to_string()))
                .ok()
        });
        if self.scope == TokenScope::Admin && self.user_name.is_some() {
            reject("user_name", "must be absent for the scope admin".to_owned());
        }
        let expires_in_days = self.expires_in_days.and_then(|days| {
            let valid = i32::try_from(days).ok().filter(|days| (1..=3650).contains(days));
            if valid.is_none() {
                reject(
                    "expires_in_days",
                    "must be a whole number from 1 to 3650".to_owned(),
                );
            }
            valid
        });
        if !wrong.is_empty() {
            return Err(Error::invalid_fields(wrong));
        }
        Ok(NewToken {
            name: self.name,
            scope: self.scope,
            user_name,
            expires_in_days,
        })
    }
}

/// A token, without its text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Its identity.
    pub id: TokenId,
    /// What it is called.
    pub name: String,
    /// What it allows.
    pub scope: TokenScope,
    /// The only owner it may act for; any if absent.
    pub user_name: Option<OwnerName>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it will be refused, or has been since.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked, if it is.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The answer of `POST /api/tokens`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token.
    pub token: ApiToken,
    /// Its text, to be sent as `Authorization: Bearer <text>`. Shown this once.
    pub text: String,
}

impl fmt::Debug for CreatedToken {
    /// Without the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedToken")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_what_the_lesser_ones_do() {
        use TokenScope::{Admin, Read, Write};
        assert!(Admin.allows(Write) && Write.allows(Read) && Read.allows(Read));
        assert!(!Read.allows(Write) && !Write.allows(Admin));
    }

    #[test]
    fn every_wrong_field_of_a_token_is_named_at_once() {
        let request = CreateTokenRequest {
            name: "-no".into(),
            scope: TokenScope::Admin,
            user_name: Some("Not A Name".into()),
            expires_in_days: Some(0),
        };
        let error = request.parse().expect_err("nothing in it is valid");
        let fields: Vec<&str> = error.fields().iter().map(|f| f.field.as_str()).collect();
        assert_eq!(fields, ["name", "user_name", "user_name", "expires_in_days"]);
    }
}
