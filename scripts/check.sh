#!/usr/bin/env bash
# Checks everything that is not a test: format, lints, documentation, scripts, golden files, the rules of the
# architecture that can be searched for, and Prometheus' configuration with its rules. Runs all checks, then says which
# failed.
#
#   scripts/check.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

need_packages cc pkg-config openssl shellcheck
need_toolchain
cd "$ROOT"
failed=()

# check NAME COMMAND...
check() {
    local name=$1
    shift
    step "$name"
    "$@" || failed+=("$name")
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked --quiet; }

scripts() {
    shellcheck -x toygres .ci/run scripts/*.sh scripts/devcluster/devcluster scripts/devcluster/image/*.sh deploy/image/*.sh
}

# A golden file that no longer fits is a failing test with "golden" in its name.
golden() {
    local output
    output=$(cargo test --workspace --all-features --locked --quiet -- golden 2>&1) || {
        say "$output"
        return 1
    }
}

# forbidden WHY PATTERN FILE...: fails where the pattern stands outside a comment.
forbidden() {
    local why=$1 pattern=$2 found
    shift 2
    found=$(grep -rnE --include='*.rs' -- "$pattern" "$@" | grep -vE '^[^:]*:[0-9]*: *//') || return 0
    say "$why:" "$found"
    return 1
}

architecture() {
    local status=0 sources
    forbidden "an HTTP handler calls the service, nothing beneath it" '\b(sqlx|kube|duroxide)\b' toygres-server/src/http ||
        status=1
    # What only tests read is no configuration.
    mapfile -t sources < <(find toygres-*/src -name '*.rs' ! -path 'toygres-testing/*' ! -path 'toygres-chaos/*' ! -path toygres-server/src/config.rs)
    forbidden "the environment is read in toygres-server/src/config.rs only" 'env::vars?(_os)?\b' "${sources[@]}" || status=1
    forbidden "the command line sees the server by HTTP only" '\b(sqlx|toygres_(cms|engine|platform|activities|orchestrations))\b' \
        toygres-cli/src || status=1
    return "$status"
}

# With the rules' own tests: what they compute of made-up series, and when each alert fires.
prometheus() {
    local programs status=0
    programs=$(prometheus_programs) || return 1
    "$programs/promtool" check config --lint-fatal observability/prometheus.yml || status=1
    "$programs/promtool" check rules --lint-fatal observability/prometheus-rules.yml || status=1
    (cd observability/tests && "$programs/promtool" test rules rules_test.yml) || status=1
    return "$status"
}

check "format" cargo fmt --all --check
check "scripts" scripts
check "architecture" architecture
check "Prometheus" prometheus
check "lints" cargo clippy --workspace --all-targets --all-features --locked --quiet -- -D warnings
check "documentation" documentation
check "golden files" golden

if [[ ${#failed[@]} -gt 0 ]]; then
    say "failed:$(printf ' %s;' "${failed[@]}")"
    exit 1
fi
say "all checks are good"
