#!/usr/bin/env bash
# Checks deploy/helm/toygres: lints the chart, renders it in every variant, and holds each manifest against the schema of
# a current Kubernetes, in which a field that it does not know is an error. Then makes sure that this finds a misspelt
# field, and that the chart refuses values that can't work.
#
#   scripts/check-deploy.sh
#
# Helm, kubeconform and the schema come from the Go module proxy, some minutes the first time, and are kept in
# TOYGRES_TOOLS (~/.cache/toygres-tools). Where they are not and there is no Go to get them with, nothing is checked, and
# that is said.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/tools.sh
. "$ROOT/scripts/tools.sh"

kubeconform_version=v0.8.0
kubernetes_version=v1.36.3

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown argument $1" "$0 --help" ;;
esac

schema=${TOYGRES_TOOLS:-$HOME/.cache/toygres-tools}/kubernetes-$kubernetes_version
chart=$ROOT/deploy/helm/toygres
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ---- Schema ----

# One file a kind, as kubeconform looks for it, and one with all definitions. What is not defined may not be there.
make_schema() {
    [[ ! -d $schema ]] || return 0
    step "Fetching the schema of Kubernetes $kubernetes_version"
    local go module
    go=$(go_command)
    # Of its 300 MB one file is kept.
    module=$(cd "$work" && GOPATH=$work/go GOFLAGS=-modcacherw "$go" mod download -json \
        "k8s.io/kubernetes@$kubernetes_version" | jq -r .Dir) ||
        fail "the sources of Kubernetes can't be fetched" "see above, then run this again"
    mkdir "$work/schema"
    jq '{definitions: .definitions | with_entries(.value |= (
            if .format == "int-or-string" then {anyOf: [{type: "string"}, {type: "integer"}]}
            elif .properties and (.additionalProperties | not) then . + {additionalProperties: false}
            else . end))}' "$module/api/openapi-spec/swagger.json" >"$work/schema/definitions.json"
    local file name
    jq -r '.definitions | to_entries[] | .key as $name | .value["x-kubernetes-group-version-kind"] // [] | .[] |
            ([.kind, (.group | split(".")[0] // empty), .version] | join("-") | ascii_downcase) + " " + $name' \
        "$work/schema/definitions.json" | while read -r file name; do
        printf '{"%sref": "definitions.json#/definitions/%s"}\n' '$' "$name" >"$work/schema/$file.json"
    done
    mv "$work/schema" "$schema"
}

# It is what is fetched last.
if [[ ! -d $schema ]] && ! go_command >/dev/null; then
    say "SKIPPED: scripts/check-deploy.sh: there is no Go to build Helm and kubeconform with; install one: https://go.dev/dl"
    exit
fi
need_packages jq
helm=$(helm_program)
kubeconform=$(go_program github.com/yannh/kubeconform/cmd/kubeconform "$kubeconform_version")
make_schema

# ---- Checks ----

failed=()
# What has to be set.
needed=(--set image.repository=registry.example.org/toygres --set secrets.databaseUrl.name=toygres
    --set secrets.masterKey.name=toygres --set secrets.bootstrapToken.name=toygres)
own_tls=(--set tls.secretName=toygres-tls)
terminated=(--set tls.terminated=true)

render() { "$helm" template toygres "$chart" --namespace toygres --kube-version "$kubernetes_version" "$@"; }
validate() {
    "$kubeconform" -strict -summary -schema-location "$schema/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}

# good NAME HELM-ARGS...: it is rendered, and every manifest of it is good.
good() {
    local name=$1
    shift
    step "$name"
    { render "$@" >"$work/manifests.yaml" && validate "$work/manifests.yaml" >&2; } || failed+=("$name")
}

# refused MESSAGE HELM-ARGS...: it is not rendered, and this is said.
refused() {
    local message=$1
    shift
    if render "$@" >/dev/null 2>"$work/message"; then
        failed+=("refused: $message")
    elif ! grep -qF -- "$message" "$work/message"; then
        failed+=("refused with: $message")
        cat "$work/message" >&2
    fi
}

step "helm lint"
"$helm" lint --strict --quiet "$chart" "${needed[@]}" "${own_tls[@]}" >&2 || failed+=("helm lint")
"$helm" lint --strict --quiet "$chart" --values "$chart/values-production.yaml" >&2 || failed+=("helm lint, production")

good "defaults, own TLS" "${needed[@]}" "${own_tls[@]}"
good "TLS by a proxy, with an ingress" "${needed[@]}" "${terminated[@]}" --set ingress.enabled=true,ingress.host=a.example.org
good "production" --values "$chart/values-production.yaml"
good "many namespaces" "${needed[@]}" "${own_tls[@]}" --set 'instances.allowedNamespaces={one,two,three}'
good "without what is optional" "${needed[@]}" "${own_tls[@]}" --set secrets.bootstrapToken.enabled=false \
    --set networkPolicy.enabled=false,podDisruptionBudget.enabled=false,api.shutdownDelaySeconds=0
# YAML takes such names for numbers and truth values, if they are not in quotes.
good "names like numbers" --set image.repository=registry.example.org/toygres --namespace 1 --values - <<'YAML'
secrets:
  databaseUrl: {name: "2", key: "2"}
  masterKey: {name: "3", key: "true"}
  bootstrapToken: {name: "4", key: "null"}
  databaseCa: {name: "5", key: "1e3"}
tls: {secretName: "6"}
image: {pullSecrets: ["7"]}
priorityClassName: "8"
instances: {namespace: "9", allowedNamespaces: ["10"]}
ingress: {enabled: true, className: "11", host: "12", tlsSecretName: "13"}
YAML
good "everything else that can be set" "${needed[@]}" "${own_tls[@]}" --set secrets.databaseCa.name=ca \
    --set image.digest="sha256:$(printf '%064d' 0)" --set 'image.pullSecrets={registry}' --set podAnnotations.a=b \
    --set nodeSelector.a=b --set 'tolerations[0].key=a' --set 'tolerations[0].operator=Exists' --set priorityClassName=high \
    --set service.type=LoadBalancer --set service.annotations.a=b --set settings.TOYGRES_QUOTA_INSTANCES='"5"' \
    --set instances.image.digests.17="sha256:$(printf '%064d' 0)" --set-literal instances.serviceAnnotations.a='{name}' \
    --set 'instances.allowedSources={10.0.0.0/8,namespace:apps}' --set networkPolicy.apiServer.peers[0].ipBlock.cidr=10.0.0.1/32

step "The chart sets what the program reads, all of it and nothing else"
# The variables of the README's table; the last ones have no meaning in a pod, or are said by an argument.
diff <(grep -rhoE 'TOYGRES_[A-Z_]+' "$chart" | sort -u) \
    <(grep -oE '^\| `TOYGRES_[A-Z_]+' "$ROOT/README.md" | cut -c 4- | grep -vxE 'TOYGRES_(LOCAL_PORTS|KUBERNETES_CONTEXT|MODE)' |
        sort -u) >&2 || failed+=("variables")

step "Kubernetes of old has the older PodDisruptionBudget"
"$helm" template toygres "$chart" --kube-version v1.20.2 "${needed[@]}" "${own_tls[@]}" |
    grep -q '^apiVersion: policy/v1beta1$' || failed+=("policy/v1beta1")

step "What can't work is refused, and why is said"
for unset in image.repository secrets.databaseUrl.name secrets.masterKey.name secrets.bootstrapToken.name; do
    refused "$unset is not set" "${needed[@]}" "${own_tls[@]}" --set "$unset="
done
refused "does not serve tokens and passwords in the clear" "${needed[@]}"
refused "exclude each other" "${needed[@]}" "${own_tls[@]}" "${terminated[@]}"
refused "can't be a namespace of instances" "${needed[@]}" "${own_tls[@]}" --set 'instances.allowedNamespaces={toygres}'
refused "must not have a comma" "${needed[@]}" "${own_tls[@]}" --set instances.serviceAnnotations.a='b\,c'
refused "ingress.host is not set" "${needed[@]}" "${own_tls[@]}" --set ingress.enabled=true
refused "podDisruptionBudgets" "${needed[@]}" "${own_tls[@]}" --set podDisruptionBudgets.enabled=true
refused "TOYGRES_MODE" "${needed[@]}" "${own_tls[@]}" --set settings.TOYGRES_MODE=all

step "The schema finds a misspelt field"
render "${needed[@]}" "${own_tls[@]}" | sed 's/terminationGracePeriodSeconds/terminationGraceSeconds/' >"$work/misspelt.yaml"
if validate "$work/misspelt.yaml" >"$work/message" 2>&1; then
    failed+=("a misspelt field")
else
    grep -F terminationGraceSeconds "$work/message" >&2 || failed+=("a misspelt field is not named")
fi

if [[ ${#failed[@]} -gt 0 ]]; then
    say "failed:$(printf ' %s;' "${failed[@]}")"
    exit 1
fi
say "the chart is good"
