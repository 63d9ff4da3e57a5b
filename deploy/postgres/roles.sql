-- The roles of an app in a Postgres where nobody is superuser, as postgres/roles.sql makes them in the stack's own.
-- Run by who owns the database and may make roles and databases (CREATEROLE, CREATEDB), once or again:
--   OWNER_PASSWORD=… APP_PASSWORD=… psql "postgresql://admin@db.example.com/shop?sslmode=verify-full&sslrootcert=…" \
--     --set=owner=shop_owner --set=app=shop_app --file=deploy/postgres/roles.sql
-- Without a variable of its password a role gets none: for certificates. Postgres 15 and psql 15, or newer.
\set ON_ERROR_STOP on
\getenv owner_password OWNER_PASSWORD
\getenv app_password APP_PASSWORD
SET client_min_messages = warning;
BEGIN;
SELECT pg_catalog.format('CREATE ROLE %I LOGIN', name) FROM (VALUES (:'owner'), (:'app')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) \gexec
\if :{?owner_password}
ALTER ROLE :"owner" PASSWORD :'owner_password';
\endif
\if :{?app_password}
ALTER ROLE :"app" PASSWORD :'app_password';
\endif

-- To hand over to a role one must be a member of it, until the end.
GRANT :"owner" TO CURRENT_USER;
SELECT pg_catalog.current_database() AS base, current_user AS admin \gset
ALTER DATABASE :"base" OWNER TO :"owner";
SET ROLE :"owner";
REVOKE ALL ON DATABASE :"base" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"base" TO :"app", :"admin";
-- It belongs to whoever owns the database.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"app";

-- Whatever `owner` makes later, without a grant in the revision.
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO :"app";
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"app";
ALTER DEFAULT PRIVILEGES GRANT USAGE, SELECT ON SEQUENCES TO :"app";

-- Alembic's own table, as Alembic makes it: the app may read it, for /health, and may not write it.
CREATE TABLE IF NOT EXISTS public.alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
REVOKE ALL ON public.alembic_version FROM :"app";
GRANT SELECT ON public.alembic_version TO :"app";
RESET ROLE;
REVOKE :"owner" FROM CURRENT_USER;

-- What the app may ask of Postgres: the defaults of STATEMENT_TIMEOUT, LOCK_TIMEOUT and IDLE_TRANSACTION_TIMEOUT.
ALTER ROLE :"app" SET statement_timeout = '60s';
ALTER ROLE :"app" SET lock_timeout = '30s';
ALTER ROLE :"app" SET idle_in_transaction_session_timeout = '60s';
-- What the migration asks for by PGOPTIONS, which asyncpg does not read.
ALTER ROLE :"owner" SET lock_timeout = '1s';
COMMIT;
