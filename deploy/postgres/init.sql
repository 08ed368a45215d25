-- Roles and databases; may run again. Passwords come from the environment, with the development ones as default.
-- Run by the superuser on any database (in a container: the first file of docker-entrypoint-initdb.d), source.sql comes after it.
\set cdc_password cdc-dev
\set hms_password hms-dev
\getenv cdc_password FIRN_PG_PASSWORD
\getenv hms_password FIRN_METASTORE_DB_PASSWORD

-- cdc owns the source database, so Debezium may make its publications; CREATEDB lets a test have a database of its own.
SELECT 'CREATE ROLE cdc LOGIN REPLICATION CREATEDB' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdc') \gexec
ALTER ROLE cdc PASSWORD :'cdc_password';
SELECT 'CREATE ROLE hms LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hms') \gexec
ALTER ROLE hms PASSWORD :'hms_password';

SELECT 'CREATE DATABASE inventory' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'inventory') \gexec
ALTER DATABASE inventory OWNER TO cdc;
SELECT 'CREATE DATABASE metastore' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'metastore') \gexec
ALTER DATABASE metastore OWNER TO hms;
