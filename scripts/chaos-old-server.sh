#!/usr/bin/env bash
# Builds the server of the fault suite as it was at an older revision, and prints where the program is: with that in
# TOYGRES_CHAOS_OLD_SERVER the suite has servers of both versions work on one database.
#
#   scripts/chaos-old-server.sh [REVISION]
#
# Without REVISION: the latest tag, else the commit before this one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
    -*) fail "unknown argument $1" "$0 --help" ;;
esac

need_toolchain
cd "$ROOT"
wanted=${1:-$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || echo HEAD^)}
revision=$(git rev-parse --verify --quiet "$wanted^{commit}") ||
    fail "there is no revision $wanted" "in a shallow clone: git fetch --unshallow"
git cat-file -e "$revision:toygres-chaos/Cargo.toml" 2>/dev/null ||
    fail "$wanted has no fault suite" "$0 with a later revision"

# Output of its own: cargo takes crates of two checkouts in one place for the same, and mixes them up.
old=$(target_directory)/chaos-old
program=$old/chaos-server-$revision
if [[ ! -x $program ]]; then
    step "Building the server of $wanted (${revision:0:12})"
    mkdir -p "$old/source"
    rm -rf "${old:?}/source"/*
    git archive "$revision" | tar -x -C "$old/source"
    (cd "$old/source" && CARGO_TARGET_DIR=$old/target cargo build --locked -p toygres-chaos --bin chaos-server >&2)
    cp "$old/target/debug/chaos-server" "$program"
fi
printf '%s\n' "$program"
