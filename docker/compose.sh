#!/bin/sh
# `docker compose ARGUMENTS` for this folder, with what compose.yaml cannot find out by itself: a
# password, the owner of the checkout, and the commit that goes into the image. GPU=1: on GPUs.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "error: $1" >&2
    exit 2
}

default() {
    sed -n "s/^$1=//p" .env
}

# The containers' users are not the host's: they need 0644. The folder keeps other users out.
if [ ! -s secrets/postgres_password ]; then
    mkdir -p secrets
    chmod 700 secrets
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > secrets/.new
    chmod 644 secrets/.new
    mv secrets/.new secrets/postgres_password
fi

HARNESS_UID="${HARNESS_UID:-$(stat -c %u ..)}"
[ "$HARNESS_UID" != 0 ] ||
    fail "HARNESS_UID: root owns this checkout, and no container runs as root; chown it to a user"

if [ -z "${HARNESS_COMMIT:-}" ] && HARNESS_COMMIT="$(git rev-parse HEAD 2> /dev/null)"; then
    # As harness/common/provenance.py: what the harness itself rewrites is no change.
    changed="$(git -C .. status --porcelain --untracked-files=no -- . \
        ':!README.md' ':!docs' ':!experiments/results')"
    HARNESS_COMMIT="$HARNESS_COMMIT${changed:+-dirty}"
fi

case ",${COMPOSE_PROFILES:-$(default COMPOSE_PROFILES)}," in
*,s3,*)
    [ -n "${S3_ARTIFACTS:-$(default S3_ARTIFACTS)}" ] || fail "S3_ARTIFACTS: not set; as s3://my-bucket/mlflow"
    [ -s secrets/s3_credentials ] ||
        fail "docker/secrets/s3_credentials: not there; docker/README.md says what it holds"
    ;;
esac

if [ -n "${GPU:-}" ]; then
    COMPOSE_FILE="${COMPOSE_FILE:-compose.yaml:compose.gpu.yaml}"
fi
COMPOSE_FILE="${COMPOSE_FILE:-compose.yaml}"
export COMPOSE_FILE HARNESS_COMMIT HARNESS_UID
exec docker compose "$@"
