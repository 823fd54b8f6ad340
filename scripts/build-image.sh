#!/usr/bin/env bash
# Makes toygres' container image without Docker, as a docker-archive (docker load, ctr images import, skopeo copy):
# the same content as deploy/image/Dockerfile gives, of this machine's libraries. The same program on the same system gives the
# same image.
#
#   scripts/build-image.sh [--tag NAME] [OUT.tar]
#
#   --tag NAME  the image's name; without it localhost/toygres:VERSION
#   OUT.tar     where it is written; without it target/toygres-image.tar
#
# Needs Debian or Ubuntu. It does not need root, if nothing must be installed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tag='' out=''
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --tag)
            [[ $# -gt 1 ]] || fail "--tag needs a name" "$0 --help"
            tag=$2
            shift
            ;;
        -*) fail "unknown argument $1" "$0 --help" ;;
        *)
            [[ -z $out ]] || fail "one file is written, not two" "$0 --help"
            out=$1
            ;;
    esac
    shift
done

need_packages cc pkg-config openssl jq ca-certificates
program=$(build_program)
version=$("$program" --version | cut -d ' ' -f 2)
tag=${tag:-localhost/toygres:$version}
out=${out:-$(target_directory)/toygres-image.tar}
revision=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null || true)

work=$(mktemp -d)
trap 'rm -rf "$work" "$out.work"' EXIT
trap 'exit 130' INT TERM
# The directory's own mode is that of the image's root directory.
install -d -m 755 "$work/root"
"$ROOT/deploy/image/rootfs.sh" "$program" "$ROOT/LICENSE" "$work/root"
config=$(jq -nc --arg version "$version" --arg revision "$revision" '{
    User: "65532:65532", WorkingDir: "/var/lib/toygres",
    Env: ["PATH=/usr/local/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "TOYGRES_HOME=/var/lib/toygres"],
    Entrypoint: ["/usr/local/bin/toygres"], Cmd: ["server", "start", "--foreground"],
    Labels: ({title: "toygres", description: "PostgreSQL as a service", licenses: "MIT", version: $version, revision: $revision}
        | with_entries(.key |= "org.opencontainers.image." + .))}')
pack_image "$work/root" "$out" "$tag" "$config" --owner=0 --group=0
printf '%s\n' "$tag"
printf 'digest: sha256:%s\n' "$(tar -xOf "$out" config.json | sha256sum | cut -d ' ' -f 1)"
printf 'size: %s MiB in %s\n' "$(($(stat -c %s "$out") / 1024 / 1024))" "$out"
