#!/usr/bin/env bash
# Proves that toygres runs in Kubernetes as it is deployed there: installs the chart (two API pods, two workers) beside a
# control database of its own, makes a database over the API, connects to it by TLS, restarts all of toygres while
# clients ask for more, deletes everything, and makes sure that nothing is left.
#
#   scripts/e2e-deploy.sh [--keep] [--image REPOSITORY:TAG]
#
#   --keep   leaves the development cluster running
#   --image  toygres' image; needed on a cluster other than the development cluster, for which it is built here
#
# Uses the cluster of KUBECONFIG if that is set, else the development cluster (scripts/devcluster/devcluster), which is
# taken down at the end unless it ran before. This machine must reach the cluster's service addresses.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"

keep='' image=''
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --keep) keep=yes ;;
        --image)
            [[ ${2:-} == *:* ]] || fail "--image needs a repository and a tag" "$0 --help"
            image=$2
            shift
            ;;
        *) fail "unknown argument $1" "$0 --help" ;;
    esac
    shift
done

devcluster=$ROOT/scripts/devcluster/devcluster
chart=$ROOT/deploy/helm/toygres
release=toygres
namespace=toygres-e2e-$(openssl rand -hex 4)
# Where the databases are: apart from toygres' own secrets.
databases=$namespace-databases
# How long, in seconds, pods, databases and their removal may take on a busy machine.
limit=300
# Databases that are asked for while toygres restarts.
creates=4

# ---- What is left, whatever happens ----

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    local status=$?
    trap '' INT TERM
    if [[ -n ${work:-} ]]; then
        if [[ ${#clients[@]} -gt 0 ]]; then
            kill "${clients[@]}" 2>/dev/null || true
            wait "${clients[@]}" 2>/dev/null || true
        fi
        if [[ -n ${kubectl[*]:-} ]]; then
            [[ $status -eq 0 || $status -eq 130 ]] || show_cluster
            step "Removing $namespace"
            [[ ! -s $work/manifests.yaml ]] || "${kubectl[@]}" delete --ignore-not-found --wait=false \
                --filename "$work/manifests.yaml" >/dev/null || true
            patiently delete namespace --ignore-not-found --timeout="${limit}s" "$databases" "$namespace" >&2 || true
        fi
        rm -rf "$work"
    fi
    [[ -z ${ours:-} || -n $keep ]] || "$devcluster" down
}

# shellcheck disable=SC2317
show_cluster() {
    local pod
    for place in "$namespace" "$databases"; do
        step "Pods and events of $place"
        "${kubectl[@]}" --namespace "$place" get pods --output wide >&2 || true
        "${kubectl[@]}" --namespace "$place" get events --sort-by=.metadata.creationTimestamp | tail -n 30 >&2 || true
    done
    for pod in $("${kubectl[@]}" get pods --output name); do
        step "The last lines of $pod"
        "${kubectl[@]}" logs --tail 30 "$pod" >&2 || true
        "${kubectl[@]}" logs --tail 30 --previous "$pod" 2>/dev/null >&2 || true
    done
}

clients=()
trap clean_up EXIT
trap 'exit 130' INT TERM

# ---- The cluster and the image ----

need_packages jq curl openssl psql
helm=$(helm_program)
if [[ -z ${KUBECONFIG:-} ]]; then
    runs=0
    "$devcluster" status >/dev/null || runs=$?
    # 3: nothing runs.
    if [[ $runs -eq 3 ]]; then ours=yes; fi
    "$devcluster" up
    KUBECONFIG=$("$devcluster" kubeconfig)
    export KUBECONFIG
fi
work=$(mktemp -d)
if [[ -z $image ]]; then
    [[ $KUBECONFIG == "$("$devcluster" kubeconfig)" ]] || fail "which image is not said" \
        "scripts/build-image.sh makes one: push it to a registry that the cluster reaches" "$0 --image REPOSITORY:TAG"
    image=localhost/toygres:e2e
    step "Building the image"
    built=$("$ROOT/scripts/build-image.sh" --tag "$image" "$work/image.tar" | tee >(cat >&2) | grep '^digest')
    again=$("$ROOT/scripts/build-image.sh" --tag "$image" "$work/again.tar" | grep '^digest')
    [[ $built == "$again" ]] || fail "the image is another one each time that it is built: $built, then $again"
    "$devcluster" load "$work/image.tar"
    rm "$work"/*.tar
fi
kubectl=("$(type -P kubectl || echo "$("$devcluster" directory)/bin/kubectl")" --request-timeout=30s)
[[ -x ${kubectl[0]} ]] || fail "there is no kubectl" "install it, or build one: $devcluster build"

# ---- What the chart needs ----

# until_done WHAT COMMAND...: asks again until it succeeds.
until_done() {
    local what=$1 deadline=$((SECONDS + limit))
    shift
    until "$@"; do
        [[ $SECONDS -lt $deadline ]] || fail "not within $limit s: $what"
        sleep 0.5
    done
}

# For what waits longer than an answer may take.
patiently() { "${kubectl[@]}" --request-timeout=0 "$@"; }

# address SERVICE: the address of a service in the cluster.
address() { "${kubectl[@]}" get service "$1" --output 'jsonpath={.spec.clusterIP}'; }

# put_secret NAME KEY: makes a secret of what comes in. Not by an argument, which the list of processes would show.
put_secret() { "${kubectl[@]}" create secret generic "$1" --from-file="$2=/dev/stdin" >/dev/null; }

step "Preparing the namespace $namespace"
"${kubectl[@]}" create namespace "$namespace" >/dev/null ||
    fail "the cluster of $KUBECONFIG does not take a namespace" "kubectl --kubeconfig=$KUBECONFIG get nodes"
"${kubectl[@]}" create namespace "$databases" >/dev/null
# What says no namespace is there: of the chart's objects some do.
"${kubectl[@]}" config view --raw --minify --flatten >"$work/kubeconfig"
export KUBECONFIG=$work/kubeconfig
"${kubectl[@]}" config set-context --current --namespace="$namespace" >/dev/null
password=$(openssl rand -hex 16)
token=$(openssl rand -hex 24)
printf 'authorization: Bearer %s\n' "$token" >"$work/authorization"
printf %s "$password" | put_secret control-database password
openssl rand -base64 32 | tr -d '\n' | put_secret toygres-master-key key
printf %s "$token" | put_secret toygres-bootstrap-token token
"${kubectl[@]}" apply --filename - >/dev/null <<'YAML'
apiVersion: v1
kind: Service
metadata:
  name: control-database
spec:
  selector: {app: control-database}
  ports: [{port: 5432, protocol: TCP}]
---
apiVersion: v1
kind: Pod
metadata:
  name: control-database
  labels: {app: control-database}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, runAsNonRoot: true}
  containers:
    - name: postgres
      image: postgres:15
      env:
        - {name: POSTGRES_DB, value: toygres}
        - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
        - name: POSTGRES_PASSWORD
          valueFrom: {secretKeyRef: {name: control-database, key: password}}
      # By TCP: while it is being set up it listens on its socket only.
      readinessProbe:
        exec: {command: [pg_isready, --host=127.0.0.1]}
        periodSeconds: 1
        timeoutSeconds: 5
      volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumes: [{name: data, emptyDir: {}}]
YAML
printf 'postgres://postgres:%s@%s:5432/toygres' "$password" "$(address control-database)" | put_secret toygres-database url

cat >"$work/values.yaml" <<YAML
image: {repository: "${image%:*}", tag: "${image##*:}", pullPolicy: IfNotPresent}
api: {replicas: 2}
worker: {replicas: 2}
secrets:
  databaseUrl: {name: toygres-database, key: url}
  masterKey: {name: toygres-master-key, key: key}
  bootstrapToken: {name: toygres-bootstrap-token, key: token}
tls: {secretName: toygres-tls}
instances:
  namespace: "$databases"
  versions: [15]
  defaultCpu: "0"
  defaultMemoryMb: 256
  # A cluster need not have DNS.
  address: cluster-ip
YAML
version=$("${kubectl[@]}" version --output json 2>/dev/null | jq -r .serverVersion.gitVersion)
"$helm" template "$release" "$chart" --namespace "$namespace" --kube-version "$version" --values "$work/values.yaml" \
    >"$work/manifests.yaml"
# The service first: the certificate is for its address.
"${kubectl[@]}" create --dry-run=client --output json --filename "$work/manifests.yaml" |
    jq -s '[.[] | if .kind == "List" then .items[] else . end | select(.kind == "Service")]
        | {apiVersion: "v1", kind: "List", items: .}' >"$work/service.json"
"${kubectl[@]}" apply --filename "$work/service.json" >/dev/null
service=$(jq -r '.items[0].metadata.name' "$work/service.json")
api=$(address "$service")
url=https://$api:$(jq -r '.items[0].spec.ports[0].port' "$work/service.json")
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=toygres \
    -addext "subjectAltName=IP:$api" -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
"${kubectl[@]}" create secret tls toygres-tls --cert="$work/tls.crt" --key="$work/tls.key" >/dev/null
patiently wait --for=condition=Ready "--timeout=${limit}s" pod/control-database >/dev/null

# ---- Installed ----

step "Installing the chart"
began=$SECONDS
"${kubectl[@]}" apply --filename "$work/manifests.yaml" >/dev/null
mapfile -t deployments < <("${kubectl[@]}" get deployments --output name)
rolled_out() {
    local deployment
    for deployment in "${deployments[@]}"; do
        patiently rollout status "--timeout=${limit}s" "$deployment" >/dev/null ||
            fail "$deployment is not ready after $limit s"
    done
}
rolled_out
ready=$("${kubectl[@]}" get deployments --output json | jq -c '[.items[].status.readyReplicas]')
[[ $ready == '[2,2]' ]] || fail "2 API pods and 2 workers are expected, and ready are $ready"
installed=$((SECONDS - began))

# may COMPONENT NAMESPACE ANSWER VERB RESOURCE [KUBECTL-OPTION...]: fails if it is another answer.
may() {
    local who=$release-$1 where=$2 wanted=$3 answer
    shift 3
    answer=$("${kubectl[@]}" auth can-i "$@" --namespace "$where" --as "system:serviceaccount:$namespace:$who" 2>/dev/null) || true
    [[ $answer == "$wanted" ]] || fail "whether $who may $* in $where: $answer, and should be $wanted"
}
step "The pods may do what they have to, and no more"
may worker "$databases" yes create statefulsets.apps
may worker "$databases" no get pods --subresource=log
may api "$databases" yes get pods --subresource=log
may api "$databases" no create statefulsets.apps
may api "$databases" no patch secrets
for component in api worker; do
    may "$component" "$namespace" yes get secrets/toygres-ca
    may "$component" "$namespace" no get secrets/toygres-master-key
    may "$component" "$namespace" no list secrets
    may "$component" "$databases" no create pods
    may "$component" "$databases" no create pods --subresource=exec
    may "$component" default no list pods
done

# ask METHOD PATH [CURL-OPTION...]
ask() {
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --noproxy '*' --max-time 30 --cacert "$work/tls.crt" --header "@$work/authorization" \
        --request "$method" "$@" "$url$path"
}
get() { ask GET "$1" --fail-with-body; }

# not_answered WHAT STATUS ANSWER MESSAGE: notes a request that was not answered as it should be. That the database is too
# slow for now is no fault of a restart: a busy machine has it too, and clients are told to ask again.
not_answered() {
    local list=$work/failed
    if [[ $2 == 503 ]] && grep -q '"database_unavailable"' "$3"; then list=$work/busy; fi
    echo "$1: $2 $(cat "$4" "$3" 2>/dev/null)" >>"$list"
}

# create NAME: asks for a database; the answer is in the file accepted-NAME, what went wrong in the file failed. Asks
# again only if nobody took the connection.
create() {
    local name=$1 status code deadline=$((SECONDS + limit))
    while
        code=0
        status=$(ask POST /api/instances --output "$work/answer-$name" --write-out '%{http_code}' \
            --header 'content-type: application/json' \
            --data "{\"name\": \"$name\", \"password\": \"$password\", \"internal\": true, \"storage_size_gb\": 1}" \
            2>"$work/message-$name") || code=$?
        [[ $code -eq 7 && $SECONDS -lt $deadline ]]
    do
        echo "$name" >>"$work/refused"
        sleep 0.2
    done
    if [[ $status == 202 ]]; then
        mv "$work/answer-$name" "$work/accepted-$name"
    else
        not_answered "create $name" "$status" "$work/answer-$name" "$work/message-$name"
    fi
}

# ended OPERATION: whether it has ended; what it is then is in $state.
ended() {
    local operation
    operation=$(get "/api/operations/$1") || return 1
    state=$(jq -r .state <<<"$operation")
    [[ $state == succeeded || $state == failed || $state == cancelled ]]
}

# must_succeed NAME: waits until the operation that was accepted has done its work.
must_succeed() {
    local operation
    operation=$(jq -r .operation.id "$work/accepted-$1")
    until_done "the operation on $1" ended "$operation"
    [[ $state == succeeded ]] || fail "the operation on $1 is $state: $(get "/api/operations/$operation")"
}

# ---- A database ----

: >"$work/failed"
: >"$work/refused"
: >"$work/busy"
step "Making a database"
began=$SECONDS
create first
[[ -e $work/accepted-first ]] || fail "the database was refused: $(cat "$work/failed" "$work/busy")"
must_succeed first
made=$((SECONDS - began))

get /api/certificate-authority >"$work/ca.pem"
connection=$(get '/api/instances/first/connection?reveal=true')
sql() {
    PGPASSWORD=$(jq -r .password <<<"$connection") PGCONNECT_TIMEOUT=10 psql --no-psqlrc --quiet --tuples-only --no-align \
        --command "$1" "$(jq -r '"host=\(.host) port=\(.port) user=\(.user) dbname=\(.database)"' <<<"$connection") sslmode=verify-full sslrootcert=$work/ca.pem"
}
sql "create table seen as select 'before' as what"
tls=$(sql 'select version from pg_stat_ssl where pid = pg_backend_pid() and ssl')
[[ -n $tls ]] || fail "the connection to the database is not encrypted"

# ---- Restarted under way ----

read_on() {
    local status code
    while [[ ! -e $work/stop ]]; do
        code=0
        status=$(ask GET /api/instances --output "$work/read" --write-out '%{http_code}' 2>"$work/message") || code=$?
        echo "$status" >>"$work/reads"
        if [[ $code -eq 7 ]]; then
            echo read >>"$work/refused"
        elif [[ $status != 200 ]]; then
            not_answered read "$status" "$work/read" "$work/message"
        fi
    done
}
ask_for_more() {
    local number
    for ((number = 1; number <= creates; number++)); do
        create "more-$number"
        # Spread over the restart.
        sleep 3
    done
}

step "Restarting all of toygres, while clients ask"
mapfile -t before < <("${kubectl[@]}" get pods --selector app.kubernetes.io/name=toygres --output name)
began=$SECONDS
read_on &
clients+=($!)
ask_for_more &
asks=$!
clients+=("$asks")
"${kubectl[@]}" rollout restart "${deployments[@]}" >/dev/null
rolled_out
# Also those that were replaced have ended.
patiently wait --for=delete "--timeout=${limit}s" "${before[@]}" >/dev/null
restarted=$((SECONDS - began))
wait "$asks"
touch "$work/stop"
wait "${clients[@]}"
clients=()

accepted=0
for ((number = 1; number <= creates; number++)); do
    [[ -e $work/accepted-more-$number ]] || continue
    accepted=$((accepted + 1))
    must_succeed "more-$number"
done
[[ $(sql 'select what from seen') == before ]] || fail "the first database lost what was in it"
reads=$(wc -l <"$work/reads")
refused=$(wc -l <"$work/refused")
failed=$(wc -l <"$work/failed")
busy=$(wc -l <"$work/busy")
say "asked meanwhile: $reads reads, $creates creates; $refused connections refused, $failed requests failed," \
    "$busy told to ask again as the database was busy"
[[ $refused -eq 0 ]] || fail "connections were refused: pods stopped to listen before the service left them out" \
    "api.shutdownDelaySeconds of the chart is how long they wait"
[[ $failed -eq 0 ]] || fail "requests failed while toygres was restarted: $(sort "$work/failed" | uniq -c | head -n 20)"

# ---- What the pods say of themselves ----

restarts=$("${kubectl[@]}" get pods --selector app.kubernetes.io/name=toygres --output json |
    jq '[.items[].status.containerStatuses[].restartCount] | add')
[[ $restarts -eq 0 ]] || fail "containers of toygres were started $restarts times more than they should"
"${kubectl[@]}" logs --selector app.kubernetes.io/name=toygres --tail=-1 >"$work/log"
jq --exit-status --slurp 'length > 0 and all(.[]; .level and .message)' "$work/log" >/dev/null ||
    fail "the log of toygres is not of JSON lines: $(head -n 3 "$work/log")"

# ---- Gone ----

step "Deleting the databases"
mapfile -t names < <(get '/api/instances' | jq -r '.[].name')
[[ ${#names[@]} -ge $((accepted + 1)) ]] || fail "there are $((accepted + 1)) databases, and listed are: ${names[*]}"
for name in "${names[@]}"; do
    ask DELETE "/api/instances/$name" --fail-with-body >"$work/accepted-$name"
done
for name in "${names[@]}"; do must_succeed "$name"; done
nothing_left() {
    left=$("${kubectl[@]}" --namespace "$databases" get --selector app.kubernetes.io/managed-by=toygres --output name \
        secrets,persistentvolumeclaims,statefulsets,services,networkpolicies,pods) && [[ -z $left ]]
}
until_done "what the databases were made of is removed" nothing_left

step "Uninstalling"
patiently delete --wait --timeout="${limit}s" --filename "$work/manifests.yaml" >/dev/null
patiently wait --for=delete "--timeout=${limit}s" pod --selector app.kubernetes.io/name=toygres >/dev/null
say "seen: toygres ready in $installed s; a database in $made s, reached by $tls with its certificate checked;" \
    "restarted in $restarted s: $reads reads and $accepted of $creates creates accepted, all of them made, nothing refused or failed;" \
    "nothing left of ${#names[@]} databases"
