//! Answers that come bit by bit.

use super::Client;
use crate::failure::{Failure, Result};
use eventsource_stream::{Event, Eventsource};
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use reqwest::header::CONTENT_TYPE;
use std::time::Duration;

/// The server says something on a stream of events, if only that it is there, more often than this.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Server-sent events. A stream that breaks has ended: the caller asks again.
pub(crate) struct Events(LocalBoxStream<'static, Option<Event>>);

impl Events {
    /// The next event, comments left out; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let next = tokio::time::timeout(LONGEST_SILENCE, self.0.next());
        next.await.ok()?.flatten()
    }
}

/// Lines of text. A stream that breaks has ended.
pub(crate) struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = whole_line(&mut self.buffer) {
                return Some(line);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) | Err(_) if self.buffer.is_empty() => return None,
                Ok(None) | Err(_) => {
                    let last = std::mem::take(&mut self.buffer);
                    return Some(String::from_utf8_lossy(&last).into_owned());
                }
            }
        }
    }
}

/// Takes the first line, if its end is there.
fn whole_line(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = buffer.drain(..=end).collect();
    Some(String::from_utf8_lossy(&line[..end]).into_owned())
}

impl Client {
    /// Opens a stream of events, from after the one with the id `last` on.
    pub(super) async fn open_events(&self, path: &str, last: Option<i64>) -> Result<Events> {
        let response = self
            .open(path, |request| {
                let request = request.header("accept", "text/event-stream");
                match last {
                    Some(id) => request.header("last-event-id", id),
                    None => request,
                }
            })
            .await?;
        let kind = response.headers().get(CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(self.foreign("it does not answer with a stream of events"));
        }
        let events = response.bytes_stream().eventsource().map(|event| event.ok());
        Ok(Events(events.boxed_local()))
    }

    pub(super) async fn open_lines(&self, path: &str) -> Result<Lines> {
        let response = self.open(path, |request| request).await?;
        Ok(Lines {
            response,
            buffer: Vec::new(),
        })
    }

    /// The document that an event brings.
    pub(crate) fn event_data<T: serde::de::DeserializeOwned>(&self, event: &Event) -> Result<T, Failure> {
        self.decode(event.data.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::Strategy as _;

    /// In whatever pieces a text comes, its lines are the same.
    fn is_read_line_by_line(pieces: &[Vec<u8>]) {
        let (mut buffer, mut lines) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            lines.extend(std::iter::from_fn(|| whole_line(&mut buffer)));
        }
        lines.push(String::from_utf8_lossy(&buffer).into_owned());
        let text = pieces.concat();
        let wanted = text.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
        assert_eq!(lines, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn fuzz_lines() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let pieces: Vec<_> = bytes.chunks(1 + bytes.len() / 4).map(<[u8]>::to_vec).collect();
            is_read_line_by_line(&pieces);
        });
    }

    proptest::proptest! {
        #[test]
        fn a_text_has_the_same_lines_in_whatever_pieces_it_comes(
            pieces in proptest::collection::vec("[a-zä\\n\\r]{0,9}".prop_map(String::into_bytes), 0..9),
            bytes: Vec<Vec<u8>>,
        ) {
            is_read_line_by_line(&pieces);
            is_read_line_by_line(&bytes);
        }
    }
}
