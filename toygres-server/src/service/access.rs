//! Who may call the API.

use super::Service;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use toygres_models::tokens::TokenScope;
use toygres_models::{Error, ErrorKind, OwnerName, Result, TokenId};

/// How long it is taken for granted whether there are tokens. Each request asks.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Of a token that somebody else has made.
const SHORTEST_TOKEN: usize = 20;

/// How often a stream's token is looked at.
const TOKEN_PERIOD: Duration = Duration::from_secs(5);

/// Who a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    /// Its name in the audit.
    pub(crate) actor: String,
    pub(crate) scope: TokenScope,
    /// The only owner whose instances it may touch.
    pub(crate) owner: Option<OwnerName>,
    pub(crate) token: Option<TokenId>,
}

impl Principal {
    /// Whether it said nothing of who it is.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.actor == ANONYMOUS
    }
}

/// Whoever is on this machine, while there are no tokens.
const ANONYMOUS: &str = "loopback";

/// How the API is guarded.
pub(crate) struct Access {
    is_loopback: bool,
    bootstrap_token_file: Option<PathBuf>,
    bootstrap_token_hash: PathBuf,
    /// Whether there are tokens, and when that was asked.
    known: Mutex<Option<(Instant, bool)>>,
    /// Held by who asks that.
    asking: tokio::sync::Mutex<()>,
}

impl Access {
    pub(crate) fn new(
        is_loopback: bool,
        bootstrap_token_file: Option<PathBuf>,
        bootstrap_token_hash: PathBuf,
    ) -> Self {
        Self {
            is_loopback,
            bootstrap_token_file,
            bootstrap_token_hash,
            known: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    fn known(&self) -> Option<(Instant, bool)> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hashes of the bootstrap tokens: that of the file, and that of `toygres server bootstrap-token`.
    fn bootstrap_hashes(&self) -> Vec<[u8; 32]> {
        let file = self.bootstrap_token_file.as_ref();
        let of_file = file
            .and_then(|path| read_token(path).ok())
            .map(|text| hash(&text));
        let made = std::fs::read_to_string(&self.bootstrap_token_hash).ok();
        let made = made.and_then(|text| from_hex(text.trim()));
        of_file.into_iter().chain(made).collect()
    }
}

impl Service {
    /// Who sends this token, or none.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`], codes `token_missing` and `token_invalid`.
    pub(crate) async fn identify(&self, token: Option<&str>) -> Result<Principal> {
        let Some(text) = token else {
            if self.takes_tokens().await? {
                return Err(Error::new(
                    ErrorKind::Unauthenticated,
                    "token_missing",
                    "this server takes requests with a token only",
                )
                .hint(
                    "send the header Authorization: Bearer TOKEN; for the command line set TOYGRES_TOKEN",
                ));
            }
            return Ok(Principal {
                actor: ANONYMOUS.to_owned(),
                scope: TokenScope::Admin,
                owner: None,
                token: None,
            });
        };
        if let Some(token) = self.cms.authenticate(text).await? {
            return Ok(Principal {
                actor: format!("token:{}", token.name),
                scope: token.scope,
                owner: token.user_name,
                token: Some(token.id),
            });
        }
        let hash = hash(text);
        let is_bootstrap = |known: &[u8; 32]| bool::from(known.ct_eq(&hash));
        if self.access.bootstrap_hashes().iter().any(is_bootstrap) {
            return Ok(Principal {
                actor: "bootstrap".to_owned(),
                scope: TokenScope::Admin,
                owner: None,
                token: None,
            });
        }
        Err(Error::new(
            ErrorKind::Unauthenticated,
            "token_invalid",
            "the token is not valid: it is wrong, revoked or has expired",
        )
        .hint("an administrator makes another with: toygres token create"))
    }

    /// Whether a request without a token is refused: beyond loopback, and as soon as there is a token. One request at a
    /// time asks the database, of which a crowd would else take all connections; meanwhile, and while the database is
    /// away, what was last known holds.
    pub(crate) async fn takes_tokens(&self) -> Result<bool> {
        // Whoever names a file with a token wants the API closed, also when the file is gone for a while.
        if !self.access.is_loopback || self.access.bootstrap_token_file.is_some() {
            return Ok(true);
        }
        let known = self.access.known();
        let asking = self.access.asking.try_lock();
        if let Some((asked, answer)) = known
            && (asking.is_err() || asked.elapsed() < KNOWN_FOR)
        {
            return Ok(answer);
        }
        match self.has_tokens().await {
            Ok(answer) => {
                *self.access.known.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), answer));
                Ok(answer)
            }
            Err(error) => known.map(|(_, answer)| answer).ok_or(error),
        }
    }

    /// Ends when the token is revoked or has expired: so long a stream of its may last. Never without a token.
    pub(crate) fn until_refused(
        self: &Arc<Self>,
        token: Option<TokenId>,
    ) -> impl Future<Output = ()> + use<> {
        let service = self.clone();
        async move {
            let Some(id) = token else {
                return std::future::pending().await;
            };
            loop {
                tokio::time::sleep(TOKEN_PERIOD).await;
                // While the database is away, what was last known holds.
                if matches!(service.cms.is_token_usable(id).await, Ok(false)) {
                    return;
                }
            }
        }
    }

    /// Has the next request ask again whether there are tokens.
    pub(super) fn forget_whether_there_are_tokens(&self) {
        *self.access.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn has_tokens(&self) -> Result<bool> {
        Ok(!self.access.bootstrap_hashes().is_empty() || self.cms.has_tokens().await?)
    }

    /// Refuses to serve with a bootstrap token that does not guard, and beyond this machine when nobody could say who
    /// it is.
    pub(crate) async fn check_reachable(&self) -> Result<()> {
        if let Some(path) = &self.access.bootstrap_token_file {
            read_token(path)?;
        }
        if self.access.is_loopback || self.has_tokens().await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            "no_tokens",
            "the API would be reachable from other machines, and there is no token yet",
        )
        .hint("make the first one: toygres server bootstrap-token; or set TOYGRES_BOOTSTRAP_TOKEN_FILE"))
    }
}

/// The token in the file of `TOYGRES_BOOTSTRAP_TOKEN_FILE`.
fn read_token(path: &Path) -> Result<String> {
    let unusable = |why: &str| {
        let message = format!("TOYGRES_BOOTSTRAP_TOKEN_FILE {} {why}", path.display());
        Error::new(ErrorKind::Config, "bad_bootstrap_token", message)
            .hint("put a token into it: openssl rand -base64 32; or leave it out, and: toygres server bootstrap-token")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|cause| unusable(&format!("can't be read: {}", cause.kind())).source(cause))?;
    let text = text.trim();
    if text.len() < SHORTEST_TOKEN {
        return Err(unusable(&format!(
            "holds less than {SHORTEST_TOKEN} characters, which can be guessed"
        )));
    }
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(unusable(
            "holds characters that no header can: nobody could send it",
        ));
    }
    Ok(text.to_owned())
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_from_a_file_can_not_be_guessed() {
        let home = toygres_testing::TestHome::new();
        let file = home.path().join("token");
        assert_eq!(read_token(&file).unwrap_err().code(), "bad_bootstrap_token");
        let good = "t".repeat(SHORTEST_TOKEN);
        let access = Access::new(true, Some(file.clone()), home.path().join("none"));
        for bad in [
            "",
            "\n",
            &good[1..],
            &format!("{good}\n{good}"),
            &"ü".repeat(SHORTEST_TOKEN),
        ] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(read_token(&file).unwrap_err().code(), "bad_bootstrap_token");
            assert!(access.bootstrap_hashes().is_empty());
        }
        std::fs::write(&file, format!("{good}\n")).unwrap();
        assert_eq!(read_token(&file).unwrap(), good);
        assert_eq!(access.bootstrap_hashes(), [hash(&good)]);
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        let text = "00ff".repeat(16);
        assert_eq!(
            from_hex(&text).map(|bytes| bytes[..2].to_vec()),
            Some(vec![0, 255])
        );
        for bad in [
            "",
            "00",
            &"0g".repeat(32),
            &"é".repeat(32),
            &"0".repeat(65),
            &"+f".repeat(32),
        ] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    /// A token of a file is one that a client can send, and is shown by no error; a hash is what it is printed as.
    fn is_taken_or_refused(file: &Path, bytes: &[u8]) {
        std::fs::write(file, bytes).unwrap();
        match read_token(file) {
            Ok(token) => {
                assert!(
                    token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| (b' '..=b'~').contains(&byte))
                );
                assert_eq!(token, String::from_utf8_lossy(bytes).trim());
            }
            Err(error) => {
                assert_eq!(error.code(), "bad_bootstrap_token");
                let said = format!("{error:?}");
                assert!(
                    bytes.len() < 8 || !said.contains(&*String::from_utf8_lossy(bytes)),
                    "{said}"
                );
            }
        }
        let text = String::from_utf8_lossy(bytes);
        if let Some(hash) = from_hex(&text) {
            let printed: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(printed, text.to_ascii_lowercase());
        }
    }

    #[test]
    fn fuzz_token_file() {
        let home = toygres_testing::TestHome::new();
        let file = home.path().join("token");
        bolero::check!().for_each(|bytes: &[u8]| is_taken_or_refused(&file, bytes));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_token_file_holds_it_is_taken_or_refused(
            bytes: Vec<u8>, near in "[ \n]?[!-~äé ]{15,25}\n?", hash in "([0-9a-fA-F]{2}|[+][0-9a-f]){31,33}",
            whole: [u8; 32],
        ) {
            let home = toygres_testing::TestHome::new();
            let file = home.path().join("token");
            for bytes in [&bytes, near.as_bytes(), hash.as_bytes()] {
                is_taken_or_refused(&file, bytes);
            }
            let printed: String = whole.iter().map(|byte| format!("{byte:02x}")).collect();
            proptest::prop_assert_eq!(from_hex(&printed), Some(whole));
        }
    }
}
