# shellcheck shell=bash
# Sourced after lib.sh: programs that Debian has not got, built once from the Go module proxy and kept in TOYGRES_TOOLS
# (~/.cache/toygres-tools).

helm_version=v3.22.0

# The Go to build with.
go_command() { type -P go || { [[ -x /usr/local/go/bin/go ]] && echo /usr/local/go/bin/go; }; }

# go_program PACKAGE VERSION: builds a Go program if need be, and prints its path.
go_program() {
    local package=$1 version=$2 name tools program go new
    name=${package##*/}
    tools=${TOYGRES_TOOLS:-${HOME:?neither TOYGRES_TOOLS nor HOME is set}/.cache/toygres-tools}
    program=$tools/$name-$version
    if [[ ! -x $program ]]; then
        go=$(go_command) || fail "there is no Go to build $name with" "install a current one: https://go.dev/dl"
        step "Building $name $version"
        mkdir -p "$tools"
        new=$(mktemp -d "$tools/new.XXXXXX")
        GOBIN=$new CGO_ENABLED=0 GOFLAGS=-trimpath "$go" install "$package@$version" >&2 || {
            rm -rf "$new"
            fail "$package@$version can't be built" "see above, then run this again"
        }
        mv "$new/$name" "$program"
        rm -rf "$new"
    fi
    printf '%s\n' "$program"
}

helm_program() { go_program helm.sh/helm/v3/cmd/helm "$helm_version"; }
