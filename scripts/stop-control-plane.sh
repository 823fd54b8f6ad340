#!/usr/bin/env bash
# Stops the control plane of this machine, and the observability stack with it. Databases go on, unless they are to stop
# too; all data stays in any case.
#
#   scripts/stop-control-plane.sh [--all]
#
#   --all  also stops the databases: a clean, fast shutdown of each PostgreSQL that toygres has started
#
# The next start of the server starts them again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The server finishes what it has begun, and stops its embedded database.
server_limit=60
postgres_limit=60

all=''
case ${1:-} in
    '') ;;
    --all) all=yes ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

# Fast shutdown: sessions are ended, everything is written. All at once, then all are waited for.
stop_postgres() {
    local pid directory pids=()
    while read -r pid directory; do
        kill -INT "$pid" 2>/dev/null || continue
        say "stopping ${directory#"$(postgres_home)"/} (pid $pid)"
        pids+=("$pid")
    done < <(recorded_postgres "$1")
    [[ ${#pids[@]} -eq 0 ]] || wait_ended "$postgres_limit" "${pids[@]}" ||
        fail "a PostgreSQL has not ended after $postgres_limit s" "scripts/force-kill-all.sh"
    stopped=${#pids[@]}
}

if pid=$(server_pid); then
    say "stopping the server (pid $pid)"
    kill -TERM "$pid"
    wait_ended "$server_limit" "$pid" ||
        fail "the server (pid $pid) has not ended after $server_limit s" "scripts/force-kill-all.sh"
else
    say "no server runs on $(toygres_home)"
fi
# Left behind only by a server that was killed.
stop_postgres control
# After the server, which sends what it still has.
status=0
if [[ -d $(toygres_home)/observability ]]; then "$ROOT/scripts/stop-observability.sh" || status=1; fi
if [[ -n $all ]]; then
    stop_postgres 'instances/*'
    say "stopped; databases stopped: $stopped; their data is kept in $(postgres_home)/instances"
else
    running=$(recorded_postgres 'instances/*' | wc -l)
    say "stopped; databases still running: $running"
fi
exit "$status"
