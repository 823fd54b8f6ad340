#!/usr/bin/env bash
# Has libFuzzer look for inputs that break a parser's promise, led by what of its code each of them reaches.
#
#   scripts/fuzz.sh                                  every target, a minute each
#   scripts/fuzz.sh --seconds 600 fuzz_words fuzz_body
#   scripts/fuzz.sh --list
#
# A target is a test named fuzz_... that calls bolero::check!; `cargo test` gives it random input for a moment. Inputs
# that reached something new stay in target/fuzz/corpus for the next time; one that breaks a promise is printed, stays in
# target/fuzz/failures, and ends the script. What is built is built into target/fuzz.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$(dirname "${BASH_SOURCE[0]}")/tools.sh"

# Of the same release as the library, which speaks with it.
bolero_version=0.13.5

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

need_packages cc pkg-config openssl
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

tools=$(tools_directory)/bolero-$bolero_version
if [[ ! -x $tools/bin/cargo-bolero ]]; then
    step "Installing cargo-bolero $bolero_version"
    cargo install cargo-bolero --version "=$bolero_version" --locked --quiet --no-default-features \
        --features libfuzzer --root "$tools" >&2
fi
PATH=$PATH:$tools/bin
output=$(target_directory)/fuzz
log=$(mktemp)
trap 'rm -f "$log"' EXIT

while read -r package name; do
    if [[ ${#wanted[@]} -gt 0 && " ${wanted[*]} " != *" $name "* ]]; then continue; fi
    step "$package: $name, for $seconds s"
    mkdir -p "$output/corpus/$name" "$output/failures/$name"
    # Without a sanitizer, which only nightly compilers have: there is no unsafe code here.
    if ! cargo bolero test --package "$package" "$name" --rustc-bootstrap --sanitizer NONE -T "${seconds}s" \
        --target-dir "$output" --corpus-dir "$output/corpus/$name" --crashes-dir "$output/failures/$name" \
        </dev/null >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        fail "$name: a promise is broken, or it could not be built" "see above; the input is in $output/failures/$name"
    fi
    sed -n 's/^#\([0-9]*\)\tDONE *cov: \([0-9]*\) .*/    \1 inputs, \2 edges of its code reached/p' "$log"
done <<<"$all"
