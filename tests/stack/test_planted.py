"""The schema's owner plants code for those with more rights: none of them runs it, at any door of the stack."""

import re

import pytest

from tests.conftest import REPO
from tests.stack.backups import ok
from tests.stack.planted import PLANT, REFUSED, caught
from tests.stack.stacks import Clone, wait_until

# The superuser, in the database where nobody plants.
SERVER = ("postgres", "postgres")
# What an owner may set for every session in its database. Each would end a verification, or lead it elsewhere.
DEFAULTS = {
    "role": "owner",
    "local_preload_libraries": "nothing",
    "default_transaction_read_only": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "client_encoding": "latin1",
}
# A function that pg_amcheck would call rather than amcheck's own of that name, which takes a regclass.
CHECK = """
CREATE FUNCTION evil.bt_index_check(index oid, heapallindexed boolean, checkunique boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.watched('bt_index_check'); END $$
"""


@pytest.fixture(scope="module")
def planted(backed_up: Clone) -> Clone:
    backed_up.psql(PLANT)
    return backed_up


def test_rights(planted: Clone) -> None:
    """At each start the app's connection limit, and Barman's rights, which older volumes have in another database."""
    planted.psql("ALTER ROLE app CONNECTION LIMIT 7", *SERVER)
    planted.psql("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM barman", *SERVER)
    planted.compose("exec", "-T", "postgres", "rights")
    assert caught(planted) == []
    assert planted.psql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'app'", *SERVER) == "80"
    assert planted.psql("SELECT has_function_privilege('barman', 'pg_switch_wal()', 'EXECUTE')", *SERVER) == "t"


def test_what_a_role_sets_for_itself(planted: Clone) -> None:
    """It is gone after the next `./stack up`: an app that was broken into can't leave itself broken."""
    for statement in (
        "ALTER ROLE app SET statement_timeout = 7000",
        "ALTER ROLE app IN DATABASE app SET search_path = nowhere",
        "ALTER ROLE app SET client_connection_check_interval = 0",
        "ALTER ROLE app SET default_transaction_read_only = on",
    ):
        planted.psql(statement, "app")
    # What a pool opens now begins so, and is kept.
    planted.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'", *SERVER)
    with planted.client() as client:
        wait_until(lambda: client.post("/notes", json={"text": "refused"}).status_code == 500)
    begun = planted.psql("SELECT now()", *SERVER)
    ok(planted.stack("up"))
    oldest = "SELECT coalesce(min(backend_start), now()) FROM pg_stat_activity WHERE usename = 'app'"
    assert planted.psql(oldest, *SERVER) > begun
    shown = planted.psql(
        "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN "
        "('default_transaction_read_only', 'statement_timeout', 'lock_timeout', 'temp_file_limit', "
        "'idle_in_transaction_session_timeout', 'client_connection_check_interval')",
        "app",
    )
    assert shown.split() == [
        "client_connection_check_interval=5000",
        "default_transaction_read_only=off",
        "idle_in_transaction_session_timeout=60000",
        "lock_timeout=30000",
        "statement_timeout=60000",
        "temp_file_limit=512000",
    ]
    with planted.client() as client:
        assert client.post("/notes", json={"text": "written again"}).status_code == 201
    assert caught(planted) == []


def test_statement_that_wants_all_memory(planted: Clone) -> None:
    """It fails alone. Postgres does not start anew for everybody, and the values in it are in no log."""
    wants = "SELECT length(string_agg(repeat('secret of mine', 100000), '')) FROM generate_series(1, 700)"
    # One that all start anew with.
    started = "SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    before = planted.psql(started, *SERVER)
    said = planted.compose("exec", "-T", "-u", "app", "postgres", "psql", "-X", "app", "-c", wants, check=False)
    assert "ERROR:  out of memory" in said
    assert planted.psql(started, *SERVER) == before
    log = planted.compose("logs", "--no-log-prefix", "postgres")
    assert "ERROR:  out of memory" in log
    assert "secret of mine" not in log


def test_backup(planted: Clone) -> None:
    """Neither Barman nor what asks for it."""
    ok(planted.stack("backup"))
    assert caught(planted) == []


def test_barman_can_not_enter_the_database(planted: Clone) -> None:
    """Its role has more rights than the owner, and nothing to do where the owner's functions are."""
    said = planted.compose("exec", "-T", "backup", "psql", "host=/var/run/postgresql dbname=app", "-c", "", check=False)
    assert 'no pg_hba.conf entry for host "[local]", user "barman", database "app"' in said


def test_verification(planted: Clone) -> None:
    """It reads every table and index of the copy, whatever the owner has set for sessions in its database."""
    # As it comes where nobody names a schema, and the owner adds to that.
    planted.psql("CREATE EXTENSION amcheck SCHEMA evil", "postgres")
    planted.psql(CHECK)
    for name, value in DEFAULTS.items():
        planted.psql(f"ALTER DATABASE app SET {name} = '{value}'", *SERVER)
    try:
        said = ok(planted.stack("verify"))
    finally:
        for name in DEFAULTS:
            planted.psql(f"ALTER DATABASE app RESET {name}", *SERVER)
    assert "100 rows in evil.planted" in said
    assert caught(planted) == []


def test_restore(planted: Clone) -> None:
    """What is restored has been looked into by nobody with more rights than the owner."""
    ok(planted.stack("restore", "--to", "latest", "--yes"))
    planted.compose("exec", "-T", "postgres", "rights")
    assert caught(planted) == []


def test_session_by_hand(planted: Clone) -> None:
    """The way to look into the database that docs/database.md shows is the owner's own."""
    [shown] = re.findall(r"`docker compose (exec [^`]* psql app)`", (REPO / "docs/database.md").read_text())
    argv = shown.replace("exec", "exec -T").split()
    assert planted.compose(*argv, "-XqAtc", "SELECT current_user, count(*) FROM notes").startswith("owner|")
    assert caught(planted) == []


def test_event_trigger(planted: Clone) -> None:
    """The owner can't plant what runs at everybody's statements."""
    planted.psql("CREATE FUNCTION evil.caught() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    said = planted.compose("exec", "-T", "-u", "owner", "postgres", "psql", "-X", "app", "-c", REFUSED, check=False)
    assert "Must be superuser to create an event trigger" in said
