//! How inputs travel: with the trace they belong to, and never larger than the store can bear.

use crate::failure::Failure;
use serde::de::{DeserializeOwned, IgnoredAny};
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
    /// Whether a failure that may pass is tried again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) more: bool,
    /// Whether this orchestration takes the place of one that was lost.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) restarted: bool,
    /// Whether this orchestration goes on for long: each of its executions is a trace of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) long_running: bool,
    /// The input itself.
    pub(crate) body: T,
}

fn first() -> u32 {
    1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl<T> Envelope<T> {
    /// The envelope of a first try that nothing more is known of.
    pub(crate) fn new(traceparent: Option<&str>, body: T) -> Self {
        Self {
            traceparent: traceparent.map(str::to_owned),
            attempt: first(),
            more: false,
            restarted: false,
            long_running: false,
            body,
        }
    }
}

/// Takes an input out of its envelope.
pub(crate) fn open<T: DeserializeOwned>(text: &str) -> Result<Envelope<T>, Failure> {
    decode(text)
}

/// What stands on an envelope. None of what is not one.
pub(crate) fn outside(text: &str) -> Option<Envelope<IgnoredAny>> {
    serde_json::from_str(text).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn opens_or_is_refused(text: &str) {
        outside(text);
        if let Err(failure) = open::<String>(text) {
            assert_eq!(failure.code, "payload_invalid");
        }
    }

    #[test]
    fn fuzz_envelope() {
        bolero::check!().for_each(|bytes: &[u8]| opens_or_is_refused(&String::from_utf8_lossy(bytes)));
    }

    proptest! {
        #[test]
        fn an_envelope_is_read_as_it_was_written(
            any in ".*", near in r#"\{"(traceparent|attempt|body)":("[^"]*"|-?[0-9]{1,12}|null)\}"#,
            body in ".*", parent in proptest::option::of(".*"), attempt: u32, flags: [bool; 3],
        ) {
            for text in [any, near] {
                opens_or_is_refused(&text);
            }
            let mut envelope = Envelope::new(parent.as_deref(), body);
            envelope.attempt = attempt;
            [envelope.more, envelope.restarted, envelope.long_running] = flags;
            let text = encode(&envelope).unwrap();
            let read = open::<String>(&text).unwrap();
            prop_assert_eq!(encode(&read).unwrap(), text);
            prop_assert_eq!((read.body, read.traceparent), (envelope.body, parent));
        }
    }
}
