#!/usr/bin/env bash
# Builds with optimisation, measures, prints a table, writes target/bench/SUITE.json and docs/performance.md.
#
#   scripts/bench.sh [engine|create|api|telemetry|kubernetes|all]
#   scripts/bench.sh SUITE -- ARGUMENTS
#
#   engine      the engine on a database: bare and decorated in turn
#   create      a whole server: create, many at once, idle instances; bare PostgreSQL in the same run
#   api         lists of many rows, beside the same queries in psql; creates at an even rate; many streams of events
#   telemetry   the same load on servers that export everything, write the log file, and tell nothing, in turn
#   kubernetes  on a cluster: create, many at once, beside kubectl apply of the same manifests; calls of the API server
#
# The cluster is that of KUBECONFIG, else the development cluster of this machine (scripts/devcluster/devcluster), which
# is taken down again if it did not run. Clients connect to cluster IPs: run it on a node. The settings
# TOYGRES_KUBERNETES_* count. Without a cluster, all leaves this suite out.
#
# ARGUMENTS go to the suite's program (engine: --rounds N; create: --creates N --parallel N --idle N --idle-seconds N;
# api: --instances N --operations N --requests N --clients N --creates N --streams N --seconds N;
# telemetry: --rounds N --creates N --clients N --requests N --database-rounds N;
# kubernetes: --rounds N --parallel N --parallel-rounds N --wait-seconds N --many N --idle-seconds N).
# A suite is a function suite_NAME FILE ARGUMENT... below that writes JSON; docs/performance.md shows the last result of
# each.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suites=(engine create api telemetry kubernetes)
# What a number may be at most, by its suite and where it stands in the result.
declare -A marks=(
    ['telemetry · databases · overhead · exported · throughput percent']=5
    ['telemetry · overhead · exported · throughput percent']=5
    ['telemetry · overhead · exported · get p50 percent']=5
    ['telemetry · export · metrics kb']=50
    ['kubernetes · create · overhead ms']=500
    ['kubernetes · at once · ratio']=1.3
    ['kubernetes · api calls · more for waiting']=0
    ['kubernetes · many · api calls of list and observes']=0
)

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

suite_telemetry() {
    local json=$1
    shift
    cargo build --release --locked --quiet --package toygres-server --example stub_server
    run_example toygres-server bench_telemetry --json "$json" \
        --server "$(target_directory)/release/examples/stub_server" "$@"
}

suite_kubernetes() {
    local json=$1 program
    shift
    find_cluster
    program=$(build_program)
    on_cluster=toygres-bench-$$
    "$kubectl" create namespace "$on_cluster" >/dev/null
    "$kubectl" create namespace "$on_cluster-many" >/dev/null
    # Small instances, for a small cluster.
    TOYGRES_KUBERNETES_VERSIONS=${TOYGRES_KUBERNETES_VERSIONS:-15} \
        TOYGRES_KUBERNETES_DEFAULT_CPU=${TOYGRES_KUBERNETES_DEFAULT_CPU:-0} \
        TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB=${TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB:-256} \
        TOYGRES_KUBERNETES_ADDRESS=${TOYGRES_KUBERNETES_ADDRESS:-cluster-ip} \
        run_example toygres-server bench_kubernetes --json "$json" --program "$program" --kubectl "$kubectl" \
        --kubeconfig "$KUBECONFIG" --namespace "$on_cluster" --namespace-of-many "$on_cluster-many" \
        --node-label "$on_cluster" "$@"
    leave_cluster
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

# ---- A Kubernetes cluster for the length of a suite ----

devcluster=$ROOT/scripts/devcluster/devcluster
kubectl='' on_cluster='' started_cluster=''

# Says why there is none to be had, if so.
why_no_cluster() {
    local why
    [[ -z ${KUBECONFIG:-} ]] || return 0
    why=$("$devcluster" supported 2>&1) || printf 'KUBECONFIG is not set, and there is no development cluster: %s\n' "$why"
}

find_cluster() {
    local why
    why=$(why_no_cluster)
    [[ -z $why ]] || fail "there is no Kubernetes cluster: $why" "export KUBECONFIG=FILE"
    if [[ -z ${KUBECONFIG:-} ]]; then
        if ! "$devcluster" status >/dev/null 2>&1; then
            started_cluster=yes
            "$devcluster" up
        fi
        KUBECONFIG=$("$devcluster" kubeconfig)
        export KUBECONFIG
    fi
    kubectl=$(command -v kubectl) || kubectl=$("$devcluster" directory)/bin/kubectl
    [[ -x $kubectl ]] || fail "there is no kubectl" "install it, then run this again"
    "$kubectl" get namespaces --request-timeout=10s >/dev/null ||
        fail "the Kubernetes cluster of $KUBECONFIG can't be used" "kubectl get namespaces"
}

# Removes everything that was made on the cluster.
leave_cluster() {
    if [[ -n $on_cluster ]]; then
        "$kubectl" label nodes --all "$on_cluster-" >/dev/null || true
        "$kubectl" delete namespace "$on_cluster" "$on_cluster-many" --ignore-not-found --timeout=300s >/dev/null ||
            say "warning: the namespaces $on_cluster and $on_cluster-many are not gone yet"
        on_cluster=''
    fi
    [[ -z $started_cluster ]] || "$devcluster" down
    started_cluster=''
}

clean_up() {
    stop_postgres
    leave_cluster
    rm -rf "$work"
}

# ---- Results ----

# Every number and word of a result, a line each: where it stands, and its value.
flat() {
    jq -r 'def show: if type == "number" then (. * 100 | round / 100) else . end;
        paths(scalars) as $p | [($p | map(tostring) | join(" · ") | gsub("_"; " ")), (getpath($p) | show | tostring)] | @tsv' "$1"
}

# The same for people: a line each, with its mark if it has one.
rows() {
    local suite=$1 what value most
    while IFS=$'\t' read -r what value; do
        most=${marks["$suite · $what"]:-}
        if [[ -n $most ]]; then
            most="at most $most: $(jq -rn "if $value <= $most then \"met\" else \"missed\" end")"
        fi
        printf '%s\t%s\t%s\n' "$what" "$value" "$most"
    done < <(flat "$results/$suite.json")
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
        printf '\n## %s\n\n%s, commit %s\n\n| what | value | mark |\n|---|---|---|\n' "$suite" \
            "$(date -u -r "$json" +%Y-%m-%d)" "$(cat "$results/$suite.commit")"
        rows "$suite" | awk -F '\t' '{ printf "| %s | %s | %s |\n", $1, $2, $3 }'
    done
}

selected=("${suites[@]}")
case ${1:-all} in
    -h | --help)
        usage
        exit
        ;;
    all)
        [[ $# -le 1 ]] || fail "arguments are for one suite" "$0 --help"
        why=$(why_no_cluster)
        if [[ -n $why ]]; then
            say "left out: kubernetes: $why"
            selected=(engine create api telemetry)
        fi
        ;;
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
    rows "$suite" | awk -F '\t' '{ printf "%-60s %-12s %s\n", $1, $2, $3 }'
done
mkdir -p docs
document >docs/performance.md
say "written: $results/*.json, docs/performance.md"
