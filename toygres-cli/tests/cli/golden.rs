//! What each command prints, and how it exits, in files that people can read: `tests/golden/*.txt`.
//!
//! A file that no longer fits is written anew beside the other build products; the failure says where.

use crate::support::{Ran, fake, toygres};
use std::path::Path;

const URL: &str = "http://api.example:999";
const HOME: &str = "/home/some/body";

/// Runs the commands one after the other on one home, and compares what comes of them with the file of that name.
#[track_caller]
fn golden(name: &str, commands: &str) {
    let api = fake::start();
    // Columns are as wide as what is in them: what stands for an address or a path has its length.
    let home = tempfile::tempdir_in("/tmp").unwrap();
    let mut transcript = String::new();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let ran = run(line, &api.url, home.path());
        transcript.push_str(&format!("$ {line}\nexit {}\n", ran.code));
        for (stream, text) in [("stdout", &ran.out), ("stderr", &ran.err)] {
            if !text.is_empty() {
                transcript.push_str(&format!("--- {stream}\n{text}"));
            }
        }
        transcript.push('\n');
    }
    let home = home.path().display().to_string();
    assert_eq!((api.url.len(), home.len()), (URL.len(), HOME.len()));
    let transcript = transcript
        .replace(&api.url, URL)
        .replace(&home, HOME)
        .replace(env!("CARGO_PKG_VERSION"), "VERSION");
    compare(&format!("tests/golden/{name}.txt"), &without_now(&transcript));
}

#[track_caller]
fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if golden == text {
        return;
    }
    let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path.file_name().unwrap());
    std::fs::write(&new, text).unwrap();
    let differs = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    panic!(
        "{file} does not fit any more, from line {} on; if it is right so: cp {} {}",
        differs.unwrap_or(golden.lines().count()) + 1,
        new.display(),
        path.display()
    );
}

/// `VARIABLE=value ... toygres arguments`, where `{API}` and `{HOME}` stand for what they are in this test.
fn run(line: &str, api: &str, home: &Path) -> Ran {
    let line = line
        .replace("{API}", api)
        .replace("{HOME}", &home.display().to_string());
    let (variables, arguments) = line.split_once("toygres ").unwrap();
    let mut command = toygres(home);
    command
        .env("TOYGRES_API_URL", api)
        .args(arguments.split_whitespace());
    for variable in variables.split_whitespace() {
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value);
    }
    command.output().unwrap().into()
}

/// Times that are not the fixed ones of the answers become `NOW`.
fn without_now(text: &str) -> String {
    let year = chrono::Utc::now().format("%Y-").to_string();
    let is_time = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 'T' | 'Z');
    let mut parts = text.split(&year);
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push_str("NOW");
        out.push_str(part.trim_start_matches(is_time));
    }
    out
}

#[test]
fn golden_instances() {
    golden(
        "instances",
        "toygres create demo
         toygres create demo -o json
         toygres create demo --wait
         toygres create demo --timeout 5m
         toygres create test --count 2
         toygres create test --count 2 --wait
         toygres create test --count 1 --wait -o yaml
         toygres list
         toygres list -o wide
         toygres list --filter none* --tag team=web --user-name web -o yaml
         toygres list --filter none*
         toygres get demo
         toygres get demo --show-health
         toygres get demo -o yaml
         toygres status demo
         toygres status demo -o json
         toygres update demo --tag team=web --remove-tag old --deletion-protection on
         toygres connect demo
         toygres connect demo --show-password -o json
         toygres list --filter sec* -o wide
         toygres get secure
         toygres connect secure
         toygres ca
         toygres ca -o json
         toygres health demo
         toygres events demo
         toygres events demo -o yaml
         toygres logs demo
         toygres delete demo
         toygres delete demo --force
         toygres delete demo --force --wait
         toygres delete test-1 test-2
         toygres delete test-1 test-2 --force",
    );
}

#[test]
fn golden_operations() {
    golden(
        "operations",
        "toygres operations
         toygres operations --instance demo --state succeeded --kind create
         toygres operations 01890a5d-ac96-774b-bcce-b302099a8057
         toygres operations 01890a5d-ac96-774b-bcce-b302099a8057 -o json
         toygres operations 01890a5d-ac96-774b-bcce-b302099a8057 --retry
         toygres operations 01890a5d-0000-774b-bcce-b302099a8057
         toygres operations demo
         toygres operations --retry",
    );
}

#[test]
fn golden_server() {
    golden(
        "server",
        "toygres version
         toygres server status
         toygres server stats
         toygres server stats -o yaml
         toygres server workers
         toygres server workers -o wide
         toygres server config
         toygres server config -o json
         TOYGRES_TOKEN=it's toygres server env
         TOYGRES_TOKEN=it's toygres server env --show-secrets
         toygres server logs
         toygres server logs --orchestration actor-6f2c4b8e-0000-4000-8000-000000000001-1
         toygres server logs -f
         toygres server drift
         toygres server drift --fix
         toygres server drift --fix --force
         toygres server audit
         toygres server audit --actor token:ci --action create_instance --instance demo -o wide",
    );
}

#[test]
fn golden_orchestrations() {
    golden(
        "orchestrations",
        "toygres server orchestrations
         toygres server orchestrations --limit 1
         toygres server orchestrations --status running --name instance-actor --instance demo --prefix actor- -o wide
         toygres server orchestration actor-6f2c4b8e-0000-4000-8000-000000000001-1
         toygres server orchestration actor-6f2c4b8e-0000-4000-8000-000000000001-1 --history --execution 1
         toygres server orchestration actor-6f2c4b8e-0000-4000-8000-000000000001-1 --history -o json
         toygres server orchestration none
         toygres server cancel sub::1
         toygres server cancel sub::1 --force --reason=late
         toygres server cancel actor-6f2c4b8e-0000-4000-8000-000000000001-1 --force
         toygres server raise-event actor-1
         toygres server recreate actor-1
         toygres server recreate actor-1 --force
         toygres server flows
         toygres server flows create-instance",
    );
}

#[test]
fn golden_access() {
    golden(
        "access",
        "toygres token create ci --scope write --expires-in-days 90
         toygres token create ci --scope all
         toygres token list
         toygres token list -o wide
         toygres token revoke ci
         toygres token revoke ci --force
         toygres token revoke none --force
         toygres quota list
         toygres quota set web --max-instances 10
         toygres quota set web
         toygres quota remove web",
    );
}

#[test]
fn golden_contexts() {
    golden(
        "contexts",
        "toygres context list
         TOYGRES_API_URL= toygres context show
         TOYGRES_API_URL= toygres context add prod
         toygres context add prod --api-url ftp://x
         toygres context add prod --api-url https://db.example.org --token-file {HOME}/token --ca-cert {HOME}/ca.pem
         toygres context add prod --api-url https://db.example.org --token-file {HOME}/token --ca-cert {HOME}/ca.pem --force
         toygres context add clear --api-url http://db.example.org --token-file {HOME}/token
         toygres context remove clear
         toygres context add test --api-url {API}
         toygres context add test --api-url {API}
         toygres context list
         toygres context show -o json
         toygres context use tset
         toygres context use test
         TOYGRES_API_URL= toygres server config
         TOYGRES_API_URL= toygres list
         toygres list --context prod
         toygres context remove test
         toygres context list -o yaml",
    );
}

#[test]
fn golden_errors() {
    golden(
        "errors",
        "TOYGRES_API_URL=http://127.0.0.1:1 toygres list
         TOYGRES_API_URL=http://127.0.0.1:1 toygres server config
         TOYGRES_API_URL=https://127.0.0.1:1 toygres list
         TOYGRES_API_URL=http://user:secret@127.0.0.1:1 toygres list
         toygres get slow --request-timeout 1s
         toygres get shoq
         toygres logs shoq
         toygres events missing
         toygres update shoq --tag a=b
         toygres get nodb
         toygres create taken
         toygres delete guarded --force
         toygres update changed --tag a=b
         toygres update demo
         toygres list --filter locked
         TOYGRES_TOKEN=wrong toygres list
         TOYGRES_TOKEN=reader toygres create demo
         toygres list --filter busy
         toygres list --filter once
         toygres list --context nowhere
         toygres list --ca-cert {HOME}/none.pem
         toygres events
         toygres get No_Name
         toygres lst",
    );
}

/// Every command's help, in one document. What is the same everywhere stands there once.
#[test]
fn golden_documentation() {
    let mut text = "# Commands\n\nWhat `--help` says, made from the program: `cargo test -p toygres-cli golden` says how \
                    to renew it. The global options and the exit codes hold for every command.\n"
        .to_owned();
    help(&mut Vec::new(), &mut text);
    compare("../docs/cli.md", &text);
}

fn help(path: &mut Vec<String>, text: &mut String) {
    let home = tempfile::tempdir().unwrap();
    let ran: Ran = toygres(home.path())
        .args(&*path)
        .arg("--help")
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 0, "{path:?}");
    let words: Vec<&str> = std::iter::once("toygres")
        .chain(path.iter().map(String::as_str))
        .collect();
    text.push_str(&format!("\n## {}\n\n```text\n", words.join(" ")));
    for paragraph in paragraphs(&ran.out) {
        if path.is_empty() || !paragraph.starts_with("Global options:") {
            text.push_str(&format!("{paragraph}\n\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text.push_str("\n```\n");
    let commands = ran.out.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // Deeper lines go on with what the one before says.
    for line in commands.filter(|line| !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            path.push(name.to_owned());
            help(path, text);
            path.pop();
        }
    }
}

/// Each begins with a line that is not indented. No white space at ends of lines.
fn paragraphs(help: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut after_gap = true;
    for line in help.lines().map(str::trim_end) {
        let begins = after_gap && !line.is_empty() && !line.starts_with(' ');
        match paragraphs.last_mut() {
            Some(last) if !begins => *last += &format!("\n{line}"),
            _ => paragraphs.push(line.to_owned()),
        }
        after_gap = line.is_empty();
    }
    paragraphs
        .iter()
        .map(|paragraph| paragraph.trim_end().to_owned())
        .collect()
}

#[test]
fn golden_completions_and_manual_pages_know_every_command() {
    let home = tempfile::tempdir().unwrap();
    let out = |arguments: &[&str]| -> String {
        let ran: Ran = toygres(home.path()).args(arguments).output().unwrap().into();
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&["completions", shell]);
        assert!(
            script.contains("raise-event") && script.contains("completions"),
            "{shell}"
        );
    }
    let page = out(&["man"]);
    assert!(
        page.contains(".TH toygres 1") && page.contains("toygres\\-token(1)"),
        "{page}"
    );
    let page = out(&["man", "server", "drift"]);
    assert!(
        page.contains("toygres\\-server\\-drift") && page.contains("Put right"),
        "{page}"
    );
    let unknown: Ran = toygres(home.path())
        .args(["man", "nothing"])
        .output()
        .unwrap()
        .into();
    assert_eq!(unknown.code, 2);
}
