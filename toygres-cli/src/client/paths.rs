//! Paths and queries, escaped.

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

/// Only its path and query are used.
const ANY_BASE: &str = "http://api/";

/// `text` as one part of a path.
pub(crate) fn segment(text: &str) -> String {
    match Url::parse(ANY_BASE) {
        Ok(mut url) => {
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.push(text);
            }
            url.path().trim_start_matches('/').to_owned()
        }
        Err(_) => String::new(),
    }
}

/// `path` with the parameters that have a value.
pub(crate) fn with_query<'a>(
    path: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> String {
    let given = parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    match Url::parse_with_params(ANY_BASE, given) {
        Ok(url) => match url.query() {
            Some(query) if !query.is_empty() => format!("{path}?{query}"),
            _ => path.to_owned(),
        },
        Err(_) => path.to_owned(),
    }
}

/// Path and query of the next page (RFC 8288). Whatever host the link names, the token goes to the server it is for.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let target = next.split_once('<')?.1.split_once('>')?.0;
    let url = Url::parse(ANY_BASE).ok()?.join(target).ok()?;
    Some(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn what_people_write_can_not_leave_its_place() {
        assert_eq!(segment("actor-1/../x?y#z"), "actor-1%2F..%2Fx%3Fy%23z");
        let query = with_query("/a", [("name", Some("x*&b=1 ü".to_owned())), ("no", None)]);
        assert_eq!(query, "/a?name=x*%26b%3D1+%C3%BC");
        assert_eq!(with_query("/a", [("no", None)]), "/a");
    }

    #[test]
    fn the_next_page_is_on_the_same_server() {
        let link = "<http://evil.example/api/x?cursor=1>; rel=\"prev\", <//evil.example/api/x?limit=2&cursor=abc>; rel=\"next\"";
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_static(link))]);
        assert_eq!(next_page(&headers).as_deref(), Some("/api/x?limit=2&cursor=abc"));
        assert_eq!(next_page(&HeaderMap::new()), None);
    }
}
