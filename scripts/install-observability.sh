#!/usr/bin/env bash
# Installs the real receivers of telemetry, without containers and without root: builds an OpenTelemetry Collector of the
# parts that observability/collector/manifest.yaml names, which takes some minutes, and takes Prometheus from Debian.
# Starts nothing. What is there already is kept, in TOYGRES_TOOLS (~/.cache/toygres-tools).
#
#   scripts/install-observability.sh
#
# Prints where the programs are, a line each: collector=, prometheus= and promtool= with a path.
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

collector=$(collector_program)
prometheus=$(prometheus_programs)
printf '%s\n' "collector=$collector" "prometheus=$prometheus/prometheus" "promtool=$prometheus/promtool"
step "The collector and Prometheus are there, after $SECONDS s"
