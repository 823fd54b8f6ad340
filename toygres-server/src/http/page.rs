//! Lists in pages: a limit, a cursor, and where the next page is.

use super::problem::Failed;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use toygres_models::{Error, Result};

/// Rows of a list that is not given whole.
pub(crate) const DEFAULT_LIMIT: u32 = 100;
/// The most rows of a page.
const MAX_LIMIT: u32 = 1000;

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
        let others = others.filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query: Vec<&str> = others.collect();
        let separator = if query.is_empty() { "" } else { "&" };
        let link = format!(
            "<{}?{}{separator}cursor={cursor}>; rel=\"next\"",
            uri.path(),
            query.join("&")
        );
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
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
}
