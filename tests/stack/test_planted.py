"""The schema's owner plants code for those with more rights: none of them runs it, at any door of the stack."""

import pytest

from tests.stack.backups import ok
from tests.stack.planted import PLANT, REFUSED, caught
from tests.stack.stacks import Clone

# The superuser, in the database where nobody plants.
SERVER = ("postgres", "postgres")


@pytest.fixture(scope="module")
def planted(backed_up: Clone) -> Clone:
    backed_up.psql(PLANT)
    return backed_up


def test_health_check(planted: Clone) -> None:
    """It puts right the app's connection limit, and Barman's rights, which older volumes have in another database."""
    planted.psql("ALTER ROLE app CONNECTION LIMIT 7", *SERVER)
    planted.psql("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM barman", *SERVER)
    planted.compose("exec", "-T", "postgres", "healthy")
    assert caught(planted) == []
    assert planted.psql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'app'", *SERVER) == "80"
    assert planted.psql("SELECT has_function_privilege('barman', 'pg_switch_wal()', 'EXECUTE')", *SERVER) == "t"


def test_backup(planted: Clone) -> None:
    """Neither Barman nor what asks for it."""
    ok(planted.stack("backup"))
    assert caught(planted) == []


def test_barman_can_not_enter_the_database(planted: Clone) -> None:
    """Its role has more rights than the owner, and nothing to do where the owner's functions are."""
    said = planted.compose("exec", "-T", "backup", "psql", "host=/var/run/postgresql dbname=app", "-c", "", check=False)
    assert 'no pg_hba.conf entry for host "[local]", user "barman", database "app"' in said


def test_event_trigger(planted: Clone) -> None:
    """The owner can't plant what runs at everybody's statements."""
    planted.psql("CREATE FUNCTION evil.caught() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    said = planted.compose("exec", "-T", "-u", "owner", "postgres", "psql", "-X", "app", "-c", REFUSED, check=False)
    assert "Must be superuser to create an event trigger" in said
