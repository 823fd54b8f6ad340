#!/bin/sh
# Lays out the image's file system: the program, exactly what it links, root certificates, its user, and nothing else.
# The Dockerfile and scripts/build-image.sh both use it, so their images have the same content.
#
#   deploy/image/rootfs.sh PROGRAM LICENSE DIRECTORY
set -eu
if [ "${1:-}" = --help ] || [ $# -ne 3 ]; then
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
    [ "${1:-}" = --help ] && exit 0 || exit 2
fi
program=$1 license=$2 root=$3
umask 022
export LC_ALL=C

install -D -m 755 "$program" "$root/usr/local/bin/toygres"
# Functions keep their names in backtraces; their lines are twice as much as the rest.
strip --strip-debug "$root/usr/local/bin/toygres"

# The loader has a fixed path. The libraries are in the directory of the loader's machine, where it looks for them.
ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    [ -f "$library" ] || { echo "error: $program links $library, which is not there" >&2 && exit 1; }
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
done

# The authorities that the distribution trusts. Its bundle may hold more, which only this machine trusts.
install -d "$root/etc/ssl/certs"
cat /usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
install -D -m 644 "$license" "$root/usr/share/doc/toygres/LICENSE"
echo 'toygres:x:65532:65532:toygres:/var/lib/toygres:/sbin/nologin' >"$root/etc/passwd"
echo 'toygres:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# A cluster may choose another user.
install -d -m 1777 "$root/tmp" "$root/var/lib/toygres"
