#!/usr/bin/env bash
# Sends lines of toygres's own log files that Loki does not have, after an outage of Loki or of the collector: with the
# labels and fields that they have when they come by the collector, so that one query finds both. A line that Loki has is
# not sent again. Run by hand.
#
#   scripts/push-logs-to-loki.sh [--since TIME] [--older-than SECONDS]
#
#   --since TIME          only lines from then on, as date -d understands it ("2 hours ago"); else all that are kept
#   --older-than SECONDS  leaves newer lines to the collector (120)
#
# The files are those of TOYGRES_HOME (~/.toygres), Loki is at TOYGRES_LOKI_PORT (3100) of this machine, the label of the
# environment is TOYGRES_ENVIRONMENT (local).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"

since=0 older_than=120
while [[ $# -gt 0 ]]; do
    case $1 in
        --since)
            since=$({ [[ -n ${2:-} ]] && date -d "$2" +%s; } 2>/dev/null) || fail "--since needs a time" "such as: --since '2 hours ago'"
            shift
            ;;
        --older-than)
            [[ ${2:-} =~ ^[0-9]+$ ]] || fail "--older-than needs a number of seconds" "such as: --older-than 120"
            older_than=$2
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
for command in curl jq; do
    has_command "$command" || fail "missing: $command" "install it with this system's package manager, then run this again"
done

# Lines that are looked at, and lines that are sent at once.
look=20000 batch=500
# The file's clock and the exporter's are read one after the other: so far apart, in microseconds, two times are of one line.
tolerance=1000000
# How long what waits in toygres and in the collector may take to be sent, and the collector must have run for it.
settle_limit=120 settle_uptime=30
# Loki answers no more lines at once.
page=5000

home=$(toygres_home)
is_healthy loki || fail "Loki does not answer at $(health_url loki)" "scripts/start-observability.sh"

# own NAME [LABEL]: the sum of a metric that the collector has of itself.
own() {
    curl -fsS --noproxy '*' -m 5 "http://127.0.0.1:$TOYGRES_COLLECTOR_TELEMETRY_PORT/metrics" 2>/dev/null |
        awk -v name="$1" -v label="${2:-$1}" 'index($1, name) == 1 && index($1, label) { sum += $NF; found = 1 }
            END { if (found) printf "%d\n", sum }'
}

# What is still on its way would come after it was sent from the file, and be there twice.
settle() {
    local deadline=$((SECONDS + settle_limit))
    if ! is_healthy otel-collector; then
        if server_pid >/dev/null; then
            fail "the server runs, and the collector does not: what waits in the server would come later, and be there twice" \
                "scripts/start-observability.sh, then run this again"
        fi
        return 0
    fi
    [[ -n $(own otelcol_process_uptime) ]] ||
        fail "the collector does not tell at port $TOYGRES_COLLECTOR_TELEMETRY_PORT what it still has to send" \
            "set TOYGRES_COLLECTOR_TELEMETRY_PORT to the port of its own metrics, then run this again"
    until [[ $(own otelcol_process_uptime) -ge $settle_uptime && $(own otelcol_exporter_queue_size loki) == 0 ]]; do
        [[ $SECONDS -lt $deadline ]] ||
            fail "the collector has still lines to send to Loki after $settle_limit s" "run this again later"
        sleep 1
    done
}
settle

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# stored FROM TO: the lines that Loki has, by seconds, as [[what it says], microseconds], one a line.
stored() {
    local start=${1}000000000 end=${2}000000000 answer=$work/answer count last
    while :; do
        curl -fsSG --noproxy '*' -m 60 "$loki_url/loki/api/v1/query_range" --data-urlencode 'query={service_name="toygres"}' \
            --data-urlencode "start=$start" --data-urlencode "end=$end" --data-urlencode "limit=$page" \
            --data-urlencode direction=forward >"$answer" || return 1
        count=$(jq '[.data.result[].values | length] | add // 0' "$answer")
        # A full page may end between lines of one time: those are asked for again.
        jq -c --argjson full "$((count >= page))" '([.data.result[].values[][0]] | max // "") as $last | .data.result[] |
            .stream as $of | .values[] | select($full == 0 or .[0] != $last) |
            [[.[1], $of.level, $of.scope_name, $of.span_id], (.[0][:-3] | tonumber)]' "$answer"
        [[ $count -ge $page ]] || return 0
        last=$(jq -r '[.data.result[].values[][0]] | max' "$answer")
        [[ $last != "$start" ]] || fail "Loki has more than $page lines of one time ($start)" "use --since"
        start=$last
    done
}

# As OTLP, from lines as they stand in the file. Loki's own name of each field is that of the live path.
# shellcheck disable=SC2016 # the program is jq's
as_otlp='
    def value: if type == "string" then {stringValue: .} elif type == "boolean" then {boolValue: .}
        elif type == "number" then (if . == floor then {intValue: tostring} else {doubleValue: .} end)
        else {stringValue: tojson} end;
    def attributes: to_entries | map({key, value: (.value | value)});
    {resourceLogs: (group_by([."service.name", ."service.version"]) | map({
        resource: {attributes: ({"service.name": .[0]."service.name", "service.version": .[0]."service.version",
            "deployment.environment.name": $environment} | attributes)},
        scopeLogs: (group_by(.target) | map({scope: {name: .[0].target}, logRecords: map({
            timeUnixNano: (.timestamp | nanoseconds), observedTimeUnixNano: (.timestamp | nanoseconds),
            severityText: .level,
            severityNumber: ({TRACE: 1, DEBUG: 5, INFO: 9, WARN: 13, ERROR: 17}[.level] // 0),
            body: {stringValue: (.message // "")},
            traceId: (.trace_id // ""), spanId: (.span_id // ""),
            attributes: (del(.timestamp, .message, .target, .trace_id, .span_id, ."service.name", ."service.version") |
                attributes)})}))}))}'
# shellcheck disable=SC2016
times='
    def seconds: .[:19] + "Z" | fromdateiso8601;
    def fraction: (capture("[.](?<digits>[0-9]+)Z$").digits // "0") + "000000000" | .[:9];
    def nanoseconds: (seconds | tostring) + fraction;
    def microseconds: nanoseconds[:-3] | tonumber;'

# send FILE: the lines of a file, each an object.
send() {
    local part answer code
    rm -f "$work"/part.*
    split -l "$batch" "$1" "$work/part."
    for part in "$work"/part.*; do
        [[ -s $part ]] || continue
        jq -cs --arg environment "${TOYGRES_ENVIRONMENT:-local}" "$times $as_otlp" "$part" >"$work/request"
        answer=$work/answer
        code=$(curl -sS --noproxy '*' -m 60 -o "$answer" -w '%{http_code}' -H 'Content-Type: application/json' \
            --data-binary @"$work/request" "$loki_url/otlp/v1/logs") || fail "Loki does not take the lines" "run this again"
        [[ $code == 2* ]] || fail "Loki does not take the lines ($code): $(head -c 500 "$answer")" \
            "what has been sent is there; put that right, then run this again"
        sent=$((sent + $(wc -l <"$part")))
    done
}

sent=0 seen=0
before=$(($(date +%s) - older_than))
step "Comparing $home/server.log with Loki"
for file in "$home"/server.*.log "$home"/server.log; do
    # server.log is a link to the newest.
    [[ -f $file && ! -L $file ]] || continue
    rm -f "$work"/lines.*
    # What is no line of the log is left out: the last may be half written.
    jq -cR --argjson since "$since" --argjson before "$before" "$times"' fromjson? | select(type == "object" and .timestamp) |
        select((.timestamp | seconds) as $at | $at >= $since and $at < $before)' "$file" | split -l "$look" - "$work/lines."
    for lines in "$work"/lines.*; do
        [[ -s $lines ]] || continue
        read -r from to < <(jq -rs "$times"' map(.timestamp | seconds) | "\(min - 2) \(max + 3)"' "$lines")
        stored "$from" "$to" >"$work/stored" || fail "Loki can't be asked" "$(health_url loki)"
        # Each line that Loki has stands for one of the file, of the same words and about the same time.
        jq -cs --slurpfile stored "$work/stored" --argjson tolerance "$tolerance" "$times"'
            (reduce $stored[] as [$says, $at] ({}; .[$says | tojson] += [$at]) | map_values(sort)) as $there |
            reduce (sort_by(.timestamp)[] | [., (.timestamp | microseconds),
                    ([.message // "", .level, .target, .span_id] | tojson)]) as [$line, $at, $says]
                ({next: {}, missing: []};
                    ($there[$says] // []) as $times |
                    ((.next[$says] // 0) | until($times[.] == null or $times[.] >= $at - $tolerance; . + 1)) as $n |
                    if $times[$n] != null and $times[$n] <= $at + $tolerance then .next[$says] = $n + 1
                    else .next[$says] = $n | .missing += [$line] end) |
            .missing[]' "$lines" >"$work/missing"
        seen=$((seen + $(wc -l <"$lines")))
        if [[ -s $work/missing ]]; then send "$work/missing"; fi
    done
done
say "lines of the files: $seen; sent, as Loki did not have them: $sent"
