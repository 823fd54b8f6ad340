#!/usr/bin/env bash
# Stops the observability stack of this machine, in containers or not: only what scripts/start-observability.sh has started
# for this home. What it has stored stays, unless told otherwise.
#
#   scripts/stop-observability.sh [--volumes]
#
#   --volumes  also removes all metrics, logs, traces and settings of Grafana's that it has stored
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"

volumes=()
case ${1:-} in
    '') ;;
    --volumes) volumes=(--volumes) ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

# How long a component may take to write down what it has in memory. Tempo does not end at all if it was asked something
# in the half minute before; what it has is in its write-ahead log 15 s after the last span.
stop_limit=20
stack=$(stack_home)
if [[ -d $stack ]]; then
    exec 9>"$stack/lock"
    flock --wait 120 9 || fail "another start or stop of the stack has not ended for two minutes" "find it: fuser $stack/lock"
fi

stopped=()
# Against the order of the start, so that what the collector still has is taken.
for ((index = ${#components[@]} - 1; index >= 0; index--)); do
    name=${components[index]}
    pid=$(component_pid "$name") || continue
    kill -TERM "$pid" 2>/dev/null || true
    wait_ended "$stop_limit" "$pid" || {
        say "$name (pid $pid) has not ended after $stop_limit s: killed; what it has stored is kept"
        kill -KILL "$pid" 2>/dev/null || true
        wait_ended 10 "$pid" || fail "$name (pid $pid) can't be killed" "run this as the user that started it"
    }
    rm -f "$stack/$name/pid"
    stopped+=("$name")
done

others=
if [[ -e $stack/containers || (-e $stack/volumes && ${#volumes[@]} -gt 0) ]]; then
    has_compose || fail "Docker does not answer, and the stack's containers or volumes are there" \
        "start Docker, then run this again"
    output=$(compose down ${volumes[@]+"${volumes[@]}"} 2>&1 9>&-) || fail "the containers can't be stopped: $output"
    if [[ -e $stack/containers ]]; then
        # What they have stored is still Docker's, until it is told to remove that too.
        mv "$stack/containers" "$stack/volumes"
        stopped+=("the containers")
    fi
elif runs_in_containers; then
    others=yes
    say "the stack's containers run, and were not started for $(toygres_home): they are left alone"
fi
[[ ${#volumes[@]} -eq 0 ]] || rm -rf "$stack"

if [[ ${#stopped[@]} -gt 0 ]]; then
    say "stopped: $(printf '%s ' "${stopped[@]}")"
elif [[ -z $others ]]; then
    say "nothing of the observability stack runs"
fi
[[ ${#volumes[@]} -eq 0 ]] || say "what it had stored for $(toygres_home) is removed"
