//! Lists in pages: a limit, a cursor, and where the next page is.

use super::problem::Failed;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use toygres_models::{Error, Result};

/// Rows of a list that is not given whole.
pub(crate) const DEFAULT_LIMIT: u32 = 100;
/// The most rows of a page.
const MAX_LIMIT: u32 = 1000;
/// What is escaped in a value of a query string: all but RFC 3986's unreserved characters.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Checks a limit that was asked for.
///
/// # Errors
/// `Invalid` if there may not be so many.
pub(crate) fn limit(wanted: Option<u32>) -> Result<Option<u32>> {
    match wanted {
        Some(limit) if !(1..=MAX_LIMIT).contains(&limit) => Err(Error::invalid_field(
            "limit",
            format!("must be a whole number from 1 to {MAX_LIMIT}"),
        )),
        wanted => Ok(wanted),
    }
}

/// Checks a number that was asked for.
///
/// # Errors
/// `Invalid` if it is too small.
pub(crate) fn at_least(least: i64, field: &str, wanted: Option<i64>) -> Result<Option<i64>> {
    match wanted {
        Some(number) if number < least => Err(Error::invalid_field(
            field,
            format!("must be a whole number from {least}"),
        )),
        wanted => Ok(wanted),
    }
}

/// The rows, and in the header `Link` where the next ones are if the page is full (RFC 8288).
pub(crate) fn page<T: Serialize>(
    rows: Vec<T>,
    limit: Option<u32>,
    uri: &Uri,
    cursor: impl Fn(&T) -> String,
) -> Response {
    let is_full = limit.is_some_and(|limit| rows.len() >= limit as usize);
    let next = rows.last().filter(|_| is_full).map(cursor);
    let mut response = json(&rows);
    if let Some(cursor) = next {
        let others = uri.query().unwrap_or_default().split('&');
        let others = others.filter(|pair| !pair.is_empty() && !is_cursor(pair));
        let query: Vec<&str> = others.collect();
        let separator = if query.is_empty() { "" } else { "&" };
        let link = format!(
            "<{}?{}{separator}cursor={}>; rel=\"next\"",
            uri.path(),
            // A client may have sent other characters as they are, which no header may hold.
            utf8_percent_encode(&query.join("&"), CONTROLS),
            utf8_percent_encode(&cursor, VALUE)
        );
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

/// Whether this is the parameter `cursor`, however it is written.
fn is_cursor(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    percent_decode_str(name).eq(*b"cursor")
}

/// As [`axum::Json`], which takes twice as long for a long list: it writes into a buffer that grows bit by bit.
fn json<T: Serialize>(rows: &[T]) -> Response {
    const ROW_BYTES: usize = 512;
    let mut body = Vec::with_capacity(rows.len() * ROW_BYTES);
    match serde_json::to_writer(&mut body, rows) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(cause) => {
            Failed::from(Error::internal("an answer can't be written").source(cause)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::extract::read_query;
    use crate::http::{administration, events, instances, operations, orchestrations, server};
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;
    use toygres_cms::TagFilter;
    use toygres_models::{ErrorKind, InstanceId};

    #[test]
    fn a_full_page_says_where_the_next_one_is() {
        let link = |uri: &'static str, rows: Vec<u8>| {
            let response = page(rows, Some(2), &Uri::from_static(uri), ToString::to_string);
            let link = response.headers().get(header::LINK);
            link.map(|link| link.to_str().unwrap().to_owned())
        };
        assert_eq!(link("/a?limit=2", vec![1]), None);
        assert_eq!(
            link("/a?limit=2", vec![1, 7]).as_deref(),
            Some("</a?limit=2&cursor=7>; rel=\"next\"")
        );
        assert_eq!(
            link("/a?cursor=1&limit=2", vec![1, 7]).as_deref(),
            Some("</a?limit=2&cursor=7>; rel=\"next\"")
        );
        assert_eq!(
            link("/a", vec![1, 7]).as_deref(),
            Some("</a?cursor=7>; rel=\"next\"")
        );
    }

    #[test]
    fn limits() {
        assert_eq!(limit(None).unwrap(), None);
        assert_eq!(limit(Some(1000)).unwrap(), Some(1000));
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
    }

    #[test]
    fn a_cursor_gives_way_to_the_next_one_however_it_is_written() {
        let link = |uri: &str, cursor: &str| {
            let response = page(vec![0], Some(1), &uri.parse().unwrap(), |_| cursor.to_owned());
            let link = response.headers().get(header::LINK).unwrap();
            link.to_str().unwrap().to_owned()
        };
        for uri in ["/a?c%75rsor=1&b=2", "/a?b=2&cursor", "/a?cursor=&b=2"] {
            assert_eq!(link(uri, "7"), "</a?b=2&cursor=7>; rel=\"next\"", "{uri}");
        }
        assert_eq!(
            link("/a", "x&y=1 ü"),
            "</a?cursor=x%26y%3D1%20%C3%BC>; rel=\"next\""
        );
        assert_eq!(
            link("/a?name=ü*", "7"),
            "</a?name=%C3%BC*&cursor=7>; rel=\"next\""
        );
    }

    /// What is asked for; if it can't be, no value is in the reason, each of which begins with the canary.
    fn read<T: DeserializeOwned>(query: &str) -> Option<T> {
        let read = |query: &str| Some(read_query::<T>(&format!("/x?{query}").parse().ok()?));
        // Of a parameter the reason may hold the name.
        if !percent_decode_str(query).decode_utf8_lossy().contains("canary")
            && let Some(Err(error)) = read(&query.replace('=', "=canary."))
        {
            assert!(!error.message().contains("canary."), "{error}");
            refused::<T>(error);
        }
        read(query)?.map_or_else(refused, Some)
    }

    fn refused<T>(error: Error) -> Option<T> {
        assert_eq!((error.kind(), error.code()), (ErrorKind::Malformed, "bad_query"));
        None
    }

    /// The link leads to the same list, from the cursor on.
    fn is_followed<T: DeserializeOwned + Debug>(
        query: &str,
        cursor: &str,
        of: impl Fn(&mut T) -> Option<String>,
    ) {
        let Some(mut params) = read::<T>(query) else {
            return;
        };
        let uri = format!("/x?{query}").parse().unwrap();
        let response = page(vec![0], Some(1), &uri, |_| cursor.to_owned());
        let link = response.headers().get(header::LINK).unwrap().to_str().unwrap();
        let next = link
            .strip_prefix("</x?")
            .unwrap()
            .strip_suffix(">; rel=\"next\"")
            .unwrap();
        let mut followed = read::<T>(next).expect("the link can be followed");
        assert_eq!(of(&mut followed).as_deref(), Some(cursor), "{link}");
        of(&mut params);
        assert_eq!(format!("{followed:?}"), format!("{params:?}"), "{link}");
    }

    /// Every list, and everything else that takes parameters.
    fn is_taken_or_refused(query: &str, cursor: &str) {
        let id = InstanceId::generate().to_string();
        let text = |id: Option<_>| id.map(|id: InstanceId| id.to_string());
        is_followed(query, &id, |list: &mut instances::ListParams| {
            text(list.cursor.take())
        });
        is_followed(query, &id, |list: &mut operations::ListParams| {
            list.cursor.take().map(|id| id.to_string())
        });
        is_followed(query, cursor, |list: &mut orchestrations::ListParams| {
            list.cursor.take()
        });
        is_followed(query, "7", |list: &mut administration::AuditParams| {
            list.cursor.take().map(|id| id.to_string())
        });
        if let Some(list) = read::<instances::ListParams>(query) {
            if let Ok(Some(rows)) = limit(list.limit) {
                assert!((1..=1000).contains(&rows));
            }
            if let Some(tag) = list.tag {
                let TagFilter { key, value } = instances::tag_filter(&tag);
                assert_eq!(
                    value.map_or_else(|| key.clone(), |value| format!("{key}={value}")),
                    tag
                );
            }
        }
        read::<instances::EventParams>(query);
        read::<instances::LimitParams>(query);
        read::<instances::ConnectionParams>(query);
        read::<instances::LogParams>(query);
        read::<server::LogParams>(query);
        read::<events::FollowParams>(query);
        if let Some(part) = read::<orchestrations::HistoryParams>(query)
            && let Ok(Some(execution)) = at_least(1, "execution", part.execution)
        {
            assert!(execution >= 1);
        }
    }

    #[test]
    fn fuzz_query() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            is_taken_or_refused(&text, &text);
        });
    }

    proptest! {
        #[test]
        fn whatever_a_query_asks_for_its_next_page_is_the_same_list(
            any in ".*", cursor in ".*",
            near in "((state|health|user_name|name|tag|instance|status|kind|prefix|actor\
                |limit|c(u|%75)rsor|reveal|tail)\
                (=(running|healthy|true|[a-z=+&?ü-]{0,5}|%[0-9A-F]{2}|[0-9]{1,5}))?&?){0,4}",
        ) {
            is_taken_or_refused(&any, &cursor);
            is_taken_or_refused(&near, &cursor);
        }
    }
}
