//! Words of others: of servers, which belong to tenants, of nodes, and of an API server.

/// The words, fit for people and for the database, which takes no NUL: without control characters, on one line, cut
/// after so many characters.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let text = text.replace(char::is_control, " ");
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(most) {
        words.truncate(end);
        words.push_str("...");
    }
    words
}

/// What the words of others must be wherever they are shown or kept.
#[cfg(test)]
pub(crate) fn assert_printable(text: &str, most: usize) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(
        text.chars().count() <= most,
        "{} characters",
        text.chars().count()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_steers_no_terminal_and_fits_into_the_database() {
        assert_eq!(printable("a\0b\x1b[2J\r\n  c\u{9b}", 99), "a b [2J c");
        assert_eq!(printable("äöü", 2), "äö...");
    }

    proptest::proptest! {
        #[test]
        fn whatever_others_say_it_is_printable(text in r"(.|[\x00-\x1f]|\PC){0,60}", most in 0..60_usize) {
            let words = printable(&text, most);
            assert_printable(&words, most + 3);
            proptest::prop_assert_eq!(printable(&words, most + 3), words);
        }
    }
}
