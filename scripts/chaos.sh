#!/usr/bin/env bash
# Injects faults into real servers and writes what came of it to docs/reliability.md.
#
#   scripts/chaos.sh                      as long as it takes to trust it: an hour and a half, the soak an hour of it
#   scripts/chaos.sh --short              what scripts/test.sh runs too: some minutes
#   scripts/chaos.sh --short crashes::    only the tests whose names have that in them; the page is not written
#
#   --seed N      the number that all randomness comes of; without it, a new one, which is printed
#   --old REV     the revision whose server works beside this one's (scripts/chaos-old-server.sh)
#
# The page holds nothing that was lost: a test that finds such a thing fails, and then the page is left as it was.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

long=true seed=$RANDOM$RANDOM old='' names=()
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --short) long=false ;;
        --seed)
            seed=${2:?--seed needs a number}
            shift
            ;;
        --old)
            old=${2:?--old needs a revision}
            shift
            ;;
        -*) fail "unknown argument $1" "$0 --help" ;;
        *) names+=("$1") ;;
    esac
    shift
done

need_packages cc pkg-config openssl postgres psql jq faketime
need_toolchain
cd "$ROOT"
work=$(mktemp -d /tmp/toygres-chaos.XXXXXX)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
account=$work/account
touch "$account"

if [[ $long == true || -n $old ]]; then
    TOYGRES_CHAOS_OLD_SERVER=$(scripts/chaos-old-server.sh ${old:+"$old"})
    export TOYGRES_CHAOS_OLD_SERVER
fi
export TOYGRES_CHAOS_ACCOUNT=$account TOYGRES_CHAOS_SEED=$seed TOYGRES_CHAOS_LONG=$long

say "to do the same again: $0 --seed $seed$([[ $long == true ]] || echo ' --short')${names[0]+ ${names[*]}}"
step "Faults (seed $seed)"
begun=$SECONDS
if [[ $long == true && ${#names[@]} -eq 0 ]]; then
    # The hour of the soak passes beside the others.
    program=$(cargo test --locked -p toygres-chaos --test chaos --no-run --message-format=json |
        jq -r 'select(.reason == "compiler-artifact" and .target.name == "chaos").executable')
    "$program" --nocapture soak:: >"$work/soak" 2>&1 &
    soak=$!
    trap 'kill "$soak" 2>/dev/null || true; rm -rf "$work"' EXIT
    # Whatever fails is told at once.
    "$program" --nocapture --skip soak::
    step "The rest of the soak"
    wait "$soak" || fail "the soak failed: $(<"$work/soak")" "scripts/chaos.sh --seed $seed soak::"
    cat "$work/soak"
else
    cargo test --locked -p toygres-chaos --test chaos -- ${names[@]+"${names[@]}"}
fi
if [[ ${#names[@]} -gt 0 ]]; then
    jq -c 'del(.recovery_seconds)' "$account"
    say "docs/reliability.md is left as it was: it is of all tests"
    exit
fi
minutes=$(((SECONDS - begun + 59) / 60))

# The account as rows: area, fault, times, what was lost, and how long it took until all was well again.
rows() {
    jq -rs '
        def seconds: if . == null then "" else (. * 100 | round / 100 | tostring) + " s" end;
        group_by([.area, .fault])[]
        | (map(.recovery_seconds) | add | sort) as $recoveries
        | [.[0].area, .[0].fault, (map(.injected) | add), (map(.lost) | add),
           ($recoveries[($recoveries | length) / 2 | floor] | seconds), ($recoveries | last | seconds)]
        | "| " + (map(tostring) | join(" | ")) + " |"' "$account"
}

document() {
    cat <<END
# Reliability

What was done to toygres on purpose, and what was lost. Made by \`scripts/chaos.sh\`: change that, not this.

$(date -u +%F), commit $(git rev-parse --short HEAD), seed $seed, $minutes minutes$([[ $long == true ]] || echo ', the short version').

Every fault meets real servers in processes of their own, a real PostgreSQL, and clients that go on working. A test
fails when anything that was acknowledged is lost, done twice or left behind, so that a page with another number than 0
under "lost" is never written. Recovery is counted from the end of the fault to work that succeeds again. Of "SIGKILL of
the server before and after each activity" it is counted from the server's death to the end of what it was doing, which
nobody takes up before its locks have run out.

| area | fault | injected | lost | recovery, median | longest |
|---|---|---|---|---|---|
$(rows)

Faults of a platform's own (a full disk, a port that is taken, an API server that lies) are injected by the tests of
toygres-platform, those of the orchestration store by the tests of toygres-engine, each beside a test that fails without
the guard. Parsers are given any text by their crates' tests, and by \`scripts/fuzz.sh\`. On a Kubernetes cluster,
\`scripts/e2e-kubernetes.sh\` removes and changes by hand what instances are made of, kills pods, the programs of the
node, and toygres at each of its writes and at any time, has toygres be away, and has the API server be away, lie, and
do what it is asked without an answer.

## What is not shown

- A statement in the engine's tables that is no JSON at all stops the orchestrations of all instances, since
  duroxide's own query reads it; what is JSON but not understood stops one actor, which is replaced.
- A turn that is under way at the very moment when a machine's clock is set may leave a timer by the wrong time. Its
  actor is replaced once it stands still for longer than a create may take.
- The database's machine losing its disk: that is what backups of the control database are for.
END
}

document >"$work/reliability.md"
cp "$work/reliability.md" docs/reliability.md
say "written: docs/reliability.md"

# Not of the page: what they find has its own test.
if [[ $long == true ]]; then
    step "Any text, for every parser"
    # proptest's own number is 256.
    PROPTEST_CASES=4000 cargo test --locked --workspace --all-features --lib
    scripts/fuzz.sh --seconds 20
fi
