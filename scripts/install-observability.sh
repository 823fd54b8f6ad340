#!/usr/bin/env bash
# Installs the real receivers of telemetry, without containers and without root: builds an OpenTelemetry Collector of the
# parts that observability/collector/manifest.yaml names, and Loki and Tempo of their Go modules, and takes Prometheus
# from Debian. Building takes some minutes each, the first time. Starts nothing. What is there already is kept, in
# TOYGRES_TOOLS (~/.cache/toygres-tools). Grafana can't be built so: one that is there is found, by GRAFANA_HOME or on the
# path.
#
#   scripts/install-observability.sh
#
# Prints where the programs are, a line each: collector=, prometheus=, promtool=, loki=, tempo= and grafana= (its home)
# with a path. What can't be had is left out, and said with why; then the exit code is 3, or 1 if the collector or
# Prometheus is among it. A Grafana that is not there is said, and is no failure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

# Building leaves the machine to what else runs on it.
renice -n 10 -p $$ >/dev/null 2>&1 || true

collector=$(collector_program)
prometheus=$(prometheus_programs)
printf '%s\n' "collector=$collector" "prometheus=$prometheus/prometheus" "promtool=$prometheus/promtool"

missing=()
for name in loki tempo; do
    # What failed has said why.
    if program=$("${name}_program"); then echo "$name=$program"; else missing+=("$name"); fi
done
if grafana=$(grafana_home); then
    echo "grafana=$grafana"
else
    say "Grafana is not there: install it (https://grafana.com/grafana/download), and set GRAFANA_HOME to its directory" \
        "if its program is not on the path. Everything else runs without it."
fi
if [[ ${#missing[@]} -gt 0 ]]; then
    say "error: not there: ${missing[*]}; the rest runs without"
    exit 3
fi
step "The collector, Prometheus, Loki and Tempo are there, after $SECONDS s"
