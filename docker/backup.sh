#!/usr/bin/env bash
# Save the databases and artifacts of a team's server in a folder, or bring them back.
#
#   docker/backup.sh save FOLDER       # FOLDER must not exist
#   docker/backup.sh restore FOLDER    # into empty databases, and no artifacts
#
# PostgreSQL's programs find the server by PGHOST, PGPORT, PGUSER and PGPASSWORD. ARTIFACTS is MLflow's folder of
# artifacts, DATABASES the names of the databases. With Docker, both run in containers; before `restore`, start
# only the database, on a new volume (docker/compose.sh up --detach --wait postgres):
#
#   PG_RUN='docker/compose.sh exec -T postgres' FILES_RUN='docker/compose.sh run --rm --no-deps -T mlflow' \
#     PGUSER=harness ARTIFACTS=/mlartifacts docker/backup.sh save FOLDER
set -euo pipefail
umask 077

read -ra pg_run <<< "${PG_RUN:-}"
read -ra files_run <<< "${FILES_RUN:-}"
read -ra databases <<< "${DATABASES:-mlflow optuna}"
artifacts=${ARTIFACTS:-./mlartifacts}
user=${PGUSER:-harness}

fail() {
  echo "error: $1" >&2
  exit 2
}

check_server() {
  "${pg_run[@]}" pg_isready --quiet || fail "PGHOST: no PostgreSQL server answers; set PGHOST and PGPORT, or PG_RUN"
}

save() {
  local folder=${1%/} database
  [ ! -e "$folder" ] || fail "$folder: is there already; give the name of a new folder"
  [ ! -e "$folder.part" ] || fail "$folder.part: is there already, perhaps from a save that was cut short; move it away"
  check_server
  # shellcheck disable=SC2016  # the inner shell expands it
  "${files_run[@]}" sh -c 'test -d "$1"' sh "$artifacts" || fail "ARTIFACTS: there is no folder $artifacts; name MLflow's folder"
  mkdir -p "$folder.part" 2> /dev/null || fail "$folder: cannot be made; give another folder"
  part=$folder.part
  trap 'rm -rf "$part"' EXIT
  # Databases first: artifacts that arrive meanwhile are more than the databases know, never less.
  for database in "${databases[@]}"; do
    "${pg_run[@]}" pg_dump --username "$user" --format=custom --no-owner "$database" > "$folder.part/$database.dump"
  done
  "${files_run[@]}" tar --directory "$artifacts" --create --file - . > "$folder.part/artifacts.tar"
  (cd "$folder.part" && sha256sum -- *.dump artifacts.tar > SHA256SUMS)
  mv "$folder.part" "$folder"
  echo "saved: $folder ($(du -sh "$folder" | cut -f1))"
}

restore() {
  local folder=${1%/} database tables
  [ -f "$folder/SHA256SUMS" ] || fail "$folder: no backup of this script (SHA256SUMS is missing)"
  (cd "$folder" && sha256sum --quiet --check SHA256SUMS) || fail "$folder: damaged; take another backup"
  check_server
  for database in "${databases[@]}"; do
    [ -f "$folder/$database.dump" ] || fail "$folder: has no database $database; name its databases in DATABASES"
    tables=$("${pg_run[@]}" psql --username "$user" --no-align --tuples-only --dbname "$database" --command \
      "select count(*) from information_schema.tables where table_schema = 'public'")
    [ "$tables" -eq 0 ] || fail "$database: has $tables tables; restore into an empty database"
  done
  # shellcheck disable=SC2016  # the inner shell expands it
  if [ -n "$("${files_run[@]}" sh -c 'ls -A "$1" 2> /dev/null || true' sh "$artifacts")" ]; then
    fail "$artifacts: is not empty; move it away"
  fi
  for database in "${databases[@]}"; do
    "${pg_run[@]}" pg_restore --username "$user" --dbname "$database" --no-owner --exit-on-error --single-transaction \
      < "$folder/$database.dump"
  done
  "${files_run[@]}" mkdir -p "$artifacts"
  "${files_run[@]}" tar --directory "$artifacts" --extract --file - < "$folder/artifacts.tar"
  echo "restored: ${databases[*]} and $artifacts from $folder"
}

case "${1:-} $#" in
  "save 2") save "$2" ;;
  "restore 2") restore "$2" ;;
  *) fail "give save or restore, and a folder, as in: docker/backup.sh save backups/today" ;;
esac
