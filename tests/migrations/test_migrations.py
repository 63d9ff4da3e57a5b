"""How migrations run: once, politely, each revision whole or not at all."""

import time
from pathlib import Path

import psycopg
import pytest

from runtime import migrate, settings
from tests.conftest import Database
from tests.migrations.runs import WHOLE, build

# Whether somebody has waited for a lock longer than a migration's command may.
WAITING = """
SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '1.5 s'
"""


def state(owner: psycopg.Connection) -> tuple[str | None, set[str]]:
    """The revision that the database says it is at, and the tables that are there, at one moment."""
    with owner.transaction():
        owner.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        tables = {row[0] for row in owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
        versions = owner.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else None
        row = versions.fetchone() if versions else None
    return row[0] if row else None, tables - {"alembic_version"}


def test_ten_at_once_apply_each_revision_once(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """One migrates, nine wait and find nothing left to do; all end well."""
    app = build(
        tmp_path, empty, a=WHOLE.format("a", "SELECT pg_sleep(0.5)"), b=WHOLE.format("b", "SELECT pg_sleep(0.5)")
    )
    ten = [app.start() for _ in range(10)]
    logs = [run.said() for run in ten]
    assert [run.returncode for run in ten] == [0] * 10, logs
    assert "".join(logs).count("Running upgrade") == 2
    assert "".join(logs).count("The schema went from the base to b.") == 1
    assert any("Waiting for another migration." in log for log in logs)
    assert state(owner) == ("b", {"a", "b"})


def test_waiting_ends_at_the_deadline(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """A lock that nobody gives back ends the migration with a sentence, and nothing is changed."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    owner.execute("SELECT pg_advisory_lock(%s)", (migrate.LOCK,))
    before = state(owner)
    code, said = app.run(MIGRATE_DEADLINE="1")
    assert (code, said.splitlines()) == (
        1,
        ["Waiting for another migration.", "Another migration held the lock until MIGRATE_DEADLINE."],
    )
    assert state(owner) == before


def test_lock_of_another_role_keeps_nobody_away(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """Who may only use the database can take any advisory lock: the owner's migrations take the next one, and wait."""
    if not empty.server:
        pytest.skip("needs the roles of a server of our own")
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT pg_sleep(1)"))
    with psycopg.connect(empty.app_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (migrate.LOCK,))
        first = app.start(MIGRATE_DEADLINE="60")
        first.wait_for("Running upgrade")
        second = app.start(MIGRATE_DEADLINE="60")
        second.wait_for("Waiting for another migration.")
        assert [first.said().count("Failed"), second.said().count("Running")] == [0, 0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert state(owner) == ("a", {"a"})


def test_lock_that_is_given_back_meanwhile_is_taken(
    empty: Database, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the try and the look for its holder: with the next one two would migrate at once."""
    owner.execute("SELECT pg_advisory_lock(%s)", (migrate.LOCK,))
    value = migrate.value

    def slow(connection: psycopg.Connection, statement: str, *parameters: object) -> object:
        if statement == migrate.HOLDER:
            owner.execute("SELECT pg_advisory_unlock_all()")
        return value(connection, statement, *parameters)

    monkeypatch.setattr(migrate, "value", slow)
    one = migrate.Migration(settings.Settings(migrate_deadline=20), {})
    with one.connect() as connection:
        one.lock(connection)
        assert owner.execute("SELECT pg_try_advisory_lock(%s)", (migrate.LOCK,)).fetchone() == (False,)


def test_table_in_use_is_not_queued_behind(empty: Database, tmp_path: Path) -> None:
    """While a transaction holds the table the migration asks again and again, and others get theirs in between."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.migrate()
    with psycopg.connect(empty.app_url, autocommit=True) as reader, psycopg.connect(empty.app_url) as long:
        long.execute("SELECT * FROM a")
        run = app.start(MIGRATE="alembic downgrade base")
        for _ in range(2):
            run.wait_for("A table is in use")
        waits = []
        ending = time.monotonic() + 6
        while time.monotonic() < ending:
            begun = time.monotonic()
            reader.execute("SELECT * FROM a LIMIT 1")
            waits.append(time.monotonic() - begun)
            time.sleep(0.01)
        # One waits for lock_timeout, 1 s, at most; behind a migration that does not give up it would be the whole 6.
        assert 0.2 < max(waits) < 2
        long.rollback()
        run.said()
        assert run.returncode == 0


def test_wrapper_waits_longer_than_the_command_may(empty: Database, tmp_path: Path) -> None:
    """Alembic's table in somebody's hands: the wrapper's own reading of it waits, where the command would try again."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.migrate()
    with psycopg.connect(empty.owner_url) as other, psycopg.connect(empty.owner_url, autocommit=True) as watcher:
        other.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        run = app.start()
        deadline = time.monotonic() + 60
        while not watcher.execute(WAITING).fetchone():
            assert run.poll() is None, run.said()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        other.rollback()
        assert (run.said().count("Running"), run.returncode) == (0, 0)


def test_table_in_use_until_the_deadline(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """A table that stays in use ends the migration; nothing is changed, and the revision and the reason are named."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.migrate()
    before = state(owner)
    with psycopg.connect(empty.app_url) as long:
        long.execute("SELECT * FROM a")
        code, said = app.run(MIGRATE="alembic downgrade base", MIGRATE_DEADLINE="4")
    assert code == 1
    assert said.endswith("Failed: downgrade a ->. The schema is at a.\n")
    assert "canceling statement due to lock timeout" in said
    assert state(owner) == before


@pytest.mark.parametrize(
    ("statement", "evidence"),
    [
        ('op.execute("CREATE TABLE half (id int)"); op.execute("SELECT 1 / 0")', ["division by zero", "SELECT 1 / 0"]),
        (
            'op.execute("CREATE TABLE half (id int PRIMARY KEY, o int REFERENCES half DEFERRABLE INITIALLY DEFERRED)");'
            'op.execute("INSERT INTO half VALUES (1, 2)")',
            ['"half" violates foreign key constraint'],
        ),
        ('op.execute("CREATE TABLE half (id int)"); raise RuntimeError("as planned")', ["RuntimeError: as planned"]),
        (
            'op.execute("CREATE TABLE half (id int)"); op.execute("SELECT pg_sleep(60)")',
            ["canceling statement due to statement timeout"],
        ),
    ],
    ids=["statement", "commit", "python", "deadline"],
)
def test_failed_revision_leaves_the_last_whole_one(
    empty: Database, owner: psycopg.Connection, tmp_path: Path, statement: str, evidence: list[str]
) -> None:
    """Exit 1, the revision and the error named, nothing of it left, those before it stay, the lock is free."""
    app = build(tmp_path, empty, whole=WHOLE.format("whole", "SELECT 1"), half=statement)
    code, said = app.run(MIGRATE_DEADLINE="3" if "pg_sleep" in statement else "300")
    assert code == 1
    assert said.endswith("Failed: upgrade whole -> half. The schema is at whole.\n")
    assert [text for text in evidence if text not in said] == []
    assert "A table is in use" not in said
    assert state(owner) == ("whole", {"whole"})
    assert owner.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


# Seconds after Alembic says that it runs the revision; each takes a bit more than half of one.
@pytest.mark.parametrize(
    ("revision", "delay"), [("k1", 0.0), ("k1", 0.3), ("k2", 0.5), ("k3", 0.2), ("k3", 0.52), ("k3", 0.6)]
)
def test_killed_migration_leaves_a_whole_revision(
    empty: Database, owner: psycopg.Connection, tmp_path: Path, revision: str, delay: float
) -> None:
    """kill -9 at any moment: a whole revision, no lock, and the next migration goes on from there."""
    names = ("k1", "k2", "k3")
    app = build(tmp_path, empty, **{name: WHOLE.format(name, "SELECT pg_sleep(0.5)") for name in names})
    run = app.start()
    run.wait_for(f"-> {revision}")
    time.sleep(delay)  # the moment is what is tested
    run.end_container()
    at, tables = state(owner)
    assert tables == set(names[: names.index(at) + 1 if at else 0])
    app.migrate()
    assert state(owner) == ("k3", set(names))
    for name in names:
        assert owner.execute(f"TABLE {name}".encode()).fetchall() == [(1,)]


def test_killed_migration_leaves_no_statement_running(
    empty: Database, owner: psycopg.Connection, tmp_path: Path
) -> None:
    """What it was just doing ends too, so that the next one does not meet its locks."""
    app = build(tmp_path, empty, long='op.execute("SELECT pg_sleep(3600)")')
    run = app.start()
    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)' AND state = 'active'"
    try:
        run.wait_for("-> long")
        wait_until(owner, running, 1)
    finally:
        run.end_container()
    wait_until(owner, running, 0)


def wait_until(owner: psycopg.Connection, query: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while owner.execute(query.encode()).fetchone() != (count,):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_older_code_leaves_a_newer_schema_alone(owner: psycopg.Connection, empty: Database, tmp_path: Path) -> None:
    """After a rollback the old code's migration finds a revision that it hasn't: it does nothing, and succeeds."""
    old = build(tmp_path / "old", empty, first=WHOLE.format("first", "SELECT 1"))
    new = build(tmp_path / "new", empty, first="pass", second=WHOLE.format("second", "SELECT 1"))
    other = build(tmp_path / "other", empty, another=WHOLE.format("another", "SELECT 1"))
    assert old.run()[1].endswith("The schema went from the base to first.\n")
    assert new.run()[1].endswith("The schema went from first to second.\n")
    assert old.run() == (0, "The schema is newer than this code: there is nothing to do.\n")
    assert state(owner) == ("second", {"first", "second"})
    # Code of which the schema has never been at the head is no older release.
    code, said = other.run()
    assert code == 1
    assert "Can't locate revision identified by 'second'" in said
    assert said.endswith("Failed: alembic upgrade heads. The schema is at second.\n")
