#!/usr/bin/env bash
# Starts PostgreSQL in a container, after making its data directory if it is empty. Takes what the official image takes:
# POSTGRES_PASSWORD, POSTGRES_USER, POSTGRES_DB, POSTGRES_INITDB_ARGS (each also as NAME_FILE, a file with the value),
# POSTGRES_HOST_AUTH_METHOD, PGDATA, and files in /docker-entrypoint-initdb.d. Runs as root or as postgres.
set -euo pipefail

# from_file NAME: the variable's value is in the file that NAME_FILE names.
from_file() {
    local file=${1}_FILE
    [[ -n ${!file:-} ]] || return 0
    export "$1=$(<"${!file}")"
    unset "$file"
}

initialise() {
    local user=${POSTGRES_USER:-postgres}
    local database=${POSTGRES_DB:-$user} host_auth=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z ${POSTGRES_PASSWORD:-} && $host_auth != trust ]]; then
        echo "Error: the database is not initialised, and POSTGRES_PASSWORD is not set" >&2
        exit 1
    fi
    # It may hold quoted words, as in the official image.
    local more=()
    eval "more=(${POSTGRES_INITDB_ARGS:-})"
    initdb --username="$user" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-}") ${more[@]+"${more[@]}"}
    printf '\nhost all all all %s\n' "$host_auth" >>"$PGDATA/pg_hba.conf"

    # By the socket only, so that nobody takes this server for the one that stays.
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    export PGPASSWORD=${POSTGRES_PASSWORD:-}
    local psql=(psql --no-psqlrc -v ON_ERROR_STOP=1 -U "$user") file
    if [[ $database != postgres ]]; then
        "${psql[@]}" -d postgres -v database="$database" <<<'CREATE DATABASE :"database";'
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        # shellcheck source=/dev/null
        case $file in
            *.sh) if [[ -x $file ]]; then "$file"; else . "$file"; fi ;;
            *.sql) "${psql[@]}" -d "$database" -f "$file" ;;
            *.sql.gz) gunzip -c "$file" | "${psql[@]}" -d "$database" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGPASSWORD
}

[[ $# -gt 0 ]] || set -- postgres
if [[ $1 == -* ]]; then set -- postgres "$@"; fi
[[ $1 == postgres ]] || exec "$@"
for argument in "$@"; do
    case $argument in --version | -V | --help | '-?' | --describe-config) exec "$@" ;; esac
done

export PGDATA=${PGDATA:-/var/lib/postgresql/data}
for name in POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_INITDB_ARGS; do from_file "$name"; done
mkdir -p "$PGDATA" /var/run/postgresql
if [[ $(id -u) -eq 0 ]]; then
    chmod 700 "$PGDATA"
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    exec gosu postgres "$0" "$@"
fi
# The directory may be another user's, and open enough.
chmod 700 "$PGDATA" || true
if [[ -s $PGDATA/PG_VERSION ]]; then
    echo "The data directory holds a database: not initialised again."
else
    initialise
    echo "PostgreSQL is initialised, and starts."
fi
exec "$@"
