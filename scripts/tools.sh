# shellcheck shell=bash
# Sourced after lib.sh: programs that Debian has not got, built once from the Go module proxy and kept in TOYGRES_TOOLS
# (~/.cache/toygres-tools).

helm_version=v3.22.0

# go_program PACKAGE VERSION: builds a Go program if need be, and prints its path.
go_program() {
    local package=$1 version=$2 name directory go=
    name=${package##*/}
    directory=${TOYGRES_TOOLS:-${HOME:?neither TOYGRES_TOOLS nor HOME is set}/.cache/toygres-tools}/$name-$version
    if [[ ! -x $directory/$name ]]; then
        go=$(type -P go || true)
        go=${go:-/usr/local/go/bin/go}
        [[ -x $go ]] || fail "there is no Go to build $name with" "install a current one: https://go.dev/dl"
        step "Building $name $version"
        GOBIN=$directory CGO_ENABLED=0 GOFLAGS=-trimpath "$go" install "$package@$version" >&2 ||
            fail "$package@$version can't be built" "see above, then run this again"
    fi
    printf '%s\n' "$directory/$name"
}

helm_program() { go_program helm.sh/helm/v3/cmd/helm "$helm_version"; }
