#!/usr/bin/env bash
# Kills (SIGKILL) the control plane and all databases of this home at once, when nothing else helps. Only what toygres
# itself has started: each recorded process id must still be that of the server that holds the home's lock, or of a
# PostgreSQL at work in one of its directories. Data stays; PostgreSQL recovers it from its log at the next start.
#
#   scripts/force-kill-all.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

killed=0
# kill_tree WHAT PID
kill_tree() {
    local tree
    mapfile -t tree < <(descendants "$2")
    kill -KILL "${tree[@]}" 2>/dev/null || true
    wait_ended 10 "${tree[@]}" || fail "$1 (pid $2) can't be killed" "run this as the user that started it"
    say "killed $1 (pid $2, ${#tree[@]} processes)"
    killed=$((killed + 1))
}

# The server first, or it would start again what is killed.
if pid=$(server_pid); then kill_tree "the server" "$pid"; fi
while read -r pid directory; do
    # Killed with the server, if it was its child.
    if is_running "$pid"; then kill_tree "PostgreSQL in $directory" "$pid"; fi
done < <(recorded_postgres control && recorded_postgres 'instances/*')

if [[ $killed -eq 0 ]]; then
    say "nothing of $(toygres_home) runs"
else
    say "start again: ./toygres server start"
fi
