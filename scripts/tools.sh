# shellcheck shell=bash
# Sourced after lib.sh: programs that are fetched or built once, without root, and kept in TOYGRES_TOOLS
# (~/.cache/toygres-tools): from the Go module proxy those that Debian has not got, from Debian those whose package would
# start a server.

helm_version=v3.22.0
collector_manifest=$ROOT/observability/collector/manifest.yaml
# The oldest Go that builds the collector.
collector_go=1.25
# Loki and Tempo, with the checksums of their modules. Tempo's releases have no names that the module proxy knows: this
# is the state shortly before 2.8.0, by its commit. Of that one the checksum database knows nothing, so that the sums are
# those by which Grafana, which is made of it too, knows it.
loki_version=v3.7.8
loki_sums=(h1:bJ0WFWVOjgvG/jYmT9fIX15SYXXDwuEu/IMgTwMA97U= h1:SubN2HoviBLMmtr/jiMLom/3l3I9CIl8NvWIAEVa2C0=)
loki_go=1.26.5
tempo_version=v1.5.1-0.20250529124718-87c2dc380cec
tempo_sums=(h1:wnzJov9RhSHGaTYGzTygL4qq986fLen8xSqnQgaMd28= h1:j1IY7J2rUz7TcTjFVVx6HCpyTlYOJPtXuGRZ7sI+vSo=)
tempo_go=1.24.3

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

# build_module GO MODULE VERSION PACKAGE SUM SUM-OF-GO.MOD DIRECTORY: builds DIRECTORY/program.
build_module() (
    go=$1 module=$2 version=$3 package=$4 sum=$5 mod_sum=$6 directory=$7
    mkdir "$directory/get" && cd "$directory/get" &&
        echo 'module get' >go.mod &&
        printf '%s\n' "$module $version $sum" "$module $version/go.mod $mod_sum" >go.sum &&
        source=$("$go" mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p') &&
        cp -r --no-preserve=mode "$source" ../source && cd ../source || return 1
    # A directory that is a module of its own is not in this one: the proxy's is taken.
    while read -r replaced; do
        "$go" mod edit -dropreplace="$replaced" || return 1
    done < <(sed -nE 's#^(replace)?[[:space:]]*([^[:space:]]+)( [^ ]+)? => \./.*#\2#p' go.mod)
    CGO_ENABLED=0 GOFLAGS='-trimpath -mod=mod' "$go" build -ldflags='-s -w' -o ../program "./$package"
)

# module_program MODULE VERSION PACKAGE GO SUM SUM-OF-GO.MOD: builds a program of a module that replaces modules that it
# is made of, which is why go install refuses it: as its own main module, in a copy. Prints its path.
module_program() {
    local module=$1 version=$2 package=$3 wanted=$4 sum=$5 mod_sum=$6 name tools program go new
    name=${package##*/}
    tools=$(tools_directory) || return 1
    program=$tools/$name-$version
    if [[ ! -x $program ]]; then
        need_go "$wanted"
        go=$(go_command)
        step "Building $name $version, 5 to 20 minutes (log: $program.log)"
        mkdir -p "$tools"
        new=$(mktemp -d "$tools/new.XXXXXX")
        build_module "$go" "$module" "$version" "$package" "$sum" "$mod_sum" "$new" >"$program.log" 2>&1 </dev/null || {
            tail -n 20 "$program.log" >&2
            rm -rf "$new"
            fail "$name can't be built" "see $program.log; what it is built of comes from $("$go" env GOPROXY)" \
                "run this again: what has been fetched and compiled is kept"
        }
        mv "$new/program" "$program"
        rm -rf "$new" "$program.log"
    fi
    printf '%s\n' "$program"
}

loki_program() { module_program github.com/grafana/loki/v3 "$loki_version" cmd/loki "$loki_go" "${loki_sums[@]}"; }
tempo_program() { module_program github.com/grafana/tempo "$tempo_version" cmd/tempo "$tempo_go" "${tempo_sums[@]}"; }

# Grafana's home, with the program and the files of its pages: GRAFANA_HOME, or that of a program on the path.
grafana_home() {
    local program home
    if [[ -n ${GRAFANA_HOME:-} ]]; then
        grafana_program "$GRAFANA_HOME" >/dev/null && printf '%s\n' "$GRAFANA_HOME"
        return
    fi
    for program in grafana grafana-server; do
        program=$(type -P "$program") || continue
        # Packages have the pages elsewhere.
        for home in "$(dirname "$(dirname "$(readlink -f "$program")")")" /usr/share/grafana; do
            if [[ -d $home/public && -d $home/conf ]]; then
                printf '%s\n' "$home"
                return
            fi
        done
    done
    return 1
}

# grafana_program HOME: the command that serves, one word a line.
grafana_program() {
    local program
    for program in "$1/bin/grafana" "$(type -P grafana)"; do
        if [[ -x $program ]]; then
            printf '%s\n' "$program" server
            return
        fi
    done
    for program in "$1/bin/grafana-server" "$(type -P grafana-server)"; do
        if [[ -x $program ]]; then
            printf '%s\n' "$program"
            return
        fi
    done
    return 1
}

# installed_component NAME: prints where the program of a component of the observability stack is, if it is there, for
# Grafana its home.
installed_component() {
    local program
    case $1 in
        otel-collector) program=$(collector_path) ;;
        prometheus) program=$(type -P prometheus) || program=$(tools_directory)/prometheus/prometheus ;;
        loki) program=$(tools_directory)/loki-$loki_version ;;
        tempo) program=$(tools_directory)/tempo-$tempo_version ;;
        grafana) program=$(grafana_home) || return 1 ;;
    esac
    [[ -x $program ]] && printf '%s\n' "$program"
}

helm_program() { go_program helm.sh/helm/v3/cmd/helm "$helm_version"; }

collector_version() { sed -n 's/^  version: //p' "$collector_manifest"; }
# Another manifest is another program.
collector_path() {
    echo "$(tools_directory)/toygres-collector-$(collector_version)-$(sha256sum <"$collector_manifest" | cut -c 1-12)"
}

# The OpenTelemetry Collector of the parts that the manifest names, built if need be.
collector_program() {
    local tools program version builder new
    tools=$(tools_directory) || return 1
    version=$(collector_version)
    program=$(collector_path)
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
