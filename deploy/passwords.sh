#!/bin/sh
# Draw the passwords of docker-compose.yml: `deploy/passwords.sh >> .env`. Letters and digits, as they stand in URLs too.
set -eu
umask 077
touch .env && chmod 600 .env
for name in KEYMILL_POSTGRES_PASSWORD KEYMILL_GRAFANA_PASSWORD; do
  if grep -q "^$name=" .env; then
    echo "$name stands in .env already" >&2
  else
    printf '%s=%s\n' "$name" "$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')"
  fi
done
