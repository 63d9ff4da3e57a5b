"""What the app's role may do, statement by statement, on the roles that postgres/roles.sql makes."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.conftest import REPO, Database, Server
from tests.migrations.runs import WHOLE, build

MAY = [
    "INSERT INTO orders (name) VALUES ('x')",
    "UPDATE orders SET name = 'y'",
    "SELECT * FROM orders",
    "COPY orders TO STDOUT",
    "DELETE FROM orders",
    "SELECT version_num FROM alembic_version",
]
MAY_NOT = [
    # The schema.
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE TABLE mine AS SELECT * FROM orders",
    "CREATE SCHEMA mine",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE SEQUENCE mine",
    "CREATE TYPE mine AS ENUM ('a')",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE INDEX ON orders (name)",
    "CREATE TRIGGER mine BEFORE INSERT ON orders EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE POLICY mine ON orders",
    "CREATE PUBLICATION mine FOR TABLE orders",
    "ALTER TABLE orders ADD COLUMN more int",
    "ALTER TABLE orders RENAME TO mine",
    "ALTER TABLE orders OWNER TO app",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
    "ALTER SCHEMA public OWNER TO app",
    "DROP TABLE orders",
    "DROP SCHEMA public CASCADE",
    "TRUNCATE orders",
    "COMMENT ON TABLE orders IS 'mine'",
    "REINDEX TABLE orders",
    "ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT ALL ON TABLES TO app",
    # Which revision the schema is at.
    "UPDATE alembic_version SET version_num = 'x'",
    "DELETE FROM alembic_version",
    "INSERT INTO alembic_version VALUES ('x')",
    # Files, programs, the server.
    "COPY orders TO '/tmp/orders'",
    "COPY orders FROM '/etc/passwd'",
    "COPY orders TO PROGRAM 'cat'",
    "COPY orders FROM PROGRAM 'id'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_physical_replication_slot('mine')",
    "ALTER SYSTEM SET fsync = off",
    "SET session_replication_role = replica",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_hba_file_rules",
    "CREATE TABLESPACE mine LOCATION '/tmp'",
    "LOAD '/tmp/mine.so'",
    # Other databases and roles.
    "CREATE DATABASE mine",
    "DROP DATABASE app",
    "ALTER DATABASE app SET search_path = mine",
    "CREATE ROLE mine",
    "DROP ROLE owner",
    "GRANT owner TO app",
    "SET ROLE owner",
    "SET ROLE postgres",
    "SET ROLE pg_read_all_data",
    "SET SESSION AUTHORIZATION owner",
    "ALTER ROLE owner PASSWORD 'x'",
    "ALTER ROLE owner SET search_path = mine",
    # Itself. Its own password and defaults it may set, as every role in Postgres may: see the test below.
    *(f"ALTER ROLE app {what}" for what in ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")),
    *(f"ALTER ROLE app {what}" for what in ("CONNECTION LIMIT -1", "NOLOGIN", "VALID UNTIL '2020-01-01'")),
]


@pytest.fixture
def app(empty: Database, owner: psycopg.Connection) -> Iterator[psycopg.Connection]:
    if not empty.server:
        pytest.skip("needs the roles of a server of our own")
    # As a revision makes it.
    owner.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)")
    with psycopg.connect(empty.app_url, autocommit=True) as connection:
        yield connection


def test_app_may_read_and_write_rows(app: psycopg.Connection) -> None:
    """Rows of whatever migrations made, without a grant in the revision."""
    for statement in MAY:
        with app.cursor() as cursor:
            if statement.startswith("COPY"):
                with cursor.copy(statement.encode()) as copy:
                    assert list(copy)
            else:
                cursor.execute(statement.encode())


def test_app_may_do_nothing_else(app: psycopg.Connection) -> None:
    """Each statement is refused for want of a right, not because it is wrong."""
    allowed = []
    for statement in MAY_NOT:
        try:
            app.execute(statement.encode())
        except InsufficientPrivilege:
            continue
        except psycopg.Error:
            pass  # another refusal would hide that the right is there
        allowed.append(statement)
    assert allowed == []


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("other", ["postgres", "template1", "one_that_is_made_later"])
def test_app_may_not_connect_elsewhere(empty: Database, other: str) -> None:
    """No other database, whether it is there or not: postgres/pg_hba.conf names the one."""
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(empty.app_url.replace("/app?", f"/{other}?"))


def test_what_a_later_migration_makes_is_the_apps_to_use(app: psycopg.Connection, empty: Database) -> None:
    """Tables, schemas, sequences, views and functions, without a grant in the revision; and none of it to own."""
    with psycopg.connect(empty.owner_url, autocommit=True) as owner:
        owner.execute(
            "CREATE SCHEMA later; CREATE TABLE later.things (id serial PRIMARY KEY);"
            "CREATE TYPE later.kind AS ENUM ('a');"
            "CREATE VIEW later.seen AS SELECT * FROM later.things; CREATE SEQUENCE later.numbers;"
            "CREATE FUNCTION later.one() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
    try:
        app.execute("INSERT INTO later.things DEFAULT VALUES")
        assert app.execute("SELECT id, later.one(), 'a'::later.kind FROM later.seen").fetchall() == [(1, 1, "a")]
        app.execute("SELECT nextval('later.numbers')")
        for statement in (b"DROP TABLE later.things", b"CREATE TABLE later.mine (id int)", b"TRUNCATE later.things"):
            with pytest.raises(InsufficientPrivilege):
                app.execute(statement)
    finally:
        with psycopg.connect(empty.owner_url, autocommit=True) as owner:
            owner.execute("DROP SCHEMA later CASCADE")


def test_what_a_role_may_always_do_to_itself_opens_nothing(app: psycopg.Connection, empty: Database) -> None:
    """Postgres lets every role set its own password and defaults: neither gives it a right that it had not."""
    assert empty.server
    try:
        app.execute("ALTER ROLE app PASSWORD 'x'")
        app.execute("ALTER ROLE app SET work_mem = '1GB'")
        with pytest.raises(InsufficientPrivilege):
            app.execute("ALTER ROLE app SET session_replication_role = replica")
        with pytest.raises(InsufficientPrivilege):
            app.execute("ALTER ROLE app SET session_preload_libraries = 'mine'")
        app.execute("ALTER ROLE app SET role = owner")
        with psycopg.connect(empty.app_url) as again:
            assert again.execute("SELECT current_user").fetchone() == ("app",)
    finally:
        empty.server.sql("ALTER ROLE app PASSWORD NULL; ALTER ROLE app RESET ALL")


def rights(server: Server, **settings: str) -> str:
    """What postgres/rights complains of."""
    here = {"PATH": f"{server.binaries}:{os.environ['PATH']}", "PGHOST": str(server.folder), **settings}
    argv = ["/bin/sh", str(REPO / "postgres/rights")]
    return subprocess.run(argv, env=here, capture_output=True, text=True, timeout=60).stderr


def test_driver_that_reads_no_pgoptions(empty: Database, tmp_path: Path) -> None:
    """As asyncpg: its migration waits for a table in use no longer than any other, for the role says so too."""
    assert empty.server
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.migrate()
    try:
        assert rights(empty.server) == ""
        with psycopg.connect(empty.app_url) as reader:
            reader.execute("SELECT * FROM a")
            run = app.start(MIGRATE="env --unset=PGOPTIONS alembic downgrade base")
            run.wait_for("A table is in use; trying again.")
        run.said()
        assert run.returncode == 0
    finally:
        empty.server.sql("ALTER ROLE app RESET ALL; ALTER ROLE owner RESET ALL")


SET = [
    "ALTER ROLE app SET default_transaction_read_only = on",
    "ALTER ROLE app SET statement_timeout = 1",
    "ALTER ROLE app IN DATABASE app SET search_path = nowhere",
    "ALTER ROLE app SET idle_session_timeout = 1",
]


def test_what_a_role_has_set_for_itself_is_reset(empty: Database) -> None:
    """And the bounds of the app stand in its place, which are settings; one of them it can't raise."""
    assert empty.server
    try:
        for statement in SET:
            # Each in a session of its own: the next begins with what the last has set.
            with psycopg.connect(
                empty.app_url, options="-c default_transaction_read_only=off -c statement_timeout=0"
            ) as app:
                app.execute(statement.encode())
        lasting = "-c statement_timeout=0 -c idle_session_timeout=0"
        with closing(psycopg.connect(empty.app_url, autocommit=True, options=lasting)) as pooled:
            with psycopg.connect(empty.app_url) as broken, pytest.raises(psycopg.Error):
                broken.execute("CREATE TEMPORARY TABLE mine (id int)")
            # Twice: nothing is wrong with what is right.
            for _ in range(2):
                assert rights(empty.server, STATEMENT_TIMEOUT="7", IDLE_TRANSACTION_TIMEOUT="0") == ""
            # It began with what was set: it would go on with that for as long as it is kept.
            with pytest.raises(psycopg.OperationalError, match="terminat"):
                pooled.execute("SELECT 1")
        with psycopg.connect(empty.app_url) as app:
            assert rights(empty.server, STATEMENT_TIMEOUT="7", IDLE_TRANSACTION_TIMEOUT="0") == ""
            shown = app.execute(
                "SELECT name, setting FROM pg_settings WHERE source = 'user' OR source = 'database user' ORDER BY name"
            )
            assert dict(shown.fetchall()) == {
                "idle_in_transaction_session_timeout": "0",
                "lock_timeout": "30000",
                "statement_timeout": "7000",
                "temp_file_limit": "512000",
            }
            app.execute("SET LOCAL statement_timeout = '10min'")
            with pytest.raises(InsufficientPrivilege):
                app.execute("SET LOCAL temp_file_limit = -1")
    finally:
        resets = ("ROLE app", "ROLE app IN DATABASE app", "ROLE owner")
        empty.server.sql("; ".join(f"ALTER {what} RESET ALL" for what in resets))
