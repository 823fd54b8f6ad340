//! Idempotency keys: the same request sent twice is done once.

use crate::Cms;
use crate::audit::Origin;
use crate::errors::database;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use toygres_models::instances::Instance;
use toygres_models::operations::Operation;
use toygres_models::{Error, ErrorKind, Result};

/// A request that may come more than once.
#[derive(Debug, Clone, Copy)]
pub struct Idempotency<'a> {
    /// The caller's name for the request.
    pub key: &'a str,
    /// What the request says, by [`Cms::request_hash`].
    pub request_hash: [u8; 32],
}

/// What was answered. Never holds a password.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredAnswer {
    pub(crate) instance: Instance,
    pub(crate) operation: Operation,
}

impl Cms {
    /// The hash of a request's canonical form. It takes the master key to make one, since the request may hold a
    /// password that could be found from a plain hash by guessing.
    #[must_use]
    pub fn request_hash(&self, canonical: &[u8]) -> [u8; 32] {
        self.key.request_hash(canonical)
    }
}

/// Takes the key for this transaction, or gives the answer of the one that had it. Waits for a transaction that is
/// just doing the same request.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    origin: &Origin,
    request: &Idempotency<'_>,
) -> Result<Option<StoredAnswer>> {
    let claimed = sqlx::query(
        "insert into cms.idempotency_keys (actor, key, request_hash) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(&origin.actor)
    .bind(request.key)
    .bind(request.request_hash.as_slice())
    .execute(&mut *connection)
    .await
    .map_err(database)?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let row = sqlx::query(
        "select request_hash = $3 as same, response from cms.idempotency_keys where actor = $1 and key = $2",
    )
    .bind(&origin.actor)
    .bind(request.key)
    .bind(request.request_hash.as_slice())
    .fetch_optional(connection)
    .await
    .map_err(database)?;
    // Pruned between the two statements: the client tries again, and is then the first.
    let Some(row) = row else {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "idempotency_key_expired",
            "the idempotency key has just expired; send the request again",
        ));
    };
    if !row.try_get::<bool, _>("same").map_err(database)? {
        return Err(Error::new(
            ErrorKind::Invalid,
            "idempotency_key_reused",
            "this idempotency key was used for a different request",
        )
        .hint("send a new key with a new request"));
    }
    let answer: Json<StoredAnswer> = row.try_get("response").map_err(database)?;
    Ok(Some(answer.0))
}

/// Stores the answer under the key that this transaction has claimed.
pub(crate) async fn store(
    connection: &mut PgConnection,
    origin: &Origin,
    request: &Idempotency<'_>,
    answer: &StoredAnswer,
) -> Result<()> {
    sqlx::query("update cms.idempotency_keys set response = $3 where actor = $1 and key = $2")
        .bind(&origin.actor)
        .bind(request.key)
        .bind(Json(answer))
        .execute(connection)
        .await
        .map_err(database)?;
    Ok(())
}
