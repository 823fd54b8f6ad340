#!/usr/bin/env bash
# Proves that the observability stack works without containers: starts it on free ports with a home of its own, runs a
# server that exports to it, makes and deletes a database, finds it in Prometheus, Loki and Tempo, has Loki lose everything
# and sends it again from the log file, breaks components, stops everything, and makes sure that nothing is left.
#
#   scripts/e2e-observability.sh [--program PATH] [--ask PATH [--table FILE]]
#
#   --program PATH  the program toygres; else it is built
#   --ask PATH      the example "ask" of toygres-dashboards: also makes sure that no panel is without data
#   --table FILE    where it writes what each panel has been answered
#
# Needs what scripts/install-observability.sh installs, and installs it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

program='' ask='' table=/dev/null
while [[ $# -gt 0 ]]; do
    case $1 in
        --program)
            program=${2:?--program needs a path}
            shift
            ;;
        --ask)
            ask=${2:?--ask needs a path}
            shift
            ;;
        --table)
            table=${2:?--table needs a file}
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

need_packages curl jq openssl postgres
"$ROOT/scripts/install-observability.sh" >/dev/null
[[ -n $program ]] || program=$(build_program)

# How long, in seconds, what was told may take to be found everywhere: a trace is stored 45 s after its first span.
found_limit=120

# Ports that are free now, in the range that systems do not give away by themselves.
next_port=$((15000 + RANDOM % 4000))
free_port() {
    while (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do next_port=$((next_port + 1)); done
    export "$1=$next_port"
    next_port=$((next_port + 1))
}
for name in COLLECTOR_{GRPC,HTTP,PROMETHEUS,TELEMETRY,HEALTH} PROMETHEUS LOKI LOKI_GRPC TEMPO TEMPO_GRPC TEMPO_OTLP GRAFANA; do
    free_port "TOYGRES_${name}_PORT"
done
free_port listen
# Listened to by nobody that is asked: the host's variables are not meant for this.
unset TOYGRES_LOKI_ENDPOINT TOYGRES_TEMPO_ENDPOINT DATABASE_URL
# shellcheck disable=SC2154 # free_port sets it
export TOYGRES_LISTEN=127.0.0.1:$listen
TOYGRES_LOCAL_PORTS=$next_port-$((next_port + 50))
export TOYGRES_LOCAL_PORTS
# PostgreSQL's user must be able to go there.
TOYGRES_HOME=$(mktemp -d /tmp/toygres-e2e-observability.XXXXXX)
chmod 755 "$TOYGRES_HOME"
export TOYGRES_HOME
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"
innocent=

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    local status=$? name
    trap '' INT TERM
    if [[ $status -ne 0 && $status -ne 130 ]]; then
        for name in "${components[@]}"; do
            say "the end of $name's log:" "$(tail -n 5 "$(stack_home)/$name/log" 2>/dev/null | cut -c 1-400)"
        done
    fi
    [[ -z $innocent ]] || kill "$innocent" 2>/dev/null || true
    "$ROOT/scripts/force-kill-all.sh" 2>/dev/null || true
    "$ROOT/scripts/stop-observability.sh" --volumes 2>/dev/null || true
    rm -rf "$TOYGRES_HOME"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# off WHAT SAID
off() {
    say "$2"
    fail "$1"
}
# expect WHAT TEXT PATTERN
expect() {
    # shellcheck disable=SC2053 # it is meant as a pattern
    [[ $2 == $3 ]] || fail "$1: expected $3, and it is: $2"
}
run() { "$ROOT/scripts/$1" "${@:2}" 2>&1; }
get() { curl -fsSG --noproxy '*' -m 10 "$@"; }
# found WHAT COMMAND...: waits until the command prints something other than 0.
found() {
    local what=$1 deadline=$((SECONDS + found_limit)) answer
    shift
    until answer=$("$@" 2>/dev/null) && [[ -n $answer && $answer != 0 ]]; do
        [[ $SECONDS -lt $deadline ]] || fail "$what is not found after $found_limit s"
        sleep 1
    done
    say "$what: $answer"
}
samples() {
    get "$prometheus_url/api/v1/query" --data-urlencode "query=$1" | jq -r '.data.result[0].value[1] // 0'
}
lines() {
    get "$loki_url/loki/api/v1/query_range" --data-urlencode "query=$1" --data-urlencode limit=5000 \
        --data-urlencode "start=$(($(date +%s) - 3600))" | jq '[.data.result[].values | length] | add // 0'
}
spans() { get "$tempo_url/api/traces/$1" | jq '[.batches[].scopeSpans[].spans[]] | length'; }
traces() { get "$tempo_url/api/search" --data-urlencode "q=$1" --data-urlencode limit=20 | jq -r '.traces[0].traceID // 0'; }

step "A start, with a port that is taken, a configuration that is wrong, and another's process id"
mkdir -p "$(stack_home)/prometheus"
sleep 600 &
innocent=$!
echo "$innocent" >"$(stack_home)/prometheus/pid"
taken=$TOYGRES_COLLECTOR_GRPC_PORT
said=$(TOYGRES_LOKI_GRPC_PORT=none run start-observability.sh --native) && off "it says that nothing is wrong" "$said"
expect "a configuration" "$said" "*error: loki: it has ended*none*"
expect "what else runs" "$said" "*ready: otel-collector*ready: prometheus*"
said=$(TOYGRES_LOKI_PORT=$taken run start-observability.sh --native) && off "it says that nothing is wrong" "$said"
expect "a port" "$said" "*error: loki: port $taken is taken by *set TOYGRES_LOKI_PORT to another port*"

step "A start, and another"
said=$(run start-observability.sh --native)
for name in loki tempo otel-collector prometheus; do expect "a start" "$said" "*ready: $name,*"; done
said=$(run start-observability.sh --native)
expect "another" "$said" "*nothing to start*"
said=$(run observability-status.sh) && off "all is well without a server" "$said"
expect "without a server" "$said" "*FAIL  toygres: no server runs on*"
listening=$(ss -Hltnp | grep -E "pid=($(for name in loki tempo otel-collector prometheus; do component_pid "$name"; done |
    paste -sd '|')),") || fail "nothing listens"
expect "listening beyond loopback: none" "$(grep -vcE ' (127\.0\.0\.1|\[::1\]):' <<<"$listening" || true)" 0

step "A server that exports, and a database"
export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:$TOYGRES_COLLECTOR_GRPC_PORT
"$program" server start >&2
# Of ordinary traces one in ten is kept: those whose id has a second half that can be divided by ten.
trace=$(openssl rand -hex 8)000000000000000a
curl -fsS --noproxy '*' -o /dev/null -H "traceparent: 00-$trace-00f067aa0ba902b7-01" -H 'Content-Type: application/json' \
    -d '{"name": "shop"}' "$(cat "$TOYGRES_HOME/server.url")/api/instances"
is_there() { "$program" get shop -o json | jq -r 'select(.state == "running") | .name'; }
found "the database" is_there
"$program" delete shop --force --wait >/dev/null
"$program" create kept --wait >/dev/null

step "It is found everywhere"
found "operations, in Prometheus" samples 'sum(toygres_operations_total{service_name="toygres"})'
found "spans, in Prometheus" samples 'sum(traces_spanmetrics_calls_total{service_name="toygres"})'
found "lines of the database, in Loki" lines '{service_name="toygres", deployment_environment_name="local"} | instance_name="shop"'
found "its trace's spans, in Tempo" spans "$trace"
found "its orchestration, in Tempo" traces '{resource.service.name="toygres" && name=~".*create-instance.*"}'
found "lines of that trace, in Loki" lines "{service_name=\"toygres\"} | trace_id=\"$trace\""
expect "labels" "$(get "$loki_url/loki/api/v1/labels" | jq -r '.data - ["__stream_shard__", "__time_shard__"] |
    join(" ")')" "deployment_environment_name service_name"
said=$(run observability-status.sh) || off "not all is well" "$said"
say "$said"
expect "health" "$(run verify-health.sh)" "*passed*"

if [[ -n $ask ]]; then
    step "Every panel of every dashboard has data"
    deadline=$((SECONDS + found_limit))
    # Rates need some samples.
    until said=$("$ask" --prometheus "$prometheus_url" --loki "$loki_url" --tempo "$tempo_url" --markdown "$table" 2>&1 >/dev/null); do
        [[ $SECONDS -lt $deadline ]] || off "panels are without data after $found_limit s" "$said"
        sleep 5
    done
    say "$said"
fi

step "A component is killed"
kill -KILL "$(component_pid prometheus)"
wait_ended 5 "$(recorded_pid "$(stack_home)/prometheus/pid")"
said=$(run observability-status.sh) && off "all is well without Prometheus" "$said"
expect "without Prometheus" "$said" "*FAIL  prometheus: it does not run*"
expect "a start" "$(run start-observability.sh --native)" "*ready: prometheus,*"

step "Loki loses everything, and gets it from the file"
"$program" server stop >&2
"$ROOT/scripts/stop-observability.sh"
rm -r "$(stack_home)/loki/data"
"$ROOT/scripts/start-observability.sh" --native
before=$(lines '{service_name="toygres"}')
expect "lines" "$before" 0
run push-logs-to-loki.sh --older-than 0 >&2
sent=$(lines '{service_name="toygres"} | level=~".+"')
expect "lines of the file, and in Loki" "$(cat "$TOYGRES_HOME"/server.*.log | wc -l)" "$sent"
found "lines of that trace, again" lines "{service_name=\"toygres\"} | trace_id=\"$trace\""
expect "a second time" "$(run push-logs-to-loki.sh --older-than 0)" "*sent, as Loki did not have them: 0"

step "An end, of which nothing is left"
"$ROOT/scripts/stop-control-plane.sh" --all
expect "a stop" "$(run stop-observability.sh --volumes)" "nothing of the observability stack runs*"
is_running "$innocent" || fail "another's process was ended"
for name in $(for component in "${components[@]}"; do component_ports "$component"; done); do
    if is_listening "${!name}"; then fail "something still listens at port ${!name}, $name"; fi
done
[[ ! -e $(stack_home) ]] || fail "$(stack_home) is still there"
say "all of it works, after $SECONDS s"
