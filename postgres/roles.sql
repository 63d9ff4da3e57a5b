-- The roles and who may do what. Runs once, in the new database `app`, when the data volume is empty.

-- `owner` makes and changes the schema: migrations.
CREATE ROLE owner LOGIN;
-- `app` reads and writes rows, and nothing else: the app. How much it may ask for, `rights` keeps right.
CREATE ROLE app LOGIN;

ALTER DATABASE app OWNER TO owner;
REVOKE ALL ON DATABASE app FROM PUBLIC;
GRANT CONNECT ON DATABASE app TO app;
ALTER SCHEMA public OWNER TO owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO app;

-- Whatever `owner` makes later, without a grant in the revision.
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT USAGE ON SCHEMAS TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT USAGE, SELECT ON SEQUENCES TO app;

-- Alembic's own table, as Alembic makes it. Made here because the app may read it, for /health, and may not write it.
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
ALTER TABLE alembic_version OWNER TO owner;
GRANT SELECT ON alembic_version TO app;

-- `barman` takes backups: what Barman's manual asks for a role without superuser rights. Its rights on functions of the
-- database `postgres`, which it connects to, come from `rights`. Last and whole, because the health check takes this
-- role as the sign that all of them ran.
BEGIN;
CREATE ROLE barman LOGIN REPLICATION;
GRANT pg_checkpoint, pg_read_all_settings, pg_read_all_stats TO barman;
-- The app can't take the last connections from migrations and backups: reserved_connections in postgresql.conf.
GRANT pg_use_reserved_connections TO owner, barman;
COMMIT;
