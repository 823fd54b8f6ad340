#!/usr/bin/env bash
# Has libFuzzer look for inputs that break a parser's promise, led by what of its code each of them reaches.
#
#   scripts/fuzz.sh                                  every target, a minute each
#   scripts/fuzz.sh --seconds 600 fuzz_words fuzz_body
#   scripts/fuzz.sh --list
#
# A target is a test named fuzz_... that calls bolero::check!; `cargo test` gives it random input for a moment. Inputs
# that reached something new stay in target/fuzz/corpus for the next time; one that breaks a promise is printed, stays in
# target/fuzz/failures, and ends the script. What is built is built into target/fuzz, the first time for a long time:
# all that toygres is made of is built so that it tells what of it was reached.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

seconds=60 list=false wanted=()
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --seconds)
            seconds=${2:?--seconds needs a number}
            shift
            ;;
        --list) list=true ;;
        -*) fail "unknown argument $1" "$0 --help" ;;
        *) wanted+=("$1") ;;
    esac
    shift
done

need_packages cc pkg-config openssl jq
need_toolchain
cd "$ROOT"

# Package and name of each.
all=$(grep -rhoE --include='*.rs' 'fn fuzz_[a-z_]+\(' --with-filename toygres-*/src |
    sed -n 's/^\([^/]*\).*:fn \(.*\)($/\1 \2/p' | sort)
if [[ $list == true ]]; then
    printf '%s\n' "$all"
    exit
fi
for name in ${wanted[@]+"${wanted[@]}"}; do
    grep -q " $name\$" <<<"$all" || fail "there is no target $name" "$0 --list"
done

# Those of the wanted ones, else of all.
mapfile -t scope < <(while read -r package name; do
    if [[ ${#wanted[@]} -eq 0 || " ${wanted[*]} " == *" $name "* ]]; then echo "--package=$package"; fi
done <<<"$all" | sort -u)
output=$(target_directory)/fuzz
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# As bolero's own program builds (cargo-bolero 0.13), which would build each package for itself, with all its other
# tests and examples. Without a sanitizer, which only nightly compilers have: there is no unsafe code here.
flags='--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module'
for what in inline-8bit-counters level=4 pc-table trace-compares stack-depth; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$what"
done
step "Building"
# For a target, so that what runs while it is built is not built so.
host=$(rustc -vV | sed -n 's/^host: //p')
executables=$(BOLERO_FUZZER=libfuzzer RUSTFLAGS=$flags cargo test --locked --quiet --profile fuzz --all-features \
    --lib --bins "${scope[@]}" --target "$host" --target-dir "$output" --no-run \
    --message-format=json-render-diagnostics |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test).executable')

# Package, path of the test and program of each, as the library says.
targets=$(for executable in $executables; do
    CARGO_BOLERO_SELECT=all "$executable" fuzz_ --nocapture
done | jq -Rr 'fromjson? | select(.__bolero_target) | "\(.package_name) \(.test_name) \(.exe)"' | sort)

while read -r package test executable; do
    name=${test##*::}
    if [[ ${#wanted[@]} -gt 0 && " ${wanted[*]} " != *" $name "* ]]; then continue; fi
    step "$package: $name, for $seconds s"
    corpus=$output/corpus/$name failures=$output/failures/$name
    mkdir -p "$corpus" "$failures"
    if ! (
        cd "$package"
        BOLERO_TEST_NAME=$test BOLERO_LIBTEST_HARNESS=1 \
            BOLERO_LIBFUZZER_ARGS="$corpus $failures -artifact_prefix=$failures/ -timeout=10 -max_total_time=$seconds" \
            "$executable" "$test" --exact --nocapture --quiet --test-threads 1
    ) </dev/null >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        fail "$name: a promise is broken" "see above; the input is in $failures"
    fi
    sed -n 's/^#\([0-9]*\)\tDONE *cov: \([0-9]*\) .*/    \1 inputs, \2 edges of its code reached/p' "$log" | grep . ||
        fail "$name was not run" "$(tail -n 5 "$log")"
done <<<"$targets"
