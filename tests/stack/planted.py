"""Code that the schema's owner leaves for others to run: all that Postgres lets it plant, and what it is to catch."""

from tests.stack.stacks import Stack

# `watched` is called by everything below. Run by a role that is more than `owner`, it writes that down and reaches for
# more; where it can't write, or nobody would read it (a server on files, without autovacuum), the statement fails.
PLANT = """
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE TABLE evil.ran (what text, who text);
GRANT INSERT ON evil.ran TO PUBLIC;
CREATE FUNCTION evil.watched(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    BEGIN
        RESET SESSION AUTHORIZATION;
        SET ROLE none;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    IF current_user IN ('owner', 'app') THEN RETURN; END IF;
    BEGIN
        INSERT INTO evil.ran VALUES (what, current_user);
        ALTER ROLE owner SUPERUSER;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    IF current_setting('autovacuum') = 'off' OR current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION '% ran as %', what, current_user;
    END IF;
END $$;

-- In place of Postgres's own, for who names no schema.
CREATE FUNCTION evil.counted(n bigint) RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('count'); RETURN n + 1; END $$;
CREATE AGGREGATE evil.count(*) (SFUNC = evil.counted, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION evil.added(total bigint, n int) RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('sum'); RETURN total + n; END $$;
CREATE AGGREGATE evil.sum(int) (SFUNC = evil.added, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION evil.format(pattern text, n bigint) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('format'); RETURN pg_catalog.format(pattern, n); END $$;
CREATE FUNCTION evil.format(pattern text, a name, b name) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('format'); RETURN pg_catalog.format(pattern, a, b); END $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('clock_timestamp'); RETURN pg_catalog.clock_timestamp(); END $$;
CREATE FUNCTION evil.to_regclass(name text) RETURNS regclass LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('to_regclass'); RETURN pg_catalog.to_regclass(name); END $$;
CREATE FUNCTION evil.same(a name, b name) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.watched('='); RETURN a OPERATOR(pg_catalog.=) b; END $$;
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = name, RIGHTARG = name);

-- Called by whoever writes, reads, plans, checks or copies a table.
CREATE FUNCTION evil.fine(n int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM evil.watched('fine'); RETURN true; END $$;
CREATE FUNCTION evil.twice(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM evil.watched('twice'); RETURN 2 * n; END $$;
CREATE DOMAIN evil.number AS int CHECK (evil.fine(VALUE));
CREATE TABLE evil.planted (
    n int CHECK (evil.fine(n)),
    m evil.number DEFAULT 1,
    list evil.number[] DEFAULT '{1}',
    g int GENERATED ALWAYS AS (evil.twice(n)) STORED
);
CREATE INDEX ON evil.planted (evil.twice(n)) WHERE evil.fine(1);
CREATE STATISTICS evil.estimated ON (evil.twice(n)), (evil.twice(3)) FROM evil.planted;
CREATE VIEW evil.listed AS SELECT '{1}'::evil.number[];
CREATE TABLE evil.parts (n int) PARTITION BY RANGE (evil.twice(n));
CREATE TABLE evil.part PARTITION OF evil.parts FOR VALUES FROM (0) TO (1000);
CREATE MATERIALIZED VIEW evil.kept AS SELECT evil.twice(n) AS n FROM evil.parts;
ALTER TABLE evil.planted ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY planted ON evil.planted USING (evil.fine(n));
INSERT INTO evil.planted (n) SELECT pg_catalog.generate_series(1, 100);
INSERT INTO evil.parts SELECT pg_catalog.generate_series(1, 100);
ANALYZE evil.planted;

-- Alembic's table, as Alembic sees it.
ALTER TABLE public.alembic_version RENAME TO revisions;
CREATE VIEW public.alembic_version AS SELECT version_num FROM public.revisions WHERE evil.fine(2);
DO $$ BEGIN EXECUTE pg_catalog.format('COMMENT ON VIEW public.alembic_version IS %L',
    pg_catalog.obj_description('public.revisions'::regclass)); END $$;

ALTER DATABASE app SET search_path = evil, pg_catalog, public;
"""
# What only a superuser may plant.
REFUSED = "CREATE EVENT TRIGGER planted ON ddl_command_start EXECUTE FUNCTION evil.caught()"


def caught(stack: Stack) -> list[str]:
    """What ran as another role since the last time, and whether the owner has become superuser."""
    ran = stack.psql("WITH gone AS (DELETE FROM evil.ran RETURNING *) SELECT DISTINCT what, who FROM gone")
    rose = stack.psql("SELECT rolname FROM pg_roles WHERE rolname = 'owner' AND rolsuper", "postgres", "postgres")
    if rose:
        stack.psql("ALTER ROLE owner NOSUPERUSER", "postgres", "postgres")
    return [*ran.splitlines(), *rose.splitlines()]
