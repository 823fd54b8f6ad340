#!/usr/bin/env bash
# Says in a line whether all of the observability stack and toygres work, and which checks fail: the short form of
# scripts/observability-status.sh. Exit code: 0 they do.
#
#   scripts/verify-health.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac
exec "$ROOT/scripts/observability-status.sh" --quiet
