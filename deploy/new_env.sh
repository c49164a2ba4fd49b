#!/bin/sh
# Writes .env from .env.example, with a new secret for each one that is empty there. Never touches a .env that exists.
#
# usage: deploy/new_env.sh [FILE]
set -eu
cd "$(dirname "$0")/.."
file=${1:-.env}
if [ -e "$file" ]; then
    echo "error: $file is there already, and its secrets may be in use; move it away first" >&2
    exit 2
fi
umask 077
while IFS= read -r line; do
    case $line in
        AIRFLOW_FERNET_KEY=) line=$line$(openssl rand -base64 32 | tr '+/' '-_') ;;
        [A-Z]*=) line=$line$(openssl rand -hex 24) ;;
    esac
    printf '%s\n' "$line"
done < .env.example > "$file.new"
mv "$file.new" "$file"
echo "$file: written, readable by you alone"
