# shellcheck shell=bash
# Sourced after lib.sh: programs that are fetched or built once, without root, and kept in TOYGRES_TOOLS
# (~/.cache/toygres-tools): from the Go module proxy those that Debian has not got, from Debian those whose package would
# start a server.

helm_version=v3.22.0
collector_manifest=$ROOT/observability/collector/manifest.yaml
# The oldest Go that builds the collector.
collector_go=1.25

tools_directory() { echo "${TOYGRES_TOOLS:-${HOME:?neither TOYGRES_TOOLS nor HOME is set}/.cache/toygres-tools}"; }

# The Go to build with.
go_command() { type -P go || { [[ -x /usr/local/go/bin/go ]] && echo /usr/local/go/bin/go; }; }

# need_go VERSION: makes sure that there is a Go that is as new, by Debian's if that one is.
need_go() {
    local wanted=$1 go version
    if ! go_command >/dev/null && is_debian && dpkg --compare-versions \
        "$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^  Candidate: [0-9]*://p')" ge "$wanted" 2>/dev/null; then
        need_packages go
    fi
    go=$(go_command) ||
        fail "there is no Go: $wanted or newer is needed" "install a current one: https://go.dev/dl" "then run this again"
    version=$("$go" env GOVERSION)
    version=${version#go}
    # From 1.21 Go fetches what is newer by itself, if it may.
    [[ $(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1) == "$wanted" || $("$go" env GOTOOLCHAIN) == @(auto|*+*) ]] ||
        fail "$go is $version, which is too old: $wanted is needed" "install a current one: https://go.dev/dl"
}

# go_program PACKAGE VERSION: builds a Go program if need be, and prints its path.
go_program() {
    local package=$1 version=$2 name tools program go new
    name=${package##*/}
    tools=$(tools_directory) || return 1
    program=$tools/$name-$version
    if [[ ! -x $program ]]; then
        go=$(go_command) || fail "there is no Go to build $name with" "install a current one: https://go.dev/dl"
        step "Building $name $version"
        mkdir -p "$tools"
        new=$(mktemp -d "$tools/new.XXXXXX")
        GOBIN=$new CGO_ENABLED=0 GOFLAGS=-trimpath "$go" install "$package@$version" >&2 || {
            rm -rf "$new"
            fail "$package@$version can't be built" "see above; what it is built of comes from $("$go" env GOPROXY)" "run this again"
        }
        mv "$new/$name" "$program"
        rm -rf "$new"
    fi
    printf '%s\n' "$program"
}

helm_program() { go_program helm.sh/helm/v3/cmd/helm "$helm_version"; }

# The OpenTelemetry Collector of the parts that the manifest names, built if need be. Another manifest is another program.
collector_program() {
    local tools program version builder new
    tools=$(tools_directory) || return 1
    version=$(sed -n 's/^  version: //p' "$collector_manifest")
    program=$tools/toygres-collector-$version-$(sha256sum <"$collector_manifest" | cut -c 1-12)
    if [[ ! -x $program ]]; then
        need_go "$collector_go"
        builder=$(go_program go.opentelemetry.io/collector/cmd/builder "v$version") || return 1
        step "Building the OpenTelemetry Collector $version, 2 to 10 minutes (log: $program.log)"
        new=$(mktemp -d "$tools/new.XXXXXX")
        # The builder makes its directory where temporary ones are, and calls the Go that is on the path.
        { TMPDIR=$new PATH=$(dirname "$(go_command)"):$PATH "$builder" --config "$collector_manifest" >"$program.log" 2>&1 &&
            mv "$new"/*/toygres-collector "$program"; } || {
            rm -rf "$new"
            tail -n 20 "$program.log" >&2
            fail "the OpenTelemetry Collector can't be built" \
                "see $program.log; what it is built of comes from $("$(go_command)" env GOPROXY)" \
                "run this again: what has been fetched and compiled is kept"
        }
        rm -rf "$new" "$program.log"
    fi
    printf '%s\n' "$program"
}

# The directory of prometheus and promtool: the system's, else of Debian's package, which is unpacked and not installed, as
# it would make a service that starts at once and at every boot.
prometheus_programs() {
    local tools program new
    if has_command prometheus && has_command promtool; then
        dirname "$(type -P prometheus)"
        return
    fi
    tools=$(tools_directory) || return 1
    program=$tools/prometheus
    if [[ ! -d $program ]]; then
        is_debian || fail "missing: prometheus, promtool" "install Prometheus with this system's package manager, then run this again"
        step "Fetching Prometheus from Debian"
        mkdir -p "$tools"
        new=$(mktemp -d "$tools/new.XXXXXX")
        # As root apt would fetch as another user, who may not write there. The list of packages is fetched only if what is
        # there does not do.
        (
            download() { apt_get -o APT::Sandbox::User=root download prometheus; }
            cd "$new" && { download || { apt_get update && download; }; } && dpkg -x prometheus_*.deb package &&
                package/usr/bin/prometheus --version && package/usr/bin/promtool --version
        ) >"$new/log" 2>&1 || {
            tail -n 20 "$new/log" >&2
            rm -rf "$new"
            fail "Prometheus can't be fetched from Debian" "see above; sudo apt-get update may help" "then run this again"
        }
        # Fails where another process was faster.
        mv -T "$new/package/usr/bin" "$program" 2>/dev/null || [[ -x $program/prometheus ]] || fail "$program can't be written"
        rm -rf "$new"
    fi
    printf '%s\n' "$program"
}
