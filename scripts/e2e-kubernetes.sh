#!/usr/bin/env bash
# Runs the tests that need a Kubernetes cluster: the files kubernetes*.rs in the tests of the crates. Uses the cluster of
# KUBECONFIG if that is set, else the development cluster (scripts/devcluster/devcluster), which is taken down at the end
# unless it ran before. Afterwards nothing that toygres has made may be left in the cluster.
#
#   scripts/e2e-kubernetes.sh [--keep] [-- TEST-FILTER...]
#
#   --keep  leaves the development cluster running
#
# The tests find the cluster by TOYGRES_TEST_KUBECONFIG; without it, as in a plain scripts/test.sh, they are skipped.
# Those with randomness in them print TOYGRES_CHAOS_SEED; set, it has them do the same again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

keep=
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --keep) keep=yes ;;
        --)
            shift
            break
            ;;
        *) fail "unknown argument $1" "$0 --help" ;;
    esac
    shift
done

# The kinds of objects that toygres makes, and its mark on them.
kinds=namespaces,secrets,configmaps,persistentvolumeclaims,persistentvolumes,statefulsets,services,networkpolicies,pods
label=app.kubernetes.io/managed-by=toygres
# How long the cluster may take, in seconds, to remove what the tests have deleted.
removal_limit=60
devcluster=$ROOT/scripts/devcluster/devcluster

# One line "KIND NAMESPACE/NAME" for each of toygres' objects. A volume does not have its claim's labels: one whose claim
# is gone counts too.
objects() {
    local labelled volumes
    labelled=$("${kubectl[@]}" get "$kinds" --all-namespaces --selector "$label" --output json) &&
        volumes=$("${kubectl[@]}" get persistentvolumes --output json) &&
        jq -r --slurp '(.[0].items + (.[1].items | map(select(.status.phase | IN("Released", "Failed")))))[] |
            "\(.kind) \(.metadata.namespace // "")/\(.metadata.name)"' <<<"$labelled$volumes" | LC_ALL=C sort -u
}

# What is there now and was not before the tests.
left_behind() {
    local now
    now=$(objects) || return 1
    LC_ALL=C comm -13 <(printf '%s\n' "$before") <(printf '%s\n' "$now")
}

show_cluster() {
    step "The cluster's last events"
    "${kubectl[@]}" get events --all-namespaces --sort-by=.metadata.creationTimestamp | tail -n 60 >&2 || true
    step "Pods that are not ready"
    "${kubectl[@]}" get pods --all-namespaces --output wide |
        awk 'NR == 1 { print } { split($3, ready, "/") } NR > 1 && ready[1] != ready[2]' >&2 || true
}

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    if [[ -n ${tests:-} ]]; then
        kill "$tests" 2>/dev/null || true
        wait "$tests" || true
    fi
    [[ -z ${ours:-} || -n $keep ]] || "$devcluster" down
}
trap clean_up EXIT
trap 'exit 130' INT TERM

need_packages jq
cd "$ROOT"
if [[ -z ${KUBECONFIG:-} ]]; then
    runs=0
    "$devcluster" status >/dev/null || runs=$?
    # 3: nothing runs.
    if [[ $runs -eq 3 ]]; then ours=yes; fi
    "$devcluster" up
    for major in 17 18; do "$devcluster" image "$major"; done
    KUBECONFIG=$("$devcluster" kubeconfig)
    export KUBECONFIG
    # Only a node of this machine can be killed and started again.
    export TOYGRES_TEST_DEVCLUSTER=$devcluster TOYGRES_TEST_NO_SKIPS=true
else
    # This machine need not be on the cluster's network.
    export TOYGRES_TEST_KUBERNETES_ADDRESS=${TOYGRES_TEST_KUBERNETES_ADDRESS:-port-forward}
fi
kubectl=("$(type -P kubectl || echo "$("$devcluster" directory)/bin/kubectl")" --request-timeout=30s)
[[ -x ${kubectl[0]} ]] || fail "there is no kubectl" "install it, or build one: $devcluster build"
before=$(objects) || fail "the cluster of $KUBECONFIG does not answer" "kubectl --kubeconfig=$KUBECONFIG get nodes"
if [[ -n $before ]]; then
    say "there before the tests, and not theirs:"
    say "$before"
fi

status=0
TOYGRES_TEST_KUBECONFIG=$KUBECONFIG scripts/test.sh -p toygres-testing -p toygres-platform -p toygres-server \
    -p toygres-chaos --test 'kubernetes*' -- --test-threads 4 "$@" &
tests=$!
# Waited for, not run: a signal to this script is heard at once.
wait "$tests" || status=$?
tests=

deadline=$((SECONDS + removal_limit))
while
    left=$(left_behind) || left="unknown: the cluster does not answer"
    [[ -n $left && $SECONDS -lt $deadline ]]
do sleep 1; done
if [[ -n $left ]]; then
    say "error: the tests left in the cluster:"
    say "$left"
    status=1
else
    say "left in the cluster: nothing"
fi
[[ $status -eq 0 ]] || show_cluster
exit "$status"
