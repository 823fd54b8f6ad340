//! The Kubernetes cluster that tests may use.

use std::io::Write;
use std::path::PathBuf;

#[allow(
    clippy::disallowed_methods,
    reason = "what only tests read is no configuration of the server"
)]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The kubeconfig of the cluster for tests: `TOYGRES_TEST_KUBECONFIG`. `None` without one, after saying that the test
/// of this name (`kubernetes::file::test`) is skipped.
pub fn kubeconfig(test: &str) -> Option<PathBuf> {
    needed(test, "TOYGRES_TEST_KUBECONFIG")
}

/// The script that crashes and starts the programs of that cluster's node: `TOYGRES_TEST_DEVCLUSTER`. `None` as there.
pub fn devcluster(test: &str) -> Option<PathBuf> {
    needed(test, "TOYGRES_TEST_DEVCLUSTER")
}

/// What this variable of `scripts/test.sh` names. `None` without it, after saying that the test of this name is skipped.
pub fn needed(test: &str, name: &str) -> Option<PathBuf> {
    let found = variable(name);
    if found.is_none() {
        let line = format!("SKIPPED: {test}: {name} is not set\n");
        match variable("TOYGRES_TEST_SKIPS") {
            // One write of one line: tests of several processes append to the same file.
            Some(file) => std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(file)
                .unwrap()
                .write_all(line.as_bytes())
                .unwrap(),
            None => eprint!("{line}"),
        }
    }
    found
}
