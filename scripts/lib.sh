# shellcheck shell=bash
# Sourced by the other scripts and by the launcher: what they say, the Rust toolchain, packages, building, and the
# processes that toygres has started. Only bash and coreutils are taken for granted.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
step() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [[ $# -eq 0 ]] || printf '  next: %s\n' "$@" >&2
    exit 1
}

# The comment at the head of the calling script is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# ---- Rust ----

# The directory of build output.
target_directory() { realpath -m -- "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# Finds cargo also where HOME is an empty directory: rustup's programs then look for its toolchains and for fetched
# crates in the wrong place, which really are beside those programs.
find_toolchain() {
    local cargo bin
    cargo=$(command -v cargo) || return 1
    bin=$(cd "$(dirname "$cargo")" && pwd)
    if [[ -e $bin/rustup && $bin == */.cargo/bin ]]; then
        local owner=${bin%/.cargo/bin}
        if [[ -z ${RUSTUP_HOME:-} && ! -d ${HOME:-}/.rustup && -d $owner/.rustup ]]; then
            export RUSTUP_HOME=$owner/.rustup
        fi
        if [[ -z ${CARGO_HOME:-} && ! -d ${HOME:-}/.cargo && -w $owner/.cargo ]]; then
            export CARGO_HOME=$owner/.cargo
        fi
    fi
}

# Makes sure that cargo has the version that rust-toolchain.toml pins.
need_toolchain() {
    local wanted
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")
    find_toolchain || fail "Rust is not installed" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain $wanted" \
        "then open a new shell, and run this again"
    if (cd "$ROOT" && cargo --version) >/dev/null 2>&1; then
        local version
        version=$(cd "$ROOT" && cargo --version | cut -d ' ' -f 2)
        [[ $(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1) == "$wanted" ]] ||
            fail "cargo $version is too old: $wanted is needed" "install Rust by https://rustup.rs"
    elif command -v rustup >/dev/null; then
        step "Installing Rust $wanted"
        rustup toolchain install "$wanted" --profile minimal --component clippy --component rustfmt >&2 ||
            fail "Rust $wanted can't be installed" "rustup toolchain install $wanted"
    else
        (cd "$ROOT" && cargo --version) || fail "cargo does not work" "install Rust by https://rustup.rs"
    fi
}

# The program, built if a source is newer than it. Prints its path.
build_program() {
    local program stamp
    program=$(target_directory)/release/toygres
    stamp=$program.built
    if [[ -x $program && -e $stamp ]]; then
        local newer
        newer=$(cd "$ROOT" && find Cargo.toml Cargo.lock rust-toolchain.toml migrations toygres-*/Cargo.toml \
            toygres-*/src -newer "$stamp" -print -quit)
        if [[ -z $newer ]]; then
            printf '%s\n' "$program"
            return
        fi
    fi
    if find_toolchain; then
        step "Building toygres (the first time takes some minutes)"
        mkdir -p "$(dirname "$program")"
        # From before the build: what is changed during it is built the next time.
        touch "$stamp.begun"
        local quiet=(--quiet)
        if [[ -t 2 || -n ${TOYGRES_BUILD_PROGRESS:-} ]]; then quiet=(); fi
        (cd "$ROOT" && CARGO_TARGET_DIR=$(target_directory) \
            cargo build --release --package toygres-cli ${quiet[@]+"${quiet[@]}"} >&2) || return 1
        mv "$stamp.begun" "$stamp"
    elif [[ -x $program ]]; then
        say "warning: there is no cargo to build the newer sources; this is an older program"
    else
        fail "toygres is not built, and there is no cargo to build it" "scripts/start-control-plane.sh"
    fi
    printf '%s\n' "$program"
}

# ---- Packages ----

has_command() { command -v "$1" >/dev/null; }
has_openssl() { [[ -e /usr/include/openssl/ssl.h ]] || pkg-config --exists openssl 2>/dev/null; }
# Where PostgreSQL's server programs are, the newest ones.
postgres_programs() {
    local bin
    for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(pg_config --bindir 2>/dev/null)"; do
        if [[ -x $bin/initdb && -x $bin/postgres ]]; then
            echo "$bin"
            return
        fi
    done
    return 1
}

is_debian() { [[ -r /etc/os-release ]] && grep -qiE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release && has_command apt-get; }

# Another program may be installing at the same time, and a mirror may fail once.
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"; }
apt_install() { apt_get install -y --no-install-recommends "$@"; }

# need_packages WHAT...: installs what is missing of these and of commands that are packages of the same name; where it
# can't, says what to install.
need_packages() {
    local what packages=()
    for what in "$@"; do
        case $what in
            cc) has_command cc || packages+=(build-essential) ;;
            openssl) { has_openssl && has_command openssl; } || packages+=(libssl-dev openssl) ;;
            postgres) postgres_programs >/dev/null || packages+=(postgresql) ;;
            psql) has_command psql || packages+=(postgresql-client) ;;
            script) has_command script || packages+=(bsdutils) ;;
            sysctl) has_command sysctl || packages+=(procps) ;;
            ip) has_command ip || packages+=(iproute2) ;;
            faketime) compgen -G '/usr/lib*/**/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(libfaketime) ;;
            etcd) has_command etcd || packages+=(etcd-server) ;;
            cni) [[ -x /usr/lib/cni/bridge ]] || packages+=(containernetworking-plugins) ;;
            go) has_command go || packages+=(golang-go) ;;
            golang-1.19) [[ -x /usr/lib/go-1.19/bin/go ]] || packages+=(golang-1.19-go) ;;
            ca-certificates) [[ -d /usr/share/ca-certificates/mozilla ]] || packages+=(ca-certificates) ;;
            python3) python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv) ;;
            *) has_command "$what" || packages+=("$what") ;;
        esac
    done
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if ! is_debian; then
        fail "missing: ${packages[*]} (Debian's names)" "install them with this system's package manager, then run this again"
    fi
    [[ $(id -u) -eq 0 ]] ||
        fail "missing: ${packages[*]}" "sudo apt-get update && sudo apt-get install -y ${packages[*]}" "then run this again"
    step "Installing ${packages[*]}"
    # Debian's package would make and start a database server of its own, which nobody asked for.
    local no_cluster=/etc/postgresql-common/createcluster.d/toygres-install.conf made_no_cluster=
    if [[ " ${packages[*]} " == *" postgresql "* && ! -e $no_cluster ]]; then
        mkdir -p "${no_cluster%/*}"
        echo 'create_main_cluster = false' >"$no_cluster"
        made_no_cluster=yes
    fi
    local log status=0
    log=$(mktemp)
    # The list of packages is fetched only if what is there does not do.
    apt_install "${packages[@]}" >"$log" 2>&1 || { apt_get update >>"$log" 2>&1 && apt_install "${packages[@]}" >>"$log" 2>&1; } ||
        status=$?
    [[ -z $made_no_cluster ]] || rm -f "$no_cluster"
    if [[ $status -ne 0 ]]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "installing ${packages[*]} failed" "apt-get update && apt-get install -y ${packages[*]}"
    fi
    rm -f "$log"
}

# ---- Container images ----

# pack_image ROOT TAR TAG CONFIG [TAR-OPTION...]: an image of one layer, as docker-archive. The same root gives the same
# archive, whenever it is made.
pack_image() {
    local root=$1 tar=$2 tag=$3 config=$4 work=$2.work same=(--sort=name --mtime=@0 --numeric-owner --format=gnu)
    shift 4
    rm -rf "$work"
    mkdir "$work"
    tar -C "$root" "${same[@]}" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' "$@" -cf "$work/layer.tar" .
    jq -nc --argjson config "$config" --arg layer "sha256:$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)" \
        --arg architecture "$(dpkg --print-architecture)" \
        '{architecture: $architecture, os: "linux", created: "1970-01-01T00:00:00Z", config: $config,
          rootfs: {type: "layers", diff_ids: [$layer]}}' >"$work/config.json"
    jq -nc --arg tag "$tag" '[{Config: "config.json", RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$work/manifest.json"
    tar -C "$work" "${same[@]}" --owner=0 --group=0 --mode=a=r -cf "$work/image" manifest.json config.json layer.tar
    mv "$work/image" "$tar"
    rm -rf "$work"
}

# ---- What toygres has started ----

# The directory of logs, pid file and lock.
toygres_home() { realpath -m -- "${TOYGRES_HOME:-${HOME:?neither TOYGRES_HOME nor HOME is set}/.toygres}"; }

# The directory of PostgreSQL's directories.
postgres_home() {
    if [[ -z ${TOYGRES_HOME:-} && $(id -u) -eq 0 ]]; then echo /var/lib/toygres; else toygres_home; fi
}

# The process id on the first line of a file, if there is one.
recorded_pid() {
    local pid=
    { read -r pid <"$1"; } 2>/dev/null || [[ -n $pid ]] || return 1
    pid=${pid//[[:space:]]/}
    [[ $pid =~ ^[1-9][0-9]*$ ]] && echo "$pid"
}

# recorded_holder PID-FILE FILE: prints the pid on the first line of a file. The number may belong to another program by
# now, so the process must have FILE open.
recorded_holder() {
    local pid open
    pid=$(recorded_pid "$1") || return 1
    for open in "/proc/$pid/fd"/*; do
        if [[ $open -ef $2 ]]; then
            echo "$pid"
            return
        fi
    done
    return 1
}

# Prints the pid of the server that runs on this home: it has the home's lock file open.
server_pid() {
    local home
    home=$(toygres_home)
    recorded_holder "$home/server.pid" "$home/server.lock"
}

# works_on PID DIRECTORY: whether the process is a PostgreSQL program at work in this directory or just below.
works_on() {
    local pid=$1 directory=$2 program=
    { read -r program <"/proc/$pid/comm"; } 2>/dev/null || return 1
    [[ $program == postgres || $program == initdb ]] || return 1
    [[ /proc/$pid/cwd -ef $directory || /proc/$pid/cwd -ef $directory/data ]] ||
        { tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qE "^(-D)?$directory(/|$)"; } 2>/dev/null
}

# recorded_postgres GLOB: one line "PID DIRECTORY" for each PostgreSQL that toygres has started and that runs, in the
# directories that match ("control", "instances/*").
recorded_postgres() {
    local home file pid directory
    home=$(postgres_home)
    # The glob is meant as one.
    # shellcheck disable=SC2231
    for file in "$home"/$1/data/postmaster.pid "$home"/$1/initdb.pid; do
        pid=$(recorded_pid "$file") || continue
        directory=$(dirname "$file")
        directory=${directory%/data}
        if works_on "$pid" "$directory"; then echo "$pid $directory"; fi
    done
}

# descendants PID...: the processes and all that they have started.
descendants() {
    local -A parent=()
    local file line pid fields
    for file in /proc/[0-9]*/stat; do
        { read -r line <"$file"; } 2>/dev/null || continue
        # The name in parentheses may hold anything; state and parent come behind it.
        read -r -a fields <<<"${line##*) }"
        pid=${file#/proc/}
        parent[${pid%/stat}]=${fields[1]}
    done
    local found=("$@") next=0
    while [[ $next -lt ${#found[@]} ]]; do
        for pid in "${!parent[@]}"; do
            if [[ ${parent[$pid]} == "${found[next]}" ]]; then found+=("$pid"); fi
        done
        next=$((next + 1))
    done
    printf '%s\n' ${found[@]+"${found[@]}"}
}

# Whether the process is there and not merely waiting to be buried.
is_running() {
    local line
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    [[ ${line##*) } != Z* ]]
}

# wait_ended SECONDS PID...: waits until all have ended; fails if one has not.
wait_ended() {
    local deadline=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do
        while is_running "$pid"; do
            [[ $SECONDS -lt $deadline ]] || return 1
            sleep 0.05
        done
    done
}
