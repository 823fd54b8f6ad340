#!/usr/bin/env bash
# Tests the API's contract from outside: the document is valid, and schemathesis finds over all its operations no answer
# that the document does not declare, no request against it that is accepted, and no 5xx. Prints schemathesis' summary.
#
#   scripts/contract.sh [ARGUMENTS OF schemathesis run]
#   scripts/contract.sh --seed 7 --max-examples 200
#
# Left out are the two streams of events, which do not end; toygres-server/tests/api/streams.rs tests them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in -h | --help)
    usage
    exit
    ;;
esac

# How long the server may take to start.
start_limit=60

need_packages cc pkg-config openssl postgres python3
need_toolchain
cd "$ROOT"

# ---- schemathesis, once for each list of versions ----

requirements=$ROOT/scripts/contract/requirements.txt
python=$(target_directory)/contract-$(sha256sum "$requirements" | cut -c 1-12)
if [[ ! -e $python/installed ]]; then
    step "Installing schemathesis"
    rm -rf "$python"
    mkdir -p "$(target_directory)"
    python3 -m venv "$python" ||
        fail "python3 can't make a virtual environment" "apt-get install -y python3-venv"
    "$python/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    touch "$python/installed"
fi

step "The document"
"$python/bin/python" -m openapi_spec_validator docs/openapi.json

# ---- A server, which ends with its standard input ----

step "Building a server without instances of its own"
cargo build --locked --quiet --package toygres-server --example stub_server
work=$(mktemp -d /tmp/toygres-contract.XXXXXX)
chmod 755 "$work"
mkdir -m 1777 "$work/tmp"
mkfifo "$work/in"
token=tgr_of-the-contract-test
printf '%s' "$token" >"$work/token"
TMPDIR=$work/tmp "$(target_directory)/debug/examples/stub_server" TOYGRES_RATE_LIMIT_PER_SECOND=1000000 \
    TOYGRES_CREATE_DEADLINE_SECONDS=5 "TOYGRES_BOOTSTRAP_TOKEN_FILE=$work/token" \
    <"$work/in" >"$work/out" 2>"$work/log" &
server=$!
exec {keep}>"$work/in"

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    exec {keep}>&-
    wait "$server" || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

deadline=$((SECONDS + start_limit))
until [[ -s $work/out ]]; do
    if ! is_running "$server" || [[ $SECONDS -ge $deadline ]]; then
        fail "the server does not start: $(tail -n 3 "$work/log")"
    fi
    sleep 0.1
done
url=$(cut -d ' ' -f 1 "$work/out")

step "schemathesis"
status=0
# It keeps what it finds where it is started.
cd "$work"
"$python/bin/schemathesis" --config-file "$ROOT/scripts/contract/schemathesis.toml" run "$url/api/openapi.json" \
    --header "Authorization: Bearer $token" --request-timeout 20 --seed 1 --max-examples 20 --no-color \
    --exclude-path /api/events --exclude-path '/api/operations/{id}/events' "$@" >"$work/report" 2>&1 || status=$?
if [[ $status -eq 0 ]]; then
    # Only how it went: what it met on its way is for failures.
    sed -n '/=== SUMMARY/,$p' "$work/report"
else
    cat "$work/report"
    say "error: the API does not keep its contract"
fi
exit "$status"
