#!/bin/sh
# Readies an installation, and may be run again at any time: the metadata database of this version, the pool, the bucket, and
# the first user. Compose runs it before every other Airflow service starts.
set -eu
airflow db migrate
airflow pools set tidemark_writer 1 "Who writes the lake or the vectors waits here for the writer before it"
python -m deploy.bucket
if airflow users list --output plain | awk '{print $2}' | grep -qxF "$AIRFLOW_ADMIN_USER"; then
    airflow users reset-password --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD"
else
    airflow users create --role Admin --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD" \
        --firstname Tidemark --lastname Admin --email "$AIRFLOW_ADMIN_USER@localhost"
fi
