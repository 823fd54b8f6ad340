#!/usr/bin/env bash
# Sets up and starts the control plane on this machine: checks what is needed, installs what is missing (with apt on
# Debian and Ubuntu as root; elsewhere it says what to install), builds, starts, waits until it is ready.
#
#   scripts/start-control-plane.sh [--demo] [--name NAME]
#
#   --demo       also makes a first database, or takes the one that is there, and proves it with a query
#   --name NAME  the name of that database (demo)
#
# TOYGRES_HOME and the other variables of the README's table are honoured.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

demo='' name=demo
while [[ $# -gt 0 ]]; do
    case $1 in
        --demo) demo=yes ;;
        --name)
            name=${2:?--name needs a name}
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) fail "unknown argument $1" "$0 --help" ;;
    esac
    shift
done

step "Checking what is needed"
need_packages cc pkg-config openssl postgres psql curl
need_toolchain
program=$(TOYGRES_BUILD_PROGRESS=yes build_program)

step "Starting"
"$program" server start >&2
url=$("$program" server status -o json | sed -n 's/^ *"url": "\(.*\)",*$/\1/p')
curl -fsS "$url/readyz" >/dev/null || fail "the server at $url is not ready" "./toygres server status"

if [[ -n $demo ]]; then
    state() { "$program" get "$name" 2>/dev/null | sed -n 's/^state  *//p'; }
    step "A first database: $name"
    case $(state) in
        running | degraded) say "it is there already" ;;
        creating | updating)
            say "it is being made"
            deadline=$((SECONDS + 120))
            until [[ $(state) == running ]]; do
                [[ $SECONDS -lt $deadline ]] || fail "$name is not running after 120 s" "./toygres get $name" "./toygres operations"
                sleep 0.5
            done
            ;;
        *) "$program" create "$name" --wait >&2 ;;
    esac
    step "Its psql line, and a query"
    "$program" connect "$name"
    "$program" psql "$name" -- -X -P pager=off -c 'select version()'
fi

cat <<END

API     $url/api/instances
health  $url/health

next    ./toygres create shop --wait
        ./toygres list
        ./toygres psql shop
        ./toygres server status | logs -f | stop
        ./scripts/stop-control-plane.sh --all
END
