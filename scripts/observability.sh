# shellcheck shell=bash
# Sourced after lib.sh and tools.sh: the components of the observability stack, where they listen, and what runs of them.

# In this order they are started, so that each finds those that it sends to or asks.
components=(loki tempo otel-collector prometheus grafana)
compose_file=$ROOT/docker-compose.observability.yml

# The ports, for the configurations, the containers and the scripts alike.
export TOYGRES_COLLECTOR_GRPC_PORT=${TOYGRES_COLLECTOR_GRPC_PORT:-4317}
export TOYGRES_COLLECTOR_HTTP_PORT=${TOYGRES_COLLECTOR_HTTP_PORT:-4318}
export TOYGRES_COLLECTOR_PROMETHEUS_PORT=${TOYGRES_COLLECTOR_PROMETHEUS_PORT:-8889}
export TOYGRES_COLLECTOR_TELEMETRY_PORT=${TOYGRES_COLLECTOR_TELEMETRY_PORT:-8888}
export TOYGRES_COLLECTOR_HEALTH_PORT=${TOYGRES_COLLECTOR_HEALTH_PORT:-13133}
export TOYGRES_PROMETHEUS_PORT=${TOYGRES_PROMETHEUS_PORT:-9090}
export TOYGRES_LOKI_PORT=${TOYGRES_LOKI_PORT:-3100}
export TOYGRES_LOKI_GRPC_PORT=${TOYGRES_LOKI_GRPC_PORT:-9096}
export TOYGRES_TEMPO_PORT=${TOYGRES_TEMPO_PORT:-3200}
export TOYGRES_TEMPO_GRPC_PORT=${TOYGRES_TEMPO_GRPC_PORT:-9097}
export TOYGRES_TEMPO_OTLP_PORT=${TOYGRES_TEMPO_OTLP_PORT:-4327}
export TOYGRES_GRAFANA_PORT=${TOYGRES_GRAFANA_PORT:-3001}

prometheus_url=http://127.0.0.1:$TOYGRES_PROMETHEUS_PORT
loki_url=http://127.0.0.1:$TOYGRES_LOKI_PORT
tempo_url=http://127.0.0.1:$TOYGRES_TEMPO_PORT
grafana_url=http://127.0.0.1:$TOYGRES_GRAFANA_PORT

# component_ports NAME: the variables of the ports that it listens at on this machine. Those between parts of one program
# stay within its container.
component_ports() {
    case $1 in
        otel-collector) printf 'TOYGRES_COLLECTOR_%s_PORT\n' GRPC HTTP PROMETHEUS TELEMETRY HEALTH ;;
        prometheus) echo TOYGRES_PROMETHEUS_PORT ;;
        loki) echo TOYGRES_LOKI_PORT ;;
        tempo) echo TOYGRES_TEMPO_PORT ;;
        grafana) echo TOYGRES_GRAFANA_PORT ;;
    esac
}
inner_ports() {
    case $1 in
        loki) echo TOYGRES_LOKI_GRPC_PORT ;;
        tempo) printf '%s\n' TOYGRES_TEMPO_GRPC_PORT TOYGRES_TEMPO_OTLP_PORT ;;
    esac
}

health_url() {
    case $1 in
        otel-collector) echo "http://127.0.0.1:$TOYGRES_COLLECTOR_HEALTH_PORT/" ;;
        prometheus) echo "$prometheus_url/-/ready" ;;
        loki) echo "$loki_url/ready" ;;
        tempo) echo "$tempo_url/ready" ;;
        grafana) echo "$grafana_url/api/health" ;;
    esac
}

# Why a component is not there, and how to get it.
how_to_get() {
    if ! runs_natively && has_compose; then
        echo "scripts/start-observability.sh, which runs it in a container"
        return
    fi
    case $1 in
        grafana) echo "install it (https://grafana.com/grafana/download), and set GRAFANA_HOME to its directory" ;;
        *) echo "scripts/install-observability.sh" ;;
    esac
}

# grafana_get PATH: as the administrator, whose password is not for the list of processes.
grafana_get() {
    local password=${GRAFANA_ADMIN_PASSWORD:-admin}
    password=${password//\\/\\\\}
    curl -fsS --noproxy '*' -m 10 --config - "$grafana_url$1" 2>&1 <<<"user = \"admin:${password//\"/\\\"}\""
}

is_healthy() { curl -fsS --noproxy '*' -m 3 -o /dev/null "$(health_url "$1")" 2>/dev/null; }
is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ---- Without containers ----

# Where they keep everything, a directory for each: data/, log, pid.
stack_home() { echo "$(toygres_home)/observability"; }

# component_pid NAME: the recorded process, which has the component's log open.
component_pid() {
    local directory
    directory=$(stack_home)/$1
    recorded_holder "$directory/pid" "$directory/log"
}

runs_natively() {
    local name
    for name in "${components[@]}"; do
        if component_pid "$name" >/dev/null; then return; fi
    done
    return 1
}

# ---- In containers ----

compose() { docker compose --file "$compose_file" "$@"; }

# Whether Docker answers and has Compose.
has_compose() {
    has_command docker && timeout 10 docker compose version >/dev/null 2>&1 && timeout 10 docker info >/dev/null 2>&1
}

runs_in_containers() { has_compose && [[ -n $(compose ps --quiet 2>/dev/null) ]]; }
