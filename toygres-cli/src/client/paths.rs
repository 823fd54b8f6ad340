//! Paths and queries, escaped.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

/// Only its path and query are used.
const ANY_BASE: &str = "http://api/";
/// What is escaped in a part of a path: all but RFC 3986's unreserved characters, and `:`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// `text` as one part of a path; as nothing if no path can hold it, since dots alone lead out of it however they are
/// written.
pub(crate) fn segment(text: &str) -> String {
    match text {
        "." | ".." => String::new(),
        text => utf8_percent_encode(text, SEGMENT).to_string(),
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
    let links = headers
        .get_all(LINK)
        .iter()
        .filter_map(|links| links.to_str().ok());
    // Targets may hold commas, but no angle brackets.
    let mut links = links.flat_map(|links| links.split('<').filter_map(|link| link.split_once('>')));
    let (target, _) = links.find(|(_, parameters)| parameters.contains("rel=\"next\""))?;
    let url = Url::parse(ANY_BASE).ok()?.join(target).ok()?;
    // Else its path would go on with the server's name.
    (!url.cannot_be_a_base()).then(|| format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use reqwest::header::HeaderValue;

    #[test]
    fn what_people_write_can_not_leave_its_place() {
        assert_eq!(segment("actor-1/../x?y#z"), "actor-1%2F..%2Fx%3Fy%23z");
        assert_eq!(
            (segment(".."), segment("a\tb")),
            (String::new(), "a%09b".to_owned())
        );
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

    #[test]
    fn a_link_is_read_as_it_is_meant() {
        let next =
            |link: &'static str| next_page(&HeaderMap::from_iter([(LINK, HeaderValue::from_static(link))]));
        let page = Some("/a?tag=x,y".to_owned());
        assert_eq!(next("</a?tag=x,y>; rel=\"next\""), page);
        assert_eq!(
            next("</b>; rel=\"prev\", </a?tag=x,y>; title=\"z\"; rel=\"next\""),
            page
        );
        // As a part of an address, it would be the name of another server behind one's own.
        assert_eq!(next("<x:@evil.example/>; rel=\"next\""), None);
    }

    /// What somebody writes stays in its place of a path and of a query; what a server writes leads to itself.
    fn stays_in_its_place(text: &str) {
        const SERVER: &str = "http://api.example:1";
        let escaped = segment(text);
        let decoded = percent_decode_str(&escaped).decode_utf8().unwrap();
        assert!(decoded == text || matches!(text, "." | ".."));
        let url = Url::parse(&format!("{SERVER}/a/{escaped}/b")).unwrap();
        let parts: Vec<&str> = url.path_segments().unwrap().collect();
        assert_eq!(parts, ["a", escaped.as_str(), "b"]);

        let path = with_query("/a", [("name", Some(text.to_owned())), ("no", None)]);
        let url = Url::parse(&format!("{SERVER}{path}")).unwrap();
        let pairs: Vec<_> = url.query_pairs().collect();
        assert_eq!((url.path(), pairs), ("/a", vec![("name".into(), text.into())]));

        for link in [text.to_owned(), format!("<{text}>; rel=\"next\"")] {
            let headers = HeaderValue::from_str(&link).map(|link| HeaderMap::from_iter([(LINK, link)]));
            if let Some(next) = headers.ok().and_then(|headers| next_page(&headers)) {
                let url = Url::parse(&format!("{SERVER}{next}")).unwrap();
                assert_eq!(url.origin().ascii_serialization(), SERVER, "{link}");
            }
        }
    }

    #[test]
    fn fuzz_addresses() {
        bolero::check!().for_each(|bytes: &[u8]| stays_in_its_place(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_stays_in_its_place(
            any in ".*", near in "([.]{1,3}|%2[eEfF]|/|\t|[a-z?#&=+]){0,6}",
            link in "([a-z]{1,5}:)?/{0,3}(@|[a-z.:]){0,9}[/?,=&a-z]{0,9}",
        ) {
            for text in [any, near, link] {
                stays_in_its_place(&text);
            }
        }

        #[test]
        fn the_next_page_is_the_one_that_the_link_names(
            path in "(/[a-z]{1,5}){1,3}", query in "[a-z0-9=&,;%2C-]{0,30}",
        ) {
            let link = format!("<{path}?{query}>; rel=\"next\"");
            let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_str(&link).unwrap())]);
            proptest::prop_assert_eq!(next_page(&headers), Some(format!("{path}?{query}")));
        }
    }
}
