//! How inputs travel: with the trace they belong to, and never larger than the store can bear.

use crate::failure::Failure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toygres_models::ErrorKind;

/// The largest input or output of an activity or orchestration, in bytes of JSON. The store has no limit of its own,
/// and a huge payload stops unrelated work.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// What is put round every input.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// The W3C trace context of whoever began this, copied on verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    /// Which try of the same call this is, from 1.
    #[serde(default = "first")]
    pub(crate) attempt: u32,
    /// The input itself.
    pub(crate) body: T,
}

fn first() -> u32 {
    1
}

/// Puts an input into its envelope.
pub(crate) fn seal<T: Serialize>(
    traceparent: Option<&str>,
    attempt: u32,
    body: &T,
) -> Result<String, Failure> {
    encode(&Envelope {
        traceparent: traceparent.map(str::to_owned),
        attempt,
        body,
    })
}

/// Takes an input out of its envelope.
pub(crate) fn open<T: DeserializeOwned>(text: &str) -> Result<Envelope<T>, Failure> {
    decode(text)
}

/// The JSON of an output or envelope.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|_| {
        Failure::new(
            ErrorKind::Internal,
            "payload_invalid",
            "a value can't be written as JSON",
        )
    })?;
    check_size(&text)?;
    Ok(text)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    // serde's own message may quote the value, so it is left out.
    serde_json::from_str(text).map_err(|_| {
        let message = "a value of another version of toygres can't be read";
        Failure::new(ErrorKind::Internal, "payload_invalid", message)
    })
}

/// Refuses what is too large.
pub(crate) fn check_size(text: &str) -> Result<(), Failure> {
    if text.len() <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    let message = format!(
        "a value of {} bytes is over the limit of {MAX_PAYLOAD_BYTES}",
        text.len()
    );
    Err(Failure::new(ErrorKind::TooLarge, "payload_too_large", message))
}
