//! Where tokens stand, and where they go.

use crate::support::canned::instance;
use crate::support::{Api, Ran, Reply, toygres};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn run(home: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut child = toygres(home)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap().into()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_token_in_the_configuration_is_for_its_owner_and_its_server_only() {
    let api = Api::start(|_| Reply::Json(200, json!([instance("demo")])));
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let add = ["context", "add", "here", "--api-url", &api.url, "--token-stdin"];
    assert_eq!(run(home, &add, "").code, 2, "there is none on standard input");
    assert_eq!(run(home, &add, "tgr_canary\n").code, 0);
    let file = home.join("config/toygres/config.toml");
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

    assert_eq!(run(home, &["list"], "").code, 0);
    assert_eq!(
        api.requests()[0].header("authorization"),
        Some("Bearer tgr_canary")
    );
    for command in [
        &["context", "list"][..],
        &["context", "show", "-o", "json"],
        &["server", "config"],
        &["server", "env"],
    ] {
        let ran = run(home, command, "");
        assert!(!format!("{ran:?}").contains("canary"), "{ran:?}");
    }
    let other = Api::start(|_| Reply::Json(200, json!([])));
    assert_eq!(run(home, &["list", "--api-url", &other.url], "").code, 0);
    assert_eq!(other.requests()[0].header("authorization"), None);

    allow(&file, 0o640);
    let ran = run(home, &["list"], "");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("but others can read it\n  next: chmod 600 "),
        "{ran:?}"
    );
    std::fs::write(&file, "[contexts.here]\napi_url = 1\ntoken = 'tgr_canary'\n").unwrap();
    let ran = run(home, &["list"], "");
    assert!(ran.code == 2 && !ran.err.contains("canary"), "{ran:?}");
}

#[test]
fn a_token_file_is_for_its_owner_only() {
    let api = Api::start(|_| Reply::Json(200, json!([])));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "tgr_from-file\n").unwrap();
    let path = file.to_str().unwrap();
    let add = [
        "context",
        "add",
        "here",
        "--api-url",
        &api.url,
        "--token-file",
        path,
    ];
    assert_eq!(run(home.path(), &add, "").code, 0);
    allow(&file, 0o604);
    let ran = run(home.path(), &["list"], "");
    assert!(
        ran.code == 2 && ran.err.contains(&format!("chmod 600 {path}")),
        "{ran:?}"
    );
    assert!(api.requests().is_empty());
    allow(&file, 0o400);
    assert_eq!(run(home.path(), &["list"], "").code, 0);
    assert_eq!(
        api.requests()[0].header("authorization"),
        Some("Bearer tgr_from-file")
    );
}

#[test]
fn the_bootstrap_token_is_printed_once_and_kept_as_a_hash() {
    let home = tempfile::tempdir().unwrap();
    let home = &home.path().join("not-made-yet");
    let file = home.join("bootstrap-token.sha256");
    let made = run(home, &["server", "bootstrap-token"], "");
    assert_eq!(made.code, 0, "{made:?}");
    let token = made.out.strip_suffix('\n').unwrap();
    let text = token.strip_prefix("tgr_").unwrap();
    let url_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert!(text.len() == 43 && text.chars().all(url_safe), "{token}");
    assert!(!made.err.contains(token));
    let hash = |token: &str| format!("{:x}\n", Sha256::digest(token));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), hash(token));
    assert_eq!(mode(&file), 0o600);

    let again = run(home, &["server", "bootstrap-token"], "");
    assert_eq!((again.code, again.out.as_str()), (2, ""));
    assert!(
        again.err.contains("toygres server bootstrap-token --force"),
        "{again:?}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), hash(token));
    let forced = run(home, &["server", "bootstrap-token", "--force"], "");
    assert_ne!(forced.out, made.out);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), hash(forced.out.trim()));
    assert_eq!(run(home, &["server", "bootstrap-token", "--remove"], "").code, 0);
    assert!(!file.exists());
    assert_eq!(run(home, &["server", "bootstrap-token", "--remove"], "").code, 0);
}

/// A server with a certificate of its own, ended with the test.
struct Tls(Child);

impl Drop for Tls {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::KILL).ok();
        self.0.wait().ok();
    }
}

#[test]
fn https_trusts_the_authority_that_was_named_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext".split(' '))
        .args("subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem".split(' '))
        .current_dir(home)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::create_dir(home.join("api")).unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
    std::fs::write(home.join("api/instances"), answer).unwrap();
    let mut server = Command::new("openssl")
        .args("s_server -accept 127.0.0.1:0 -key key.pem -cert cert.pem -HTTP".split(' '))
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let _server = Tls(server);
    let address = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned))
        .unwrap();

    let url = format!("https://{address}");
    let ran = run(home, &["list", "--api-url", &url], "");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.contains("certificate") && ran.err.contains("--ca-cert FILE"),
        "{ran:?}"
    );
    let certificate = home.join("cert.pem");
    let trusted = [
        "list",
        "-o",
        "json",
        "--api-url",
        &url,
        "--ca-cert",
        certificate.to_str().unwrap(),
    ];
    let ran = run(home, &trusted, "");
    assert_eq!((ran.code, ran.out.as_str()), (0, "[]\n"), "{ran:?}");
}
