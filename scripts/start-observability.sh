#!/usr/bin/env bash
# Starts the observability stack of this machine: OpenTelemetry Collector, Prometheus, Loki, Tempo, Grafana. In containers
# where Docker Compose works, else as processes with the same configurations, of the programs that
# scripts/install-observability.sh has installed. Waits until each is ready. What can't be started is said with why, and
# the rest runs. What runs already is left as it is.
#
#   scripts/start-observability.sh [--native] [--installed]
#
#   --native     no containers
#   --installed  containers only if their images are here already
#
# Everything listens on 127.0.0.1, at the ports of the variables TOYGRES_..._PORT in scripts/observability.sh. Data, logs
# and process ids are in TOYGRES_HOME (~/.toygres), in observability/NAME, or in volumes of Docker's.
# Exit code: 0 all that is installed runs; 1 something does not, or there is no collector or no Prometheus.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"
# shellcheck source=scripts/observability.sh
. "$ROOT/scripts/observability.sh"

native='' installed=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --native) native=yes ;;
        --installed) installed=yes ;;
        -h | --help)
            usage
            exit
            ;;
        *) fail "unknown argument $1" "$0 --help" ;;
    esac
    shift
done

# How long all may take to be ready.
ready_limit=90
# The least that a component's directory must have room for, in MiB.
room=64
has_command curl || fail "missing: curl" "install it with this system's package manager, then run this again"
stack=$(stack_home)
mkdir -p "$stack"
exec 9>"$stack/lock"
flock --wait 120 9 || fail "another start or stop of the stack has not ended for two minutes" "find it: fuser $stack/lock"

failed=() missing=()
# problem NAME WHY...
problem() {
    say "error: $1: $2"
    failed+=("$1")
    shift 2
    [[ $# -eq 0 ]] || printf '  %s\n' "$@" >&2
}
log_end() { tail -n 8 "$stack/$1/log" 2>/dev/null | cut -c 1-400; }

# ---- Without containers ----

# command_of NAME PROGRAM DIRECTORY: sets command, the words that start it.
command_of() {
    local name=$1 program=$2 directory=$3
    case $name in
        loki | tempo)
            local file=$ROOT/observability/$name.yaml
            [[ -e $file ]] || file=$ROOT/observability/$name-config.yaml
            command=("$program" "-config.file=$file" -config.expand-env=true)
            ;;
        otel-collector) command=("$program" --config "$ROOT/observability/otel-collector-config.yaml") ;;
        prometheus)
            command=("$program" "--config.file=$directory/prometheus.yml" "--storage.tsdb.path=$directory/data"
                --storage.tsdb.retention.time=15d --enable-feature=exemplar-storage
                "--web.listen-address=127.0.0.1:$TOYGRES_PROMETHEUS_PORT")
            # What is beside its configuration is looked up beside the link.
            ln -sf "$ROOT/observability/prometheus.yml" "$ROOT/observability/prometheus-rules.yml" "$directory/"
            printf -- '- {labels: {job: %s}, targets: ["127.0.0.1:%s"]}\n' toygres "$TOYGRES_COLLECTOR_PROMETHEUS_PORT" \
                otel-collector "$TOYGRES_COLLECTOR_TELEMETRY_PORT" prometheus "$TOYGRES_PROMETHEUS_PORT" \
                >"$directory/prometheus-targets.yml"
            ;;
        grafana)
            mapfile -t command < <(grafana_program "$program")
            # Packages have there what reads Prometheus, Loki and Tempo; without, Grafana would fetch it.
            local bundled=/var/lib/grafana/plugins-bundled
            [[ -d $program/data/plugins-bundled || ! -d $bundled ]] || export GF_PATHS_BUNDLED_PLUGINS=$bundled
            command+=(--homepath "$program")
            ;;
    esac
}

# Where each keeps its data and finds the others. Never beyond loopback.
set_environment() {
    # These are toygres's: Loki and Tempo would send traces of their own to the collector, in its name.
    unset "${!OTEL_@}"
    export TOYGRES_COLLECTOR_HOST=127.0.0.1 TOYGRES_LOKI_HOST=127.0.0.1 TOYGRES_TEMPO_HOST=127.0.0.1
    export TOYGRES_LOKI_DATA=$stack/loki/data TOYGRES_TEMPO_DATA=$stack/tempo/data
    export TOYGRES_LOKI_ENDPOINT=${TOYGRES_LOKI_ENDPOINT:-$loki_url/otlp}
    export TOYGRES_TEMPO_ENDPOINT=${TOYGRES_TEMPO_ENDPOINT:-127.0.0.1:$TOYGRES_TEMPO_OTLP_PORT}
    export TOYGRES_PROMETHEUS_URL=$prometheus_url TOYGRES_LOKI_URL=$loki_url TOYGRES_TEMPO_URL=$tempo_url
    export TOYGRES_GRAFANA_DASHBOARDS=$ROOT/observability/grafana/dashboards
    export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=$TOYGRES_GRAFANA_PORT
    export GF_PATHS_DATA=$stack/grafana/data GF_PATHS_LOGS=$stack/grafana/data/log
    export GF_PATHS_PLUGINS=$stack/grafana/data/plugins GF_PATHS_PROVISIONING=$ROOT/observability/grafana/provisioning
    export GF_SECURITY_ADMIN_USER=admin GF_SECURITY_ADMIN_PASSWORD=${GRAFANA_ADMIN_PASSWORD:-admin}
    export GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false
    export GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false GF_DASHBOARDS_MIN_REFRESH_INTERVAL=5s
    export GF_PLUGINS_PREINSTALL_AUTO_UPDATE=false
}

# Who listens at a port of this machine, if that can be told.
listener() { ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1; }

# port_taken NAME VARIABLE...: whether another program listens at one of these ports, and says so.
port_taken() {
    local name=$1 variable who
    shift
    for variable in "$@"; do
        is_listening "${!variable}" || continue
        who=$(listener "${!variable}")
        problem "$name" "port ${!variable} is taken by ${who:-another program}" \
            "end that program, or set $variable to another port, then run this again"
        return
    done
    return 1
}

start_native() {
    local name=$1 directory=$stack/$1 program pid why ports
    if pid=$(component_pid "$name"); then
        say "$name: runs already (pid $pid)"
        waited+=("$name")
        return
    fi
    program=$(installed_component "$name") || {
        missing+=("$name")
        return 0
    }
    mapfile -t ports < <(component_ports "$name" && inner_ports "$name")
    if port_taken "$name" "${ports[@]}"; then return; fi
    why=$({ mkdir -p "$directory/data" && head -c "${room}M" /dev/zero >"$directory/room"; } 2>&1) || {
        rm -f "$directory/room"
        problem "$name" "there is no room for it in $directory: ${why##*: }" "make room, then run this again"
        return
    }
    rm -f "$directory/room"
    [[ ! -e $directory/log ]] || mv "$directory/log" "$directory/log.old"
    command_of "$name" "$program" "$directory"
    # A session of its own: a signal from this terminal is not meant for it.
    (cd "$directory" && exec setsid nohup "${command[@]}" >log 2>&1 </dev/null 9>&-) &
    echo $! >"$directory/pid"
    waited+=("$name")
    started=yes
}

wait_natively() {
    local name pid deadline=$((SECONDS + ready_limit))
    for name in ${waited[@]+"${waited[@]}"}; do
        while ! is_healthy "$name"; do
            if ! pid=$(component_pid "$name"); then
                problem "$name" "it has ended, with this at the end of $stack/$name/log:" "$(log_end "$name")"
                continue 2
            elif [[ $SECONDS -ge $deadline ]]; then
                problem "$name" "$(health_url "$name") does not answer after $ready_limit s; the end of $stack/$name/log:" \
                    "$(log_end "$name")"
                continue 2
            fi
            sleep 0.2
        done
        # Another program may answer at its port.
        if pid=$(component_pid "$name"); then
            ready+=("$name")
        else
            problem "$name" "it has ended, with this at the end of $stack/$name/log:" "$(log_end "$name")"
        fi
    done
}

# ---- In containers ----

has_images() {
    local image
    for image in $(compose config --images); do
        docker image inspect "$image" >/dev/null 2>&1 || return 1
    done
}

# Grafana takes the password of its first start alone: what is stored with admin's may be opened to other hosts later.
set_grafana_password() {
    [[ -n ${GRAFANA_ADMIN_PASSWORD:-} ]] && ! grafana_get /api/user >/dev/null || return 0
    docker exec -i toygres-grafana grafana cli admin reset-admin-password --password-from-stdin \
        <<<"$GRAFANA_ADMIN_PASSWORD" >/dev/null 2>&1
    grafana_get /api/user >/dev/null
}

container_state() { docker inspect -f '{{.State.Status}}' "toygres-$1" 2>/dev/null; }

start_containers() {
    local name log=$stack/compose.log deadline why ports
    why=$(compose config --quiet 2>&1) || fail "$compose_file: $why" "put that right, then run this again"
    # For the stop: the containers are this machine's, whatever the home.
    touch "$stack/containers"
    has_images || step "Fetching images, which takes minutes the first time (log: $log)"
    : >"$log"
    # Each for itself: with one that can't be started Compose gives up the others.
    for name in "${components[@]}"; do
        mapfile -t ports < <(component_ports "$name")
        if [[ $(container_state "$name") != running ]] && port_taken "$name" "${ports[@]}"; then continue; fi
        if compose up --detach "$name" >>"$log" 2>&1 9>&-; then
            waited+=("$name")
        else
            problem "$name" "its container can't be started:" "$(tail -n 8 "$log" | cut -c 1-400)" \
                "put that right, then run this again"
        fi
    done
    deadline=$((SECONDS + ready_limit))
    for name in ${waited[@]+"${waited[@]}"}; do
        while ! is_healthy "$name"; do
            if [[ $SECONDS -ge $deadline || $(container_state "$name") != running ]]; then
                problem "$name" "its container does not answer at $(health_url "$name"):" \
                    "$(docker logs --tail 8 "toygres-$name" 2>&1 | cut -c 1-400)"
                continue 2
            fi
            sleep 0.5
        done
        if [[ $name == grafana ]] && ! set_grafana_password; then
            # Not with whatever it is, perhaps admin, where others reach it.
            [[ -z ${TOYGRES_GRAFANA_HOST:-} ]] || compose stop grafana >>"$log" 2>&1 9>&-
            problem grafana "its administrator has another password than GRAFANA_ADMIN_PASSWORD, and it can't be set" \
                "set GRAFANA_ADMIN_PASSWORD to the one that it has, then run this again"
            continue
        fi
        ready+=("$name")
    done
}

ready=() waited=() started='' in_containers=''
if [[ -z $native ]] && ! runs_natively && has_compose; then
    if [[ -z $installed ]] || has_images; then
        in_containers=yes
    elif ! installed_component otel-collector >/dev/null; then
        fail "the images of the observability stack are not here yet" "scripts/start-observability.sh fetches and starts them"
    fi
fi
if [[ -n $in_containers ]]; then
    step "Starting the observability stack in containers"
    start_containers
else
    step "Starting the observability stack"
    set_environment
    for name in "${components[@]}"; do start_native "$name"; done
    [[ -n $started ]] || [[ ${#waited[@]} -eq 0 ]] || say "nothing to start"
    wait_natively
fi

for name in ${ready[@]+"${ready[@]}"}; do say "ready: $name, $(health_url "$name")"; done
for name in ${missing[@]+"${missing[@]}"}; do
    say "not installed: $name; next: $(how_to_get "$name")"
    [[ $name != otel-collector && $name != prometheus ]] || failed+=("$name")
done
if [[ ${#failed[@]} -gt 0 ]]; then
    say "not running: $(printf '%s ' "${failed[@]}")"
    exit 1
fi
