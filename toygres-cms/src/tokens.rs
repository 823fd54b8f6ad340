//! API tokens: made here, shown once, stored as a hash.

use crate::audit::{Origin, Subject, audit};
use crate::errors::database;
use crate::{Cms, credentials, rows};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::postgres::PgRow;
use subtle::ConstantTimeEq;
use toygres_models::tokens::{ApiToken, CreatedToken, NewToken};
use toygres_models::{Error, ErrorKind, Result, TokenId};
use uuid::Uuid;
use zeroize::Zeroizing;

/// What every token's text begins with, so that people and scanners of secrets know one when they see it.
const PREFIX: &str = "tgr_";
const TOKEN_BYTES: usize = 32;
/// Of [`TOKEN_BYTES`] in Base64 without padding.
const TOKEN_CHARS: usize = 43;

/// What [`rows::token`] reads.
const TOKEN: &str =
    "id, name, scopes[1] as scope, user_name, created_at, expires_at, last_used_at, revoked_at";

/// Whether a row of `cms.api_tokens` lets somebody in.
const USABLE: &str = "revoked_at is null and (expires_at is null or expires_at > now())";

impl Cms {
    /// Makes a token. The first one that can be used must have the scope `admin`: from then on callers need one, and
    /// nobody could make another.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: code `token_name_taken`, or `first_token_must_be_admin`. Else see the crate.
    pub async fn create_token(&self, new: &NewToken, origin: &Origin) -> Result<CreatedToken> {
        let bytes: Zeroizing<[u8; TOKEN_BYTES]> = credentials::random()?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes));
        let mut transaction = self.pool.begin().await.map_err(database)?;
        // Looks for the first token and writes the new one in one statement.
        let token = sqlx::query(&format!(
            "insert into cms.api_tokens (id, name, hash, scopes, user_name, expires_at) \
             select $1, $2, $3, array[$4], $5, now() + make_interval(days => $6) \
             where $4 = 'admin' or exists (select from cms.api_tokens where {USABLE}) returning {TOKEN}"
        ))
        .bind(TokenId::generate().0)
        .bind(&new.name)
        .bind(hash(&text).as_slice())
        .bind(new.scope.as_str())
        .bind(new.user_name.as_ref().map(|owner| owner.as_str()))
        .bind(new.expires_in_days)
        .try_map(|row| rows::token(&row))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                "first_token_must_be_admin",
                "the first token must have the scope admin: without one nobody could make another",
            )
            .hint("make a token with the scope admin first")
        })?;
        let subject = Subject {
            object: Some(&token.name),
            ..Subject::default()
        };
        audit(&mut transaction, origin, "create_token", subject).await?;
        transaction.commit().await.map_err(database)?;
        Ok(CreatedToken { token, text })
    }

    /// The token with this text; `None` if there is none, or it was revoked, or has expired. That it was used is
    /// noted within a minute, without making the caller wait.
    ///
    /// # Errors
    /// See the crate.
    pub async fn authenticate(&self, text: &str) -> Result<Option<ApiToken>> {
        if !text.starts_with(PREFIX) || text.len() != PREFIX.len() + TOKEN_CHARS {
            return Ok(None);
        }
        let hash = hash(text);
        let found = sqlx::query(&format!(
            "select {TOKEN}, hash, now() as now from cms.api_tokens where hash = $1 and {USABLE}"
        ))
        .bind(hash.as_slice())
        .try_map(|row: PgRow| {
            let stored: Vec<u8> = row.try_get("hash")?;
            let now: DateTime<Utc> = row.try_get("now")?;
            Ok((rows::token(&row)?, stored, now))
        })
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        let Some((token, stored, now)) = found else {
            return Ok(None);
        };
        if !bool::from(stored.as_slice().ct_eq(&hash)) {
            return Ok(None);
        }
        if token
            .last_used_at
            .is_none_or(|last| now - last >= TimeDelta::minutes(1))
        {
            self.note_use(token.id);
        }
        Ok(Some(token))
    }

    /// Notes that the token was used. Nothing depends on it, so nobody waits for it or hears that it failed; of many
    /// that do it at once, one writes and the others pass by.
    fn note_use(&self, id: TokenId) {
        let pool = self.pool.clone();
        tokio::spawn(async move {
            sqlx::query(
                "update cms.api_tokens set last_used_at = now() where id = ( \
                     select id from cms.api_tokens where id = $1 \
                     and (last_used_at is null or last_used_at <= now() - interval '1 minute') \
                     for no key update skip locked)",
            )
            .bind(id.0)
            .execute(&pool)
            .await
            .ok();
        });
    }

    /// Whether there is a token that was not revoked. One that has expired counts: that nobody looked must not open
    /// what somebody has closed.
    ///
    /// # Errors
    /// See the crate.
    pub async fn has_tokens(&self) -> Result<bool> {
        sqlx::query_scalar("select exists (select from cms.api_tokens where revoked_at is null)")
            .fetch_one(&self.pool)
            .await
            .map_err(database)
    }

    /// Whether the token still lets somebody in.
    ///
    /// # Errors
    /// See the crate.
    pub async fn is_token_usable(&self, id: TokenId) -> Result<bool> {
        sqlx::query_scalar(&format!(
            "select exists (select from cms.api_tokens where id = $1 and {USABLE})"
        ))
        .bind(id.0)
        .fetch_one(&self.pool)
        .await
        .map_err(database)
    }

    /// All tokens, also those that can't be used any more, newest first.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_tokens(&self) -> Result<Vec<ApiToken>> {
        sqlx::query(&format!("select {TOKEN} from cms.api_tokens order by id desc"))
            .try_map(|row| rows::token(&row))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)
    }

    /// Revokes the token with this id, or the one of this name that is not revoked. Done again by id, it gives the
    /// same answer.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `token_not_found`. Else see the crate.
    pub async fn revoke_token(&self, id_or_name: &str, origin: &Origin) -> Result<ApiToken> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let token = sqlx::query(&format!(
            "select {TOKEN} from cms.api_tokens where id = $1 or name = $2 and revoked_at is null \
             order by id = $1 desc nulls last limit 1 for no key update"
        ))
        .bind(id_or_name.parse::<Uuid>().ok())
        .bind(id_or_name)
        .try_map(|row| rows::token(&row))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "token_not_found",
                format!("there is no token {id_or_name}"),
            )
            .hint("`toygres token list` shows the tokens there are")
        })?;
        if token.revoked_at.is_some() {
            return Ok(token);
        }
        let token = sqlx::query(&format!(
            "update cms.api_tokens set revoked_at = now() where id = $1 returning {TOKEN}"
        ))
        .bind(token.id.0)
        .try_map(|row| rows::token(&row))
        .fetch_one(&mut *transaction)
        .await
        .map_err(database)?;
        let subject = Subject {
            object: Some(&token.name),
            ..Subject::default()
        };
        audit(&mut transaction, origin, "revoke_token", subject).await?;
        transaction.commit().await.map_err(database)?;
        Ok(token)
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
