#!/bin/sh
# Run once by the postgres image, on an empty volume: the services' role and databases.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -v password="$NOZIE_DATASOURCE_PASSWORD" <<'SQL'
CREATE ROLE nozie LOGIN PASSWORD :'password';
CREATE DATABASE identitydb OWNER nozie;
CREATE DATABASE customerdb OWNER nozie;
CREATE DATABASE paymentdb OWNER nozie;
SQL
