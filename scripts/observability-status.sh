#!/usr/bin/env bash
# Checks the observability stack and toygres, a line for each check: containers or processes, ports, health, what
# Prometheus scrapes and its rules, Grafana's data sources, how old the newest sample, log line and trace are, the server
# and its PostgreSQL. What is not installed is said, and counted apart.
#
#   scripts/observability-status.sh [--quiet]
#
#   --quiet  only what fails, and the sum
#
# Exit code: 0 all have passed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"

failing_only=
case ${1:-} in
    '') ;;
    --quiet) failing_only=yes ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac
for command in curl jq; do
    has_command "$command" || fail "missing: $command" "install it with this system's package manager, then run this again"
done

# What is told at one end may take so long to be found at the other, in seconds: 10 s export, 10 s batch, 15 s scrape.
sample_limit=45
log_limit=45
scrape_limit=20
# Of ordinary traces only one in ten is kept.
trace_limit=900
passed=0 checked=0 absent=()

# pass WHAT DETAIL, miss WHAT WHY [NEXT]
pass() {
    passed=$((passed + 1)) checked=$((checked + 1))
    [[ -n $failing_only ]] || printf 'ok    %s: %s\n' "$1" "$2"
}
miss() {
    checked=$((checked + 1))
    printf 'FAIL  %s: %s\n' "$1" "$2"
    [[ -z ${3:-} ]] || printf '      next: %s\n' "$3"
}
get() { curl -fsSG --noproxy '*' -m 10 "$@" 2>&1; }
# ask QUERY: the first value of Prometheus's answer, or nothing.
ask() { get "$prometheus_url/api/v1/query" --data-urlencode "query=$1" | jq -r '.data.result[0].value[1] // empty' 2>/dev/null; }

check_component() {
    local name=$1 pid variable state
    if [[ -n $containers ]]; then
        state=$(docker inspect -f '{{.State.Status}}{{with .State.Health}}, {{.Status}}{{end}}' "toygres-$name" 2>&1) || state=absent
        # Docker asks for its health for the first time after ten seconds; it is asked below too.
        if [[ $state == running || $state == "running, healthy" || $state == "running, starting" ]]; then
            pass "$name" "container toygres-$name: $state"
        else
            miss "$name" "container toygres-$name: $state" "docker logs toygres-$name; scripts/start-observability.sh"
        fi
    elif pid=$(component_pid "$name"); then
        pass "$name" "process $pid"
    elif ! installed_component "$name" >/dev/null; then
        absent+=("$name")
        [[ -n $failing_only ]] || printf -- '--    %s: not installed; next: %s\n' "$name" "$(how_to_get "$name")"
        return 1
    else
        miss "$name" "it does not run" "scripts/start-observability.sh; what it said last: $(stack_home)/$name/log"
    fi
    for variable in $(component_ports "$name"); do
        if is_listening "${!variable}"; then
            pass "$name" "port ${!variable} open"
        else
            miss "$name" "nothing listens at port ${!variable}"
        fi
    done
    if is_healthy "$name"; then
        pass "$name" "$(health_url "$name") answers"
    else
        miss "$name" "$(health_url "$name") does not say that it is ready"
    fi
}

check_targets() {
    local targets job state deadline=$((SECONDS + scrape_limit))
    for job in toygres otel-collector prometheus; do
        while :; do
            targets=$(get "$prometheus_url/api/v1/targets?state=active") || targets='{}'
            state=$(jq -r --arg job "$job" '[.data.activeTargets[]? | select(.labels.job == $job)] |
                if length == 0 then "unknown" else map(.health + " " + .lastError) | unique | join(", ") end' <<<"$targets")
            # Just started: it has not been asked yet.
            [[ $state == unknown* && $SECONDS -lt $deadline ]] || break
            sleep 1
        done
        if [[ $state == "up " ]]; then pass prometheus "scrapes $job"; else miss prometheus "scrape of $job: $state"; fi
    done
    state=$(get "$prometheus_url/api/v1/rules" | jq -r '[.data.groups[]?.rules[]?] |
        if length == 0 then "there are none" else map(select(.health == "err") | .name + ": " + .lastError) | unique |
        join(", ") end' 2>/dev/null) || state="it does not answer"
    if [[ -z $state ]]; then pass prometheus "its rules are evaluated"; else miss prometheus "rules: $state"; fi
}

check_grafana() {
    local uid state
    for uid in prometheus loki tempo; do
        state=$(grafana_get "/api/datasources/uid/$uid/health") || true
        if [[ $(jq -r '.status? // empty' <<<"$state" 2>/dev/null) == OK ]]; then
            pass grafana "data source $uid answers"
        else
            miss grafana "data source $uid: $(head -c 300 <<<"$state")"
        fi
    done
    state=$(grafana_get "/api/search?type=dash-db&folderUIDs=toygres" | jq -r length 2>/dev/null) || state=0
    if [[ ${state:-0} -gt 0 ]]; then
        pass grafana "$state dashboards in the folder Toygres"
    else
        miss grafana "no dashboards in the folder Toygres"
    fi
}

# Newest of each signal. Of logs and traces there is not always something new to be found.
check_data() {
    local age newest now file stored
    now=$(date +%s)
    age=$(ask 'time() - max(timestamp(toygres_telemetry_items_total))')
    if [[ -n $age && ${age%.*} -le $sample_limit ]]; then
        pass "last sample" "${age%.*} s old"
    else
        if [[ -n $age ]]; then age="${age%.*} s old"; else age="Prometheus has none"; fi
        miss "last sample" "$age" \
            "is toygres told to export? OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:$TOYGRES_COLLECTOR_GRPC_PORT"
    fi

    if [[ " ${absent[*]-} " != *" loki "* ]]; then
        newest=$(get "$loki_url/loki/api/v1/query_range" --data-urlencode 'query={service_name="toygres"}' \
            --data-urlencode limit=1 --data-urlencode "start=$((now - 86400))" --data-urlencode direction=backward |
            jq -r '[.data.result[]?.values[][0]] | max // empty | .[:-9]' 2>/dev/null) || newest=
        file=$({ tail -n 1 "$(toygres_home)/server.log" | jq -r '.timestamp | .[:19] + "Z" | fromdate'; } 2>/dev/null) ||
            file=
        if [[ -z $newest ]]; then
            miss "last log" "Loki has no line of toygres's of the last day" "scripts/push-logs-to-loki.sh sends those of the file"
        elif [[ -n $file && $((file - newest)) -gt $log_limit ]]; then
            miss "last log" "$((now - newest)) s old; the file's last is $((now - file)) s old" \
                "scripts/push-logs-to-loki.sh sends what is missing"
        else
            pass "last log" "$((now - newest)) s old"
        fi
    fi

    if [[ " ${absent[*]-} " != *" tempo "* ]]; then
        newest=$(get "$tempo_url/api/search" --data-urlencode 'q={resource.service.name="toygres"}' \
            --data-urlencode limit=100 --data-urlencode "start=$((now - 86400))" --data-urlencode "end=$now" |
            jq -r '[.traces[]?.startTimeUnixNano] | max // empty | .[:-9]' 2>/dev/null) || newest=
        stored=$(ask 'sum(increase(otelcol_exporter_sent_spans{exporter="otlp_grpc/tempo"}[10m]))')
        if [[ -z $newest ]]; then
            miss "last trace" "Tempo has no trace of toygres's of the last day" \
                "a trace is stored some 45 s after its first span: ./toygres list makes one, of which one in ten is kept"
        elif [[ $((now - newest)) -le $trace_limit ]]; then
            pass "last trace" "$((now - newest)) s old"
        elif [[ ${stored%.*} == 0 ]]; then
            pass "last trace" "$((now - newest)) s old; since 10 min there was none to keep"
        else
            miss "last trace" "$((now - newest)) s old, though the collector sends some"
        fi
    fi
}

check_toygres() {
    local pid url probe problem
    if ! pid=$(server_pid); then
        miss toygres "no server runs on $(toygres_home)" "scripts/start-control-plane.sh"
        miss postgresql "not asked: the server does not run"
        return
    fi
    pass toygres "process $pid"
    url=$(cat "$(toygres_home)/server.url" 2>/dev/null) || url=
    # Not -f: the answer says what is wrong. Its certificate may be one that only its clients know.
    probe=$(curl -sSk --noproxy '*' -m 10 "$url/readyz" 2>&1) || true
    if [[ $(jq -r '.ok' <<<"$probe" 2>/dev/null) == true ]]; then
        pass toygres "$url/readyz: ready"
    else
        miss toygres "$url/readyz: $(head -c 300 <<<"$probe")"
    fi
    problem=$(jq -r '.checks[] | select(.name == "database") | if .ok then "" else .message // "not ok" end' <<<"$probe" 2>&1) ||
        problem="it can't be told"
    if [[ -z $problem ]]; then pass postgresql "the server's database answers"; else miss postgresql "$problem"; fi
}

containers=
if ! runs_natively && runs_in_containers; then containers=yes; fi

for name in "${components[@]}"; do
    check_component "$name" || continue
    case $name in
        prometheus) check_targets ;;
        grafana) check_grafana ;;
    esac
done
check_data
check_toygres

echo "$passed/$checked passed${absent[0]+, not installed: ${absent[*]}}"
[[ $passed -eq $checked ]]
