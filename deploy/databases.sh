#!/bin/sh
# Makes the two roles and databases of a cluster: Airflow's metadata, and the lake's catalogue. The postgres image runs this
# once, on an empty volume. On a Postgres of your own, run it as a superuser (PGHOST, PGUSER and PGPASSWORD say where and who).
set -eu
for name in airflow lake; do
    case $name in
        airflow) password=$AIRFLOW_DB_PASSWORD ;;
        lake) password=$LAKE_DB_PASSWORD ;;
    esac
    NEW_PASSWORD=$password psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set name="$name" \
        --username "${POSTGRES_USER:-${PGUSER:-postgres}}" --dbname postgres <<'SQL'
\getenv password NEW_PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
