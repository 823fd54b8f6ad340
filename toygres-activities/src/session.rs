//! One question to the server of a user, in PostgreSQL's own
//! [protocol](https://www.postgresql.org/docs/current/protocol.html).
//!
//! The other side is whatever a tenant has made of his server, so nothing that it says may cost much: few bytes are
//! read, whatever lengths it claims; the work that it asks for to check the password is limited, and the password is
//! never told; what it remarks is thrown away. Drivers for trusted servers promise none of this.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use sha2::digest::KeyInit;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use toygres_models::Secret;
use toygres_models::instances::Endpoint;

/// What a server may say in one session: many times what an honest one does.
const MOST_BYTES: usize = 64 * 1024;
/// The most rounds of hashing for a password. PostgreSQL's default is 4096; a tenant may store two billion, an hour's
/// work.
const MOST_ROUNDS: u32 = 100_000;
/// After so many rounds others have their turn, and the time is looked at.
const ROUNDS_AT_ONCE: u32 = 1000;

const PROTOCOL_3_0: u32 = 3 << 16;
const TLS_REQUEST: u32 = 80_877_103;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The server said so, with this SQLSTATE.
    Refused(String),
    /// The connection broke, or was never there.
    Broken(io::Error),
    /// The server does no TLS.
    NoTls,
    /// What it shows is no certificate of the authority for this address.
    Certificate(String),
    /// It does not talk as an honest server would.
    Protocol(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Who asks, and what.
pub(crate) struct Question<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a Secret,
    pub(crate) database: &'a str,
    /// What the session begins with, such as `-c search_path=pg_catalog`. A tenant's own settings don't win over it.
    pub(crate) options: &'a str,
    pub(crate) query: &'a str,
}

type Row = Vec<Option<String>>;

/// The only row that answers the query. With an `authority` (PEM) nothing is said before the server has shown a
/// certificate of it for this very address.
pub(crate) async fn ask(
    endpoint: &Endpoint,
    authority: Option<&str>,
    question: &Question<'_>,
) -> Result<Row, Fault> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    match authority {
        Some(authority) => {
            let stream = secure(stream, &endpoint.host, authority).await?;
            converse(stream, question).await
        }
        None => converse(stream, question).await,
    }
}

async fn secure(mut stream: TcpStream, host: &str, authority: &str) -> Result<TlsStream<TcpStream>, Fault> {
    let unusable = |cause: &dyn std::error::Error| Fault::Certificate(cause.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.map_err(|cause| unusable(&cause))?;
        roots.add(certificate).map_err(|cause| unusable(&cause))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(&cause))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|cause| unusable(&cause))?;

    let mut request = 8_u32.to_be_bytes().to_vec();
    request.extend(TLS_REQUEST.to_be_bytes());
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => {}
        b'N' => return Err(Fault::NoTls),
        _ => {
            return Err(Fault::Protocol(
                "it answers a request for TLS with something else",
            ));
        }
    }
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(
        |error| match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(cause)) => Fault::Certificate(cause.to_string()),
            _ => Fault::Broken(error),
        },
    )
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &Question<'_>,
) -> Result<Row, Fault> {
    let mut session = Session {
        stream: BufReader::new(stream),
        left: MOST_BYTES,
    };
    session.log_in(question).await?;
    session.send(b'Q', &text(question.query)).await?;
    let mut answer = None;
    loop {
        let (kind, body) = session.receive().await?;
        match kind {
            b'D' if answer.is_none() => {
                answer = Some(row(&body).ok_or(Fault::Protocol("a row is malformed"))?)
            }
            b'D' => return Err(Fault::Protocol("it answers with more than one row")),
            b'T' | b'C' => {}
            b'Z' => break,
            _ => return Err(Fault::Protocol("it answers a query with something else")),
        }
    }
    // A good end. It has answered, whatever comes of this.
    session.send(b'X', &[]).await.ok();
    answer.ok_or(Fault::Protocol("it answers without a row"))
}

struct Session<S> {
    stream: BufReader<S>,
    /// How many bytes it may still say.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), Fault> {
        let mut message = vec![kind];
        message.extend(length(body)?);
        message.extend(body);
        self.stream.write_all(&message).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next message that is more than a remark.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), Fault> {
        loop {
            let kind = self.stream.read_u8().await?;
            let length = usize::try_from(self.stream.read_u32().await?).unwrap_or(usize::MAX);
            let length = length
                .checked_sub(4)
                .ok_or(Fault::Protocol("a message is too short"))?;
            let left = self.left.checked_sub(length).and_then(|left| left.checked_sub(5));
            self.left = left.ok_or(Fault::Protocol("it says too much"))?;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            match kind {
                b'E' => return Err(refusal(&body)),
                // A notice, a setting, a notification.
                b'N' | b'S' | b'A' => {}
                _ => return Ok((kind, body)),
            }
        }
    }

    async fn log_in(&mut self, question: &Question<'_>) -> Result<(), Fault> {
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        for (name, value) in [
            ("user", question.user),
            ("database", question.database),
            ("application_name", "toygres-health-check"),
            ("client_encoding", "UTF8"),
            ("options", question.options),
        ] {
            body.extend(text(name));
            body.extend(text(value));
        }
        body.push(0);
        let mut message = length(&body)?.to_vec();
        message.extend(body);
        self.stream.write_all(&message).await?;
        self.stream.flush().await?;
        loop {
            let (kind, body) = self.receive().await?;
            match (kind, body.split_first_chunk()) {
                (b'R', Some((code, body))) => match u32::from_be_bytes(*code) {
                    0 => {}
                    10 => self.prove(body, question.password).await?,
                    _ => {
                        return Err(Fault::Protocol(
                            "it asks for the password in a way that would tell it",
                        ));
                    }
                },
                // What would cancel a query.
                (b'K', _) => {}
                (b'Z', _) => return Ok(()),
                _ => return Err(Fault::Protocol("it answers a login with something else")),
            }
        }
    }

    /// Shows that the password is known, and has the server show the same, by SCRAM-SHA-256
    /// ([RFC 5802](https://www.rfc-editor.org/rfc/rfc5802), [RFC 7677](https://www.rfc-editor.org/rfc/rfc7677)).
    async fn prove(&mut self, mechanisms: &[u8], password: &Secret) -> Result<(), Fault> {
        const MECHANISM: &[u8] = b"SCRAM-SHA-256";
        if !mechanisms
            .split(|byte| *byte == 0)
            .any(|offered| offered == MECHANISM)
        {
            return Err(Fault::Protocol("it offers no SCRAM-SHA-256"));
        }
        let nonce = BASE64_STANDARD.encode(rand::random::<[u8; 18]>());
        // PostgreSQL takes the name from the login.
        let first = format!("n=,r={nonce}");
        let mut body = [MECHANISM, b"\0"].concat();
        body.extend((first.len() as u32 + 3).to_be_bytes());
        body.extend(format!("n,,{first}").as_bytes());
        self.send(b'p', &body).await?;

        let challenge = self.sasl(11).await?;
        let wrong = || Fault::Protocol("its challenge is malformed");
        let Challenge {
            nonce: both,
            salt,
            rounds,
        } = Challenge::parse(&challenge).ok_or_else(wrong)?;
        if !both.starts_with(&nonce) || both.len() == nonce.len() {
            return Err(Fault::Protocol("its challenge is for somebody else"));
        }
        if rounds > MOST_ROUNDS {
            return Err(Fault::Protocol("it asks for too much work to check the password"));
        }
        let salted = salted(password, &salt, rounds).await;
        let client_key = hmac(&salted, b"Client Key");
        let bare = format!("c=biws,r={both}");
        let signed = format!("{first},{challenge},{bare}");
        let signature = hmac(&Sha256::digest(client_key).into(), signed.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, byte)| key ^ byte)
            .collect();
        let last = format!("{bare},p={}", BASE64_STANDARD.encode(proof));
        self.send(b'p', last.as_bytes()).await?;

        let shown = self.sasl(12).await?;
        let shown = shown
            .strip_prefix("v=")
            .and_then(|text| BASE64_STANDARD.decode(text).ok());
        let expected = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
        if shown.is_none_or(|shown| shown != expected) {
            return Err(Fault::Protocol("it does not know the password itself"));
        }
        Ok(())
    }

    /// The text of the next message, which must be the one with this code.
    async fn sasl(&mut self, code: u32) -> Result<String, Fault> {
        let (kind, body) = self.receive().await?;
        body.strip_prefix(&code.to_be_bytes())
            .filter(|_| kind == b'R')
            .and_then(|text| String::from_utf8(text.to_vec()).ok())
            .ok_or(Fault::Protocol("it breaks off the exchange about the password"))
    }
}

/// What the server asks to be computed.
#[derive(Debug, PartialEq, Eq)]
struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    rounds: u32,
}

impl<'a> Challenge<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut part = |name| parts.next()?.strip_prefix(name);
        Some(Self {
            nonce: part("r=")?,
            salt: BASE64_STANDARD.decode(part("s=")?).ok()?,
            rounds: part("i=")?.parse().ok().filter(|rounds| *rounds > 0)?,
        })
    }
}

/// `Hi` of RFC 5802.
async fn salted(password: &Secret, salt: &[u8], rounds: u32) -> [u8; 32] {
    // As PostgreSQL does it: what can't be prepared is taken as it is.
    let prepared = stringprep::saslprep(password.reveal());
    let prepared = Secret::new(prepared.map_or_else(|_| password.reveal().clone(), Into::into));
    let keyed = keyed(prepared.reveal().as_bytes());
    let next = |message: &[&[u8]]| -> [u8; 32] {
        let mut mac = keyed.clone();
        message.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut block = next(&[salt, &1_u32.to_be_bytes()]);
    let mut sum = block;
    for round in 1..rounds {
        if round % ROUNDS_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
        block = next(&[&block]);
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // A key that is longer than a block stands for its hash (RFC 2104).
    let mut block = [0; 64];
    match block.get_mut(..key.len()) {
        Some(start) => start.copy_from_slice(key),
        None => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    <Hmac<Sha256> as KeyInit>::new((&block).into())
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// The length of a message, which counts itself.
fn length(body: &[u8]) -> Result<[u8; 4], Fault> {
    let length = u32::try_from(body.len() + 4);
    Ok(length
        .map_err(|_| Fault::Protocol("the question is too long"))?
        .to_be_bytes())
}

/// The SQLSTATE of an error. All else that it says is left out: a tenant can choose it.
fn refusal(body: &[u8]) -> Fault {
    let mut fields = body.split(|byte| *byte == 0);
    let state = fields.find_map(|field| field.strip_prefix(b"C"));
    match state.and_then(|state| str::from_utf8(state).ok()) {
        Some(state) if state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            Fault::Refused(state.to_owned())
        }
        _ => Fault::Protocol("an error has no SQLSTATE"),
    }
}

/// The values of a row, if it is one.
fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk()?;
        rest = behind;
        let value = match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let (value, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = behind;
                Some(str::from_utf8(value).ok()?.to_owned())
            }
        };
        values.push(value);
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_understood_or_refused(bytes: &[u8]) {
        row(bytes);
        refusal(bytes);
        if let Some(challenge) = Challenge::parse(&String::from_utf8_lossy(bytes)) {
            let salt = BASE64_STANDARD.encode(&challenge.salt);
            let printed = format!("r={},s={salt},i={}", challenge.nonce, challenge.rounds);
            assert_eq!(Challenge::parse(&printed), Some(challenge));
        }
    }

    #[test]
    fn fuzz_answer_of_a_server() {
        bolero::check!().for_each(is_understood_or_refused);
    }

    const PASSWORD: &str = "canary-password";

    /// Has a session with a server that says this, whatever it is told. It is not told the password, and what is taken
    /// of it can be shown.
    fn has_a_session(says: &[u8]) -> Option<(String, u64)> {
        let question = Question {
            user: "postgres",
            password: &Secret::new(PASSWORD.to_owned()),
            database: "postgres",
            options: "-c search_path=pg_catalog",
            query: "select 1",
        };
        let mut told = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(converse(tokio::io::join(says, &mut told), &question));
        assert!(
            !told
                .windows(PASSWORD.len())
                .any(|part| part == PASSWORD.as_bytes())
        );
        match answer.and_then(|row| crate::connection::understood(&row)) {
            Ok((version, identifier)) => {
                assert!(
                    version.len() <= 128 && !version.contains(char::is_control),
                    "{version:?}"
                );
                Some((version, identifier))
            }
            Err(Fault::Refused(state)) => {
                assert!(state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                None
            }
            Err(_) => None,
        }
    }

    #[test]
    fn fuzz_session() {
        bolero::check!().for_each(|bytes: &[u8]| {
            has_a_session(bytes);
        });
    }

    /// A message of this kind.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &length(body).ok().unwrap()[..], body].concat()
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_it_is_not_told_the_password(
            bytes: Vec<u8>,
            messages in proptest::collection::vec(
                ("[RKZTDCENSA1]", prop_oneof![
                    any::<Vec<u8>>(),
                    (0..13_u32, "(SCRAM-SHA-256|MD5)?\u{0}{0,2}").prop_map(|(code, rest)| {
                        [&code.to_be_bytes()[..], rest.as_bytes()].concat()
                    }),
                ]),
                0..9,
            ),
        ) {
            has_a_session(&bytes);
            let messages = messages.iter().map(|(kind, body)| message(kind.as_bytes()[0], body));
            has_a_session(&messages.collect::<Vec<_>>().concat());
        }

        #[test]
        fn what_an_honest_server_answers_is_understood(version in "[ -~]{0,130}", identifier: i64) {
            let number = identifier.to_string();
            let mut row = 2_u16.to_be_bytes().to_vec();
            for value in [&version, &number] {
                row.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                row.extend(value.as_bytes());
            }
            let says = [
                message(b'R', &[0; 4]), message(b'Z', b"I"), message(b'T', b""), message(b'D', &row),
                message(b'C', b"SELECT 1\0"), message(b'Z', b"I"),
            ];
            let answer = has_a_session(&says.concat());
            let wanted = (version.len() <= 128).then_some((version, identifier.cast_unsigned()));
            prop_assert_eq!(answer, wanted);
        }

        #[test]
        fn whatever_a_server_says_is_understood_or_refused(
            bytes: Vec<u8>, near in "r=[!-~]{0,9},s=[A-Za-z0-9+/]{0,8}={0,2},i=-?[0-9]{0,12}(,.*)?",
            values in proptest::collection::vec(proptest::option::of(".{0,9}"), 0..9), state in "[0-9A-Z]{5}",
        ) {
            is_understood_or_refused(&bytes);
            is_understood_or_refused(near.as_bytes());
            let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
            for value in &values {
                let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
                body.extend(length.to_be_bytes());
                body.extend(value.iter().flat_map(|value| value.bytes()));
            }
            prop_assert_eq!(row(&body), Some(values));
            let refused = refusal(format!("SERROR\0C{state}\0Mcanary\0\0").as_bytes());
            prop_assert!(matches!(refused, Fault::Refused(told) if told == state));
        }
    }
}
