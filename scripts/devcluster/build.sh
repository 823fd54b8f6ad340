# shellcheck shell=bash
# Sourced by devcluster: builds Kubernetes and the container images into $K. What is built stands under its own name only
# when it is complete, so an interrupted build is begun again by the next command.

# The Debian suite that Kubernetes, Go and containerd come from, and what it calls them.
debian_suite=bookworm
kubernetes_version=1.20.2
go_root=/usr/lib/go-1.19
kubernetes_programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt_options=(-q -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false)

# The mirror that this machine uses.
debian_mirror() {
    # Debian has the one file or the other.
    { cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true; } |
        grep -E '^(URIs:|deb )' | grep -oE -m 1 'https?://[^ ]+' ||
        fail "no Debian mirror is configured" "see /etc/apt/sources.list.d/debian.sources"
}

# The digest of a function and of files: what is built is built anew when its recipe has changed.
recipe() {
    local function=$1
    shift
    { declare -f "$function" && cat "$@"; } </dev/null | sha256sum | cut -d ' ' -f 1
}

# follows_recipe FILE RECIPE: whether what is described in the file was made by this recipe. What has no description was
# made before there were any, and is good.
follows_recipe() { [[ ! -e $1 || $(<"$1") == "$2" ]]; }

# logged NAME WHAT COMMAND...: runs a long command with its output in a log, says now and then that it still runs, and
# shows the end of the log if it fails.
logged() {
    local log=$K/log/$1.log what=$2 began=$SECONDS status=0
    shift 2
    step "$what (log: $log)"
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null &
    build=$!
    while is_running "$build"; do
        sleep 0.5
        if [[ $((SECONDS - began)) -ge 60 ]]; then
            began=$SECONDS
            say "    still at it: $(tail -n 1 "$log" | cut -c 1-100)"
        fi
    done
    wait "$build" || status=$?
    build=
    [[ $status -ne 0 ]] || return 0
    tail -n 20 "$log" >&2
    fail "$what failed" "see $log" "run this again: what is complete is kept"
}

# Ends what an interrupted command has begun.
stop_build() {
    local pids
    [[ -n ${build:-} ]] || return 0
    mapfile -t pids < <(descendants "$build")
    kill -KILL "${pids[@]}" 2>/dev/null || true
}

install_packages() {
    need_packages cc curl jq openssl containerd runc etcd cni iptables conntrack socat ethtool ip sysctl mmdebstrap golang-1.19
}

# ---- Kubernetes ----

# edit FILE SED-SCRIPT: fails if it changes nothing.
edit() {
    local before
    before=$(sha256sum <"$1")
    sed -i "$2" "$1"
    [[ $(sha256sum <"$1") != "$before" ]] || fail "$1 is not as expected: $2 changes nothing"
}

# The source package, in the directory that Go looks for it in.
unpack_kubernetes() {
    local work=$1 source=$2 mirror apt
    mirror=$(debian_mirror)
    rm -rf "${source:?}" "$work/reflect2"
    mkdir -p "$source" "$work/lists/partial" "$work/reflect2"
    echo "deb-src [signed-by=$keyring] $mirror $debian_suite main" >"$work/sources.list"
    apt=(apt-get "${apt_options[@]}" -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
    cd "$work"
    "${apt[@]}" update
    # Its signature and digests are checked by apt.
    "${apt[@]}" source --download-only kubernetes
    tar -xzf "$work"/kubernetes_*"$kubernetes_version".orig.tar.gz -C "$source" --strip-components 1

    # The vendored reflect2 crashes the API server on custom resources with Go 1.18 or newer: Debian's own does not.
    cd "$work/reflect2"
    apt-get "${apt_options[@]}" -o APT::Sandbox::User=root download golang-github-modern-go-reflect2-dev
    dpkg -x golang-github-modern-go-reflect2-dev_*.deb .
    rm -rf "$source/vendor/github.com/modern-go/reflect2"
    cp -r usr/share/gocode/src/github.com/modern-go/reflect2 "$source/vendor/github.com/modern-go/"
    rm -f "$source/vendor/github.com/modern-go/reflect2/go.mod"

    # A Service's port without protocol can't be applied by the server in this version, as its schema has no default.
    # shellcheck disable=SC2016
    edit "$source/staging/src/k8s.io/api/core/v1/types.go" \
        '/^type ServicePort struct/,/^}/ s|^\t// Default is TCP\.$|\t// +default="TCP"|'
    # Pods that run as another user must be able to enter their host-path volumes.
    edit "$source/pkg/volume/hostpath/host_path.go" '/^func .*Provision(/,/^}/ s|0750|0777|'
}

# Debian's tarball comes without the generated schema of the API.
generate_openapi() {
    local work=$1 directories
    go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    directories=$(grep -rl --include='*.go' -E '^// *\+k8s:openapi-gen=' cmd pkg plugin staging/src/k8s.io |
        grep -vE '^staging/src/k8s.io/(code-generator|sample-apiserver)/' | xargs -n 1 dirname | LC_ALL=C sort -u |
        sed 's|^staging/src/|vendor/|; s|^|k8s.io/kubernetes/|' | paste -sd ,)
    "$work/openapi-gen" --logtostderr -i "$directories" -p k8s.io/kubernetes/pkg/generated/openapi \
        -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations" \
        --output-base "$GOPATH/src"
}

compile_kubernetes() {
    local work=$K/build source=$K/build/go/src/k8s.io/kubernetes flags='-s -w' package program targets=()
    unpack_kubernetes "$work" "$source"
    cd "$source"
    export PATH=$go_root/bin:$PATH GOPATH=$work/go GOCACHE=$work/cache GO111MODULE=off CGO_ENABLED=0 GOENV=off
    unset GOROOT GOFLAGS
    generate_openapi "$work"
    # Programs that do not know their version are refused by each other.
    for package in component-base/version client-go/pkg/version; do
        package=k8s.io/kubernetes/vendor/k8s.io/$package
        flags+=" -X $package.gitVersion=v$kubernetes_version -X $package.gitMajor=1 -X $package.gitMinor=20"
        flags+=" -X $package.gitTreeState=clean"
    done
    rm -rf "${work:?}/bin"
    mkdir "$work/bin"
    for program in "${kubernetes_programs[@]}"; do targets+=("./cmd/$program"); done
    go build -v -tags providerless -ldflags "$flags" -o "$work/bin/" "${targets[@]}"
}

build_kubernetes() {
    local program complete=yes made_by
    made_by=$(recipe compile_kubernetes <(declare -f unpack_kubernetes generate_openapi))
    for program in "${kubernetes_programs[@]}"; do [[ -x $K/bin/$program ]] || complete=; done
    if [[ -n $complete ]] && follows_recipe "$K/bin/recipe" "$made_by"; then return; fi
    logged build-kubernetes "Building Kubernetes $kubernetes_version from Debian's sources, 4 to 8 minutes" compile_kubernetes
    echo "$made_by" >"$K/build/bin/recipe"
    rm -rf "${K:?}/bin"
    mv "$K/build/bin" "$K/bin"
    rm -rf "$K/build"
}

# ---- Images ----

# What keeps a pod's namespaces open.
assemble_pause() {
    local root=$K/img/root-pause
    rm -rf --one-file-system "$root"
    mkdir "$root"
    gcc -Os -static -s -o "$root/pause" "$here/image/pause.c"
    pack_image "$root" "$K/img/pause.tar" localhost/pause:1 '{"Entrypoint": ["/pause"], "Env": ["PATH=/"]}'
    rm -rf --one-file-system "$root"
}

build_pause() {
    local made_by
    made_by=$(recipe assemble_pause "$here/image/pause.c")
    if [[ -s $K/img/pause.tar ]] && follows_recipe "$K/img/pause.recipe" "$made_by"; then return; fi
    logged image-pause "Building the image of pause" assemble_pause
    echo "$made_by" >"$K/img/pause.recipe"
}

# The suite of Debian that has a major version of PostgreSQL.
suite_of_postgres() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo sid ;;
        *) fail "no suite of Debian is known for PostgreSQL $1" "choose one of 15, 17, 18" ;;
    esac
}

# bootstrap_debian MAJOR ROOT: a small Debian with PostgreSQL, without a cluster of its own.
bootstrap_debian() {
    local major=$1 root=$2 suite mirror
    suite=$(suite_of_postgres "$major")
    mirror=$(debian_mirror) || return 1
    # In namespaces of its own, so that its mounts in the root and its processes end with it, however it ends.
    # shellcheck disable=SC2016 # mmdebstrap's shell expands it
    unshare --mount --pid --fork --kill-child --mount-proc \
        mmdebstrap --mode=root --variant=minbase --include="postgresql-$major,locales,gosu" \
        --setup-hook='mkdir -p "$1/etc/postgresql-common"' \
        --setup-hook='echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf"' \
        --aptopt='APT::Install-Recommends false' --aptopt='Acquire::Check-Valid-Until false' \
        --aptopt='Acquire::Retries 3' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='force-confold' \
        "$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main"
}

assemble_postgres() {
    local major=$1 root=$K/img/root-$1 data=/var/lib/postgresql/data attempt
    # Where the official images have it.
    if [[ $major -ge 18 ]]; then data=/var/lib/postgresql/$major/docker; fi
    for attempt in 1 2 3; do
        rm -rf --one-file-system "$root"
        # A mirror that is just being updated may miss a file.
        if bootstrap_debian "$major" "$root"; then break; fi
        [[ $attempt -lt 3 ]] || fail "Debian can't be installed into $root"
        sleep 10
    done

    # The user and group of the official images; whoever has the number makes way.
    # shellcheck disable=SC2016 # the shell in the new root expands it
    chroot "$root" sh -euc '
        user=$(id -u postgres) group=$(id -g postgres)
        taken=$(getent group 999 | cut -d : -f 1)
        if [ -n "$taken" ]; then groupmod --gid 899 "$taken"; fi
        groupmod --gid 999 postgres
        usermod --uid 999 --gid 999 postgres
        find / -xdev \( -uid "$user" -o -gid "$group" \) -exec chown -h postgres:postgres {} +
        echo "en_US.UTF-8 UTF-8" >>/etc/locale.gen
        locale-gen'
    install -d -o 999 -g 999 -m 1777 "$root/var/lib/postgresql" "$root/var/lib/postgresql/data"
    install -d -o 999 -g 999 -m 3777 "$root/run/postgresql"
    install -d "$root/docker-entrypoint-initdb.d"
    install -m 755 "$here/image/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
    sed -ri "s/^#?(listen_addresses)\s*=\s*\S+/\1 = '*'/" "$root/usr/share/postgresql/$major/postgresql.conf.sample"
    # The compiler that PostgreSQL can do without is half of the image.
    rm -rf "$root"/usr/lib/*/{libLLVM,libz3.so}* "$root/usr/lib/postgresql/$major/lib"/{llvmjit.so,bitcode} \
        "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

    pack_image "$root" "$K/img/postgres-$major.tar" "postgres:$major" "$(
        jq -nc --arg major "$major" --arg data "$data" '{
            Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/\($major)/bin",
                "LANG=en_US.utf8", "PG_MAJOR=\($major)", "PGDATA=\($data)"],
            Entrypoint: ["docker-entrypoint.sh"], Cmd: ["postgres"], ExposedPorts: {"5432/tcp": {}}, StopSignal: "SIGINT"}'
    )"
    rm -rf --one-file-system "$root"
}

# build_postgres MAJOR: the image postgres:MAJOR.
build_postgres() {
    local major=$1 suite made_by
    suite=$(suite_of_postgres "$major")
    made_by=$(recipe assemble_postgres "$here/image/docker-entrypoint.sh" <(declare -f bootstrap_debian))
    if [[ -s $K/img/postgres-$major.tar ]] && follows_recipe "$K/img/postgres-$major.recipe" "$made_by"; then return; fi
    logged "image-postgres-$major" "Assembling the image postgres:$major from Debian $suite" assemble_postgres "$major"
    echo "$made_by" >"$K/img/postgres-$major.recipe"
}

build_all() {
    install_packages
    build_kubernetes
    build_pause
    build_postgres 15
}
