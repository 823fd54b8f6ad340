//! The sockets under the API: TLS, limits and an end in good order, by real connections.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{Response, header};
use axum::routing::get;
use futures_util::stream;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;
use toygres_models::ErrorKind;
use toygres_server::transport::{Tls, TransportLimits, serve};
use toygres_testing::{TestHome, wait_for};

/// Nothing that is expected to happen takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A time limit that a test runs into.
const SHORT: Duration = Duration::from_millis(250);
/// A time limit that no test may run into.
const LONG: Duration = Duration::from_secs(600);
const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Every limit out of the way, for a test to set its own.
fn no_limits() -> TransportLimits {
    TransportLimits {
        handshake: LONG,
        head: LONG,
        idle: LONG,
        write: LONG,
        ..TransportLimits::default()
    }
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<()>,
    /// A request for `/wait` has come.
    waits: Arc<Notify>,
    /// Lets it go on.
    go_on: Arc<Notify>,
    /// The body of `/endless` was dropped.
    dropped: mpsc::UnboundedReceiver<()>,
}

impl Server {
    async fn start(tls: Option<Tls>, limits: TransportLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, tls, limits, LONG)
    }

    fn on(listener: TcpListener, tls: Option<Tls>, limits: TransportLimits, grace: Duration) -> Self {
        let (waits, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (drops, dropped) = mpsc::unbounded_channel();
        let wait = {
            let (waits, go_on) = (waits.clone(), go_on.clone());
            async move || {
                waits.notify_one();
                go_on.notified().await;
                "waited"
            }
        };
        let router = Router::new()
            .route(
                "/",
                get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
            )
            .route("/wait", get(wait))
            .route("/big", get(async || Bytes::from_static(&[b'x'; 8 << 20])))
            .route("/endless", get(async move || endless(drops)));
        let stop = CancellationToken::new();
        Self {
            address: listener.local_addr().unwrap(),
            served: tokio::spawn(serve(listener, router, tls, limits, stop.clone(), grace)),
            stop,
            waits,
            go_on,
            dropped,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Whether it answers a client that has nothing to do with any other.
    async fn assert_serves(&self) {
        let answer = exchange(&mut self.connect().await, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.served.abort();
    }
}

fn endless(drops: mpsc::UnboundedSender<()>) -> Response<Body> {
    struct SayDropped(mpsc::UnboundedSender<()>);
    impl Drop for SayDropped {
        fn drop(&mut self) {
            self.0.send(()).ok();
        }
    }
    let chunks = stream::unfold(SayDropped(drops), async |drops| {
        Some((Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 64 << 10])), drops))
    });
    Response::new(Body::from_stream(chunks))
}

/// Sends a request and reads the answer, whose length is in its head; the connection stays open.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut answer = String::new();
        loop {
            if let Some((head, body)) = answer.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if length.is_none_or(|length| length.parse::<usize>().unwrap() <= body.len()) {
                    return answer;
                }
            }
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "closed after {answer:?}");
            answer.push_str(str::from_utf8(&buffer[..read]).unwrap());
        }
    };
    timeout(PATIENCE, read).await.expect("no answer")
}

/// Waits until the server closes. What still comes is thrown away.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    let read = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    timeout(PATIENCE, read).await.expect("still open");
}

/// A certificate authority, and the files of a server's certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    home: TestHome,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            home: TestHome::new(),
        }
    }

    /// A new certificate for `localhost` and its key, as PEM text.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Puts a pair in its place, as the first or instead of the one before.
    fn renew(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue();
        (self.write("tls.crt", &certificate), self.write("tls.key", &key))
    }

    fn tls(&self) -> Tls {
        let (certificate, key) = self.renew();
        Tls::load(&certificate, &key).unwrap()
    }

    /// A client that trusts this authority.
    async fn connect(&self, server: &Server) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = connector.connect("localhost".try_into().unwrap(), server.connect().await);
        timeout(PATIENCE, handshake).await.expect("no handshake")
    }

    /// The certificate that a new connection is shown; it serves, too.
    async fn shown(&self, server: &Server) -> CertificateDer<'static> {
        let mut stream = self.connect(server).await.unwrap();
        assert!(exchange(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// What all tests log, some of it on threads that belong to none of them: each counts what only it can cause.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn get() -> &'static Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_writer(move || writer.clone())
                .init();
            log
        });
        &LOG
    }

    fn count(&self, texts: [&str; 2]) -> usize {
        let log = self.0.lock().unwrap();
        let lines = str::from_utf8(&log).unwrap().lines();
        lines
            .filter(|line| texts.iter().all(|text| line.contains(text)))
            .count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_is_told_the_address_of_its_peer() {
    let server = Server::start(None, no_limits()).await;
    let mut stream = server.connect().await;
    let own = stream.local_addr().unwrap().to_string();
    assert!(exchange(&mut stream, GET).await.ends_with(&own));
}

#[tokio::test]
async fn tls_is_spoken_with_whoever_trusts_the_certificate() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.tls()), no_limits()).await;
    let mut stream = authority.connect(&server).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let own = stream.get_ref().0.local_addr().unwrap().to_string();
    assert!(exchange(&mut stream, GET).await.ends_with(&own));
    assert!(Authority::new().connect(&server).await.is_err());
}

#[tokio::test]
async fn http_without_tls_on_a_tls_port_is_closed_and_does_no_harm() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.tls()), no_limits()).await;
    let mut plain = server.connect().await;
    plain.write_all(GET.as_bytes()).await.unwrap();
    closed(&mut plain).await;
    authority.shown(&server).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let log = Log::get();
    let authority = Authority::new();
    let server = Server::start(Some(authority.tls()), no_limits()).await;
    let mut open = authority.connect(&server).await.unwrap();
    let first = authority.shown(&server).await;
    assert_eq!(authority.shown(&server).await, first);

    let (certificate, key) = authority.issue();
    authority.write("tls.crt", &certificate);
    assert_eq!(
        authority.shown(&server).await,
        first,
        "half of a pair was put in place"
    );
    authority.write("tls.key", &key);
    let second = authority.shown(&server).await;
    assert_ne!(second, first);

    for _ in 0..3 {
        let broken = authority.write("tls.crt", "broken");
        assert_eq!(authority.shown(&server).await, second);
        std::fs::remove_file(broken).unwrap();
        assert_eq!(authority.shown(&server).await, second);
        assert_eq!(authority.shown(&server).await, second);
    }
    // Once a change, not once a handshake.
    let home = authority.home.path().to_str().unwrap();
    assert_eq!(log.count(["the TLS certificate in use stays", home]), 7);
    authority.renew();
    assert_ne!(authority.shown(&server).await, second);
    assert!(exchange(&mut open, GET).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn files_that_are_no_pair_are_named_with_what_is_wrong() {
    let authority = Authority::new();
    let (certificate, key) = authority.renew();
    let missing = authority.home.path().join("missing");
    let empty = authority.write("empty", "");
    let (_, other) = authority.issue();
    let other = authority.write("other", &other);
    let text = std::fs::read_to_string(&key).unwrap();
    let one_line = authority.write("one line", &text.replace('\n', ""));
    let cut = authority.write("cut", &text[..100]);
    let not_der = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    let bad_certificate = authority.write("bad certificate", &not_der("CERTIFICATE"));
    let bad_key = authority.write("bad key", &not_der("PRIVATE KEY"));
    for (certificate, key, file, what) in [
        (&missing, &key, &missing, "can't be read: entity not found"),
        (
            &certificate,
            &missing,
            &missing,
            "can't be read: entity not found",
        ),
        (&empty, &key, &empty, "no certificate in it"),
        (&key, &key, &key, "no certificate in it"),
        (&certificate, &empty, &empty, "no private key in it"),
        (&certificate, &certificate, &certificate, "no private key in it"),
        (
            &certificate,
            &other,
            &other,
            "not the key of the first certificate",
        ),
        (&certificate, &one_line, &one_line, "not all of it"),
        (&certificate, &cut, &cut, "not all of it"),
        (
            &bad_certificate,
            &key,
            &bad_certificate,
            "certificate in it is malformed",
        ),
        (&certificate, &bad_key, &bad_key, "key in it is malformed"),
    ] {
        let error = Tls::load(certificate, key).err().expect(what);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Config, "bad_tls"));
        let message = error.message();
        assert!(
            message.contains(&format!("{}: ", file.display())),
            "{message} {what}"
        );
        assert!(message.contains(what), "{message}: {what}");
        // Every key begins alike, so with the second line; as text, and as the numbers that bytes are printed as.
        let secret = text.lines().nth(2).unwrap();
        let numbers = format!("{:?}", secret.as_bytes());
        let said = format!("{error:?} {}", error.detail());
        assert!(!said.contains(secret), "{what}");
        assert!(!said.contains(numbers.trim_matches(['[', ']'])), "{what}");
    }
}

#[tokio::test]
async fn a_tls_handshake_may_not_take_long() {
    let authority = Authority::new();
    let limits = TransportLimits {
        // One that goes well may take its time, too.
        handshake: SHORT * 12,
        ..no_limits()
    };
    let server = Server::start(Some(authority.tls()), limits).await;
    closed(&mut server.connect().await).await;
    authority.shown(&server).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off_while_others_are_served() {
    let limits = TransportLimits {
        head: SHORT,
        ..no_limits()
    };
    let server = Server::start(None, limits).await;
    // Also when a request was served in good time before.
    for requests_before in [0, 1] {
        let mut stream = server.connect().await;
        for _ in 0..requests_before {
            exchange(&mut stream, GET).await;
        }
        let (mut reader, mut writer) = stream.into_split();
        let begun = Instant::now();
        let drip = tokio::spawn(async move {
            while writer.write_all(b"x").await.is_ok() {
                sleep(SHORT / 20).await;
            }
        });
        server.assert_serves().await;
        closed(&mut reader).await;
        assert!(begun.elapsed() >= SHORT / 2);
        drip.await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take_but_not_for_ever() {
    let limits = TransportLimits {
        head: SHORT,
        idle: SHORT * 16,
        ..no_limits()
    };
    let server = Server::start(None, limits).await;
    let mut silent = server.connect().await;
    let mut used = server.connect().await;
    for _ in 0..2 {
        exchange(&mut used, GET).await;
        sleep(SHORT * 2).await;
    }
    let begun = Instant::now();
    exchange(&mut used, GET).await;
    closed(&mut silent).await;
    closed(&mut used).await;
    assert!(begun.elapsed() >= SHORT * 15);
}

#[tokio::test]
async fn a_head_too_large_is_answered_431() {
    let limits = TransportLimits {
        head_bytes: 16 << 10,
        head_fields: 20,
        ..no_limits()
    };
    let server = Server::start(None, limits).await;
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n");
    let bytes = |bytes: usize| with(&format!("x: {}\r\n", "x".repeat(bytes)));
    for (request, status) in [
        (bytes(15 << 10), "200"),
        (bytes(16 << 10), "431"),
        (bytes(1 << 20), "431"),
        (with(&"x: x\r\n".repeat(19)), "200"),
        (with(&"x: x\r\n".repeat(20)), "431"),
    ] {
        let (mut reader, mut writer) = server.connect().await.into_split();
        // The server does not read all of it.
        let sent = tokio::spawn(async move { writer.write_all(request.as_bytes()).await.map(|()| writer) });
        let answer = answer(&mut reader).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        sent.abort();
    }
}

#[tokio::test]
async fn what_is_not_http_is_answered_400() {
    let server = Server::start(None, no_limits()).await;
    let mut stream = server.connect().await;
    let answer = exchange(&mut stream, "\u{1}nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let limits = TransportLimits {
        write: SHORT,
        ..no_limits()
    };
    let request = GET.replace("/ ", "/endless ");
    let mut server = Server::start(None, limits.clone()).await;
    let mut plain = server.connect().await;
    plain.write_all(request.as_bytes()).await.unwrap();
    timeout(PATIENCE, server.dropped.recv())
        .await
        .expect("still sent");
    closed(&mut plain).await;

    let authority = Authority::new();
    let mut server = Server::start(Some(authority.tls()), limits).await;
    let mut stream = authority.connect(&server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    timeout(PATIENCE, server.dropped.recv())
        .await
        .expect("still sent");
}

#[tokio::test]
async fn a_peer_that_reads_slowly_gets_all_of_it() {
    let write = SHORT * 6;
    let limits = TransportLimits { write, ..no_limits() };
    let server = Server::start(None, limits).await;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // What is on the way must not be all of it.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&server.address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(socket.into()).unwrap();
    let request = "GET /big HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let (begun, mut received) = (Instant::now(), 0);
    let mut buffer = vec![0; 512 << 10];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match stream.read(&mut buffer[filled..]).await.unwrap() {
                0 => break,
                read => filled += read,
            }
        }
        received += filled;
        if filled < buffer.len() {
            break;
        }
        sleep(write / 10).await;
    }
    assert!(received > 8 << 20, "{received}");
    assert!(begun.elapsed() > write);
}

#[tokio::test]
async fn connections_over_the_most_allowed_wait_for_their_turn() {
    let log = Log::get();
    let limits = TransportLimits {
        connections: 2,
        ..no_limits()
    };
    let server = Server::start(None, limits).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    exchange(&mut first, GET).await;
    exchange(&mut second, GET).await;
    let mut third = server.connect().await;
    third.write_all(GET.as_bytes()).await.unwrap();
    assert!(
        timeout(SHORT, third.readable()).await.is_err(),
        "it was not made to wait"
    );
    exchange(&mut second, GET).await;
    drop(first);
    answer(&mut third).await;
    drop(second);
    server.assert_serves().await;
    assert_eq!(log.count(["2 connections are open", "the most allowed"]), 1);
}

/// Starts itself again, to be alone in its process: the other tests need file descriptors.
#[tokio::test]
async fn a_system_that_refuses_to_accept_is_asked_again_after_a_pause() {
    let own_name = "a_system_that_refuses_to_accept_is_asked_again_after_a_pause";
    let alone = ["--exact", own_name];
    if !std::env::args().skip(1).take(2).eq(alone) {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args(alone).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let log = Log::get();
    let server = Server::start(None, no_limits()).await;
    // The system lets it in, whether it is accepted or not.
    let waiting = std::net::TcpStream::connect(server.address).unwrap();
    let limit = getrlimit(Resource::Nofile);
    let next_free = waiting.try_clone().unwrap().as_raw_fd();
    let none_left = Rlimit {
        current: Some(next_free.try_into().unwrap()),
        ..limit
    };
    setrlimit(Resource::Nofile, none_left).unwrap();
    let refusals = || log.count(["can't accept a connection", "os error 24"]);
    wait_for("a refusal", PATIENCE, async || (refusals() > 0).then_some(())).await;
    sleep(SHORT).await;
    assert_eq!(refusals(), 1);

    setrlimit(Resource::Nofile, limit).unwrap();
    waiting.set_nonblocking(true).unwrap();
    exchange(&mut TcpStream::from_std(waiting).unwrap(), GET).await;
}

#[tokio::test]
async fn a_request_that_has_begun_ends_after_the_stop_and_nothing_else_begins() {
    let mut server = Server::start(None, no_limits()).await;
    let mut idle = server.connect().await;
    exchange(&mut idle, GET).await;
    let mut silent = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(GET.replace("/ ", "/wait ").as_bytes())
        .await
        .unwrap();
    server.waits.notified().await;

    server.stop.cancel();
    closed(&mut idle).await;
    closed(&mut silent).await;
    wait_for("no more to be accepted", PATIENCE, async || {
        TcpStream::connect(server.address).await.err()
    })
    .await;
    assert!(!server.served.is_finished());
    server.go_on.notify_one();
    let answer = answer(&mut busy).await;
    assert!(answer.ends_with("waited"), "{answer}");
    assert!(
        answer.contains(&format!("{}: close", header::CONNECTION)),
        "{answer}"
    );
    closed(&mut busy).await;
    timeout(PATIENCE, &mut server.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handshake_does_not_hold_up_the_stop() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.tls()), no_limits()).await;
    let mut silent = server.connect().await;
    let mut idle = authority.connect(&server).await.unwrap();
    exchange(&mut idle, GET).await;
    server.stop.cancel();
    closed(&mut silent).await;
    closed(&mut idle).await;
    timeout(PATIENCE, &mut server.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_that_outlive_the_grace_time_are_dropped_and_counted() {
    let log = Log::get();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut server = Server::on(listener, None, no_limits(), SHORT);
    let mut busy = [server.connect().await, server.connect().await];
    for stream in &mut busy {
        stream
            .write_all(GET.replace("/ ", "/wait ").as_bytes())
            .await
            .unwrap();
        server.waits.notified().await;
    }
    let begun = Instant::now();
    server.stop.cancel();
    timeout(PATIENCE, &mut server.served).await.unwrap().unwrap();
    assert!(begun.elapsed() >= SHORT);
    for stream in &mut busy {
        closed(stream).await;
    }
    assert_eq!(
        log.count(["2 connections with unfinished requests", "dropped"]),
        1
    );
}
