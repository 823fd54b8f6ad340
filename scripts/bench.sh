#!/usr/bin/env bash
# Builds with optimisation, measures, prints a table, writes target/bench/SUITE.json and docs/performance.md.
#
#   scripts/bench.sh [engine|create|api|all]
#   scripts/bench.sh SUITE -- ARGUMENTS
#
#   engine  the engine on a database: bare and decorated in turn
#   create  a whole server: create, many at once, idle instances; bare PostgreSQL in the same run
#   api     lists of many rows, beside the same queries in psql; creates at an even rate; many streams of events
#
# ARGUMENTS go to the suite's program (engine: --rounds N; create: --creates N --parallel N --idle N --idle-seconds N;
# api: --instances N --operations N --requests N --clients N --creates N --streams N --seconds N).
# A suite is a function suite_NAME FILE ARGUMENT... below that writes JSON; docs/performance.md shows the last result of
# each.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suites=(engine create api)

suite_engine() {
    local json=$1
    shift
    start_postgres
    run_example toygres-engine bench_engine --database-url "$database_url" --json "$json" "$@"
    stop_postgres
}

suite_create() {
    local json=$1
    shift
    run_example toygres-server bench_server --json "$json" "$@"
}

suite_api() {
    local json=$1
    shift
    # The listeners' connections are open files of both sides.
    ulimit -n "$(ulimit -Hn)"
    cargo build --release --locked --quiet --package toygres-server --example stub_server
    run_example toygres-server bench_api --json "$json" \
        --server "$(target_directory)/release/examples/stub_server" "$@"
}

run_example() {
    local package=$1 example=$2
    shift 2
    cargo run --release --locked --quiet --package "$package" --example "$example" -- "$@"
}

# ---- A PostgreSQL for the length of a suite ----

work='' postgres=''
start_postgres() {
    local bin port as=()
    bin=$(postgres_programs)
    # PostgreSQL refuses to run as root.
    if [[ $(id -u) -eq 0 ]]; then
        chown postgres "$work"
        as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    fi
    "${as[@]}" "$bin/initdb" -D "$work/data" -U postgres --auth=trust --no-instructions >"$work/initdb.log"
    # A free port: nobody answers there.
    port=$((20000 + RANDOM % 10000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    "${as[@]}" "$bin/postgres" -D "$work/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c max_connections=300 >"$work/postgres.log" 2>&1 &
    postgres=$!
    database_url=postgres://postgres@127.0.0.1:$port/postgres
    local deadline=$((SECONDS + 30))
    until psql -XAtc 'select 1' "$database_url" >/dev/null 2>&1; do
        [[ $SECONDS -lt $deadline ]] || fail "the benchmark's PostgreSQL does not start: $(tail -n 3 "$work/postgres.log")"
        sleep 0.1
    done
}

stop_postgres() {
    [[ -z $postgres ]] || { kill -INT "$postgres" 2>/dev/null && wait "$postgres"; } || true
    postgres=''
    rm -rf "${work:?}"/data
}

clean_up() {
    stop_postgres
    rm -rf "$work"
}

# ---- Results ----

# Every number and word of a result, a line each: where it stands, and its value.
flat() {
    jq -r 'def show: if type == "number" then (. * 100 | round / 100) else . end;
        paths(scalars) as $p | [($p | map(tostring) | join(" · ") | gsub("_"; " ")), (getpath($p) | show | tostring)] | @tsv' "$1"
}

document() {
    local suite json
    cat <<END
# Performance

Measured by \`scripts/bench.sh\`, which also writes this page: change that, not this. Medians and ratios; times in the
unit that the name ends with.

Machine: $(nproc) cores ($(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) of memory, Linux $(uname -r | cut -d - -f 1).
END
    for suite in "${suites[@]}"; do
        json=$results/$suite.json
        [[ -s $json ]] || continue
        printf '\n## %s\n\n%s, commit %s\n\n| what | value |\n|---|---|\n' "$suite" \
            "$(date -u -r "$json" +%Y-%m-%d)" "$(cat "$results/$suite.commit")"
        flat "$json" | awk -F '\t' '{ printf "| %s | %s |\n", $1, $2 }'
    done
}

selected=("${suites[@]}")
case ${1:-all} in
    -h | --help)
        usage
        exit
        ;;
    all) [[ $# -le 1 ]] || fail "arguments are for one suite" "$0 --help" ;;
    *)
        [[ " ${suites[*]} " == *" $1 "* ]] || fail "unknown suite $1" "$0 --help"
        selected=("$1")
        shift
        [[ ${1:-} != -- ]] || shift
        ;;
esac
[[ ${1:-} != all ]] || shift

need_packages cc pkg-config openssl postgres psql jq
need_toolchain
cd "$ROOT"
results=$(target_directory)/bench
mkdir -p "$results"
work=$(mktemp -d /tmp/toygres-bench.XXXXXX)
chmod 755 "$work"
trap clean_up EXIT
trap 'exit 130' INT TERM

for suite in "${selected[@]}"; do
    step "$suite"
    rm -f "$results/$suite.json"
    # What the program prints itself is the same in other words.
    "suite_$suite" "$results/$suite.json" "$@" >/dev/null
    git rev-parse --short HEAD >"$results/$suite.commit" 2>/dev/null || echo unknown >"$results/$suite.commit"
    flat "$results/$suite.json" | awk -F '\t' '{ printf "%-60s %s\n", $1, $2 }'
done
mkdir -p docs
document >docs/performance.md
say "written: $results/*.json, docs/performance.md"
