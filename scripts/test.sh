#!/usr/bin/env bash
# Installs what the tests need and runs them all. Arguments go to cargo test:
#
#   scripts/test.sh                        everything, the observability stack (scripts/e2e-observability.sh), and the
#                                          API's contract (scripts/contract.sh)
#   scripts/test.sh -p toygres-cms         one crate
#   scripts/test.sh -p toygres-cli -- ls   the tests with "ls" in their name
#
# A test that is skipped prints a line "SKIPPED: name: why", or appends it to the file named by TOYGRES_TEST_SKIPS.
# They are listed at the end; with CI=true one that is not in scripts/allowed-skips.txt fails the run, and with
# TOYGRES_TEST_NO_SKIPS=true each does. The tests that need a Kubernetes cluster are skipped: scripts/e2e-kubernetes.sh
# runs those.
# Fails also if a process of the tests is left running; such are killed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in -h | --help)
    usage
    exit
    ;;
esac

# How long the keepers of a test's servers may take to clear up after the test has ended.
clear_up_limit=20

need_packages cc pkg-config openssl postgres psql curl jq script faketime
need_toolchain
cd "$ROOT"

scope=(--workspace)
for argument in "$@"; do
    case $argument in
        --) break ;;
        -p | -p?* | --package | --package=* | --workspace) scope=() ;;
    esac
done

# The real receivers of telemetry. Where one can't be had, the tests that ask it say that they are skipped.
programs=$(scripts/install-observability.sh) || true
while IFS='=' read -r name path; do
    if [[ -n $path ]]; then export "TOYGRES_TEST_${name^^}=$path"; fi
done <<<"$programs"

# Every process of this run is known by the mark in its environment, or, where a program is started with an environment
# of its own, by the directory that it works in. PostgreSQL's user must be able to go there.
run_id=$$-$RANDOM$RANDOM
work=$(mktemp -d /tmp/toygres-test.XXXXXX)
chmod 755 "$work"
mkdir -m 1777 "$work/tmp"
log=$work/log skips=$work/skips
touch "$log" "$skips"

leftovers() {
    {
        grep -lzsFx "TOYGRES_TEST_RUN=$run_id" /proc/[0-9]*/environ || true
        local process
        for process in /proc/[0-9]*; do
            [[ $(readlink "$process/cwd" 2>/dev/null) != "$work/tmp/"* ]] || echo "$process/cwd"
        done
    } | cut -d / -f 3 | sort -un | while read -r pid; do if is_running "$pid"; then echo "$pid"; fi; done
}

kill_leftovers() {
    local pids
    mapfile -t pids < <(leftovers)
    [[ ${#pids[@]} -eq 0 ]] || kill -KILL "${pids[@]}" 2>/dev/null || true
}

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    kill_leftovers
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

step "cargo test ${scope[*]-} $*"
# To a file that is followed, not to a pipe: a process left behind would keep a pipe open for ever.
TOYGRES_TEST_RUN=$run_id TOYGRES_TEST_SKIPS=$skips TMPDIR=$work/tmp \
    cargo test ${scope[@]+"${scope[@]}"} --all-features --locked --no-fail-fast "$@" >"$log" 2>&1 &
cargo=$!
tail -n +1 -s 0.2 -f --pid="$cargo" "$log" &
tail=$!
# Waited for, not run: a signal to this script is heard at once.
status=0
wait "$cargo" || status=$?
wait "$tail" || true

deadline=$((SECONDS + clear_up_limit))
while [[ -n $(leftovers) && $SECONDS -lt $deadline ]]; do sleep 0.2; done
mapfile -t left < <(leftovers)
if [[ ${#left[@]} -gt 0 ]]; then
    say "error: the tests left running (killed now):"
    for pid in "${left[@]}"; do say "  $pid $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"; done
    kill_leftovers
    status=1
else
    say "left running: nothing"
fi

# may_skip NAME: whether scripts/allowed-skips.txt has a pattern that fits.
may_skip() {
    local pattern
    [[ ${TOYGRES_TEST_NO_SKIPS:-} != true ]] || return 1
    [[ ${CI:-} == true ]] || return 0
    while read -r pattern; do
        # shellcheck disable=SC2053 # it is meant as a pattern
        if [[ $1 == $pattern ]]; then return; fi
    done < <(sed 's/ *#.*//; /^$/d' scripts/allowed-skips.txt)
    return 1
}

if [[ $# -eq 0 ]]; then
    if [[ -n ${TOYGRES_TEST_LOKI:-} && -n ${TOYGRES_TEST_TEMPO:-} ]]; then
        step "The observability stack"
        built=$(target_directory)/debug
        scripts/e2e-observability.sh --program "$built/toygres" --ask "$built/examples/ask" || status=1
    else
        echo "e2e-observability: Loki or Tempo can't be had on this machine" >>"$skips"
    fi
fi

mapfile -t skipped < <({
    cat "$skips"
    grep -a '^SKIPPED: ' "$log" || true
} | sed 's/^SKIPPED: //' | sort -u)
for skip in ${skipped[@]+"${skipped[@]}"}; do
    say "SKIPPED: $skip"
    name=${skip%%: *}
    if ! may_skip "$name"; then
        say "error: $name must not be skipped in this run; scripts/allowed-skips.txt says what may be in CI"
        status=1
    fi
done

if [[ $# -eq 0 ]]; then
    step "The API's contract"
    scripts/contract.sh || status=1
fi

# The sums of cargo test's own lines. A test that skips itself counts there as passed.
count() { sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)
if [[ $status -ne 0 && $failed -eq 0 ]]; then failed=1; fi
echo "tests: $((passed - ${#skipped[@]})) passed, $failed failed, $((${#skipped[@]} + ignored)) skipped"
exit "$status"
