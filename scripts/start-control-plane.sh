#!/usr/bin/env bash
# Sets up and starts the control plane on this machine: checks what is needed, installs what is missing (with apt on
# Debian and Ubuntu as root; elsewhere it says what to install), builds, starts, waits until it is ready.
#
#   scripts/start-control-plane.sh [--demo] [--name NAME] [--no-observability]
#
#   --demo              also makes a first database, or takes the one that is there, and proves it with a query
#   --name NAME         the name of that database (demo)
#   --no-observability  without the observability stack
#
# What is here already of the observability stack, container images or programs, is started too
# (scripts/start-observability.sh), and the server exports to it, unless OTEL_EXPORTER_OTLP_ENDPOINT says where to.
# TOYGRES_HOME and the other variables of the README's table are honoured.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"

demo='' name=demo observability=yes
while [[ $# -gt 0 ]]; do
    case $1 in
        --demo) demo=yes ;;
        --name)
            name=${2:?--name needs a name}
            shift
            ;;
        --no-observability) observability='' ;;
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

if [[ -n $observability ]]; then
    if has_command docker || installed_component otel-collector >/dev/null; then
        # What is wrong with it is said, and does not keep the server from running.
        "$ROOT/scripts/start-observability.sh" --installed || say "the server runs without what is missing of it"
        if is_healthy otel-collector && { runs_natively || runs_in_containers; }; then
            export OTEL_EXPORTER_OTLP_ENDPOINT=${OTEL_EXPORTER_OTLP_ENDPOINT:-http://localhost:$TOYGRES_COLLECTOR_GRPC_PORT}
        fi
    else
        say "without observability: neither Docker nor scripts/install-observability.sh's programs are there"
    fi
fi

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
$(if is_healthy grafana; then echo "Grafana $grafana_url"; fi)
next    ./toygres create shop --wait
        ./toygres list
        ./toygres psql shop
        ./toygres server status | logs -f | stop
        ./scripts/stop-control-plane.sh --all
END
