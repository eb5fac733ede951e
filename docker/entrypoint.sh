#!/bin/sh
# libpq reads PGPASSWORD, so database URLs carry no password and none gets into a log.
set -eu
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
    export PGPASSWORD
fi
exec "$@"
