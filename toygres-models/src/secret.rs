//! A value that must not be seen by chance.

use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Holds a secret: `Debug` prints `[redacted]`, there is no `Display` and no `Serialize`, and the memory is wiped
/// when it is dropped. Reading it takes the word [`Secret::reveal`], which is easy to search for.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent, bound(deserialize = "T: Zeroize + serde::Deserialize<'de>"))]
pub struct Secret<T: Zeroize = String>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Whoever calls this answers for where it goes.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted_also_inside_other_types() {
        #[derive(Debug)]
        #[allow(dead_code, reason = "only its Debug output matters")]
        struct Request {
            password: Secret,
        }
        let shown = format!(
            "{:?}",
            Request {
                password: Secret::new("hunter2-canary".to_owned())
            }
        );
        assert_eq!(shown, "Request { password: [redacted] }");
    }
}
