#!/bin/sh
# Run once, by the image's entrypoint, in an empty data folder. Two databases, as MLflow and Optuna
# both have a table `alembic_version`.
set -eu
for name in mlflow optuna; do
    createdb --username "$POSTGRES_USER" --maintenance-db postgres "$name"
done
