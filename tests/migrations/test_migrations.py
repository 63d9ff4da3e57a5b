"""How migrations run: once, politely, each revision whole or not at all, in processes of their own as `migrate` is."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.util import CommandError

from tests.conftest import REPO, Database
from tests.migrations.chains import Chain

HEAD = Chain().script.get_heads()[0]
REVISION = """
from alembic import op

revision = "{revision}"
down_revision = {down!r}


def upgrade():
    {upgrade}


def downgrade():
    op.execute("DROP TABLE IF EXISTS {revision}")
"""
WHOLE = 'op.execute("CREATE TABLE {0} (id int)"); op.execute("{1}"); op.execute("INSERT INTO {0} VALUES (1)")'


@pytest.fixture
def owner(empty: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty.owner_url, autocommit=True) as connection:
        yield connection


def chain(folder: Path, **upgrades: str) -> Chain:
    """Revisions by these names, one after the other, each with its `upgrade()`."""
    down = None
    for revision, upgrade in upgrades.items():
        (folder / f"{revision}.py").write_text(REVISION.format(revision=revision, down=down, upgrade=upgrade))
        down = revision
    return Chain(folder)


def start(database: Database, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "alembic", *arguments]
    environment = {**os.environ, "DATABASE_URL": database.owner_url, **settings}
    return subprocess.Popen(argv, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stderr
    while line not in (said := process.stderr.readline()):
        assert said, f"ended without {line!r}"


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
    slow = chain(tmp_path, a=WHOLE.format("a", "SELECT pg_sleep(0.5)"), b=WHOLE.format("b", "SELECT pg_sleep(0.5)"))
    configuration = slow.file(tmp_path)
    try:
        ten = [start(empty, "-c", configuration, "upgrade", "head") for _ in range(10)]
        logs = [process.communicate(timeout=120)[1] for process in ten]
        assert [process.returncode for process in ten] == [0] * 10, logs
        assert "".join(logs).count("Running upgrade") == 2
        assert any("Waiting for another migration." in log for log in logs)
        assert state(owner) == ("b", {"a", "b"})
    finally:
        slow.downgrade()


def test_waiting_ends_at_the_deadline(empty: Database, owner: psycopg.Connection) -> None:
    """A lock that nobody gives back ends the migration with a sentence, and nothing is changed."""
    source = (REPO / "migrations/env.py").read_text()
    number = next(line.split("=")[1] for line in source.splitlines() if line.startswith("LOCK ="))
    owner.execute(f"SELECT pg_advisory_lock({number})".encode())
    before = state(owner)
    refused = empty.alembic("upgrade", "head", check=False, MIGRATE_DEADLINE="1")
    assert refused.returncode == 1
    assert refused.stderr.endswith("Another migration held the lock until MIGRATE_DEADLINE.\n")
    assert state(owner) == before


def test_table_in_use_is_not_queued_behind(empty: Database) -> None:
    """While a transaction holds the table the migration asks again and again, and others get theirs in between."""
    Chain().upgrade()
    with psycopg.connect(empty.app_url, autocommit=True) as reader, psycopg.connect(empty.app_url) as long:
        long.execute("SELECT * FROM notes")
        process = start(empty, "downgrade", "base")
        for _ in range(3):
            wait_for(process, "A table is in use")
        waits = []
        ending = time.monotonic() + 4
        while time.monotonic() < ending:
            begun = time.monotonic()
            reader.execute("SELECT * FROM notes LIMIT 1")
            waits.append(time.monotonic() - begun)
            time.sleep(0.01)
        # One waits for lock_timeout, 1 s, at most; behind a migration that does not give up it would be the whole 4.
        assert 0.2 < max(waits) < 2
        long.rollback()
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_table_in_use_until_the_deadline(empty: Database, owner: psycopg.Connection) -> None:
    """A table that stays in use ends the migration; nothing is changed, and the revision and the reason are named."""
    Chain().upgrade()
    before = state(owner)
    with psycopg.connect(empty.app_url) as long:
        long.execute("SELECT * FROM notes")
        refused = empty.alembic("downgrade", "base", check=False, MIGRATE_DEADLINE="2")
    assert refused.returncode == 1
    assert f"Failed: downgrade {HEAD} -> " in refused.stderr
    assert "canceling statement due to lock timeout" in refused.stderr
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
    ],
    ids=["statement", "commit", "python"],
)
def test_failed_revision_leaves_the_last_whole_one(
    empty: Database, owner: psycopg.Connection, tmp_path: Path, statement: str, evidence: list[str]
) -> None:
    """Exit 1, the revision and the error named, nothing of it left, those before it stay, the lock is free."""
    broken = chain(tmp_path, whole=WHOLE.format("whole", "SELECT 1"), half=statement)
    configuration = broken.file(tmp_path)
    try:
        failed = empty.alembic("-c", configuration, "upgrade", "head", check=False)
        assert failed.returncode == 1
        assert "Failed: upgrade whole -> half" in failed.stderr
        assert "The schema is at whole." in failed.stderr
        assert [text for text in evidence if text not in failed.stderr] == []
        assert state(owner) == ("whole", {"whole"})
        assert owner.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
    finally:
        broken.downgrade()


# Seconds after Alembic says that it runs the revision; each takes a bit more than half of one.
@pytest.mark.parametrize(
    ("revision", "delay"), [("k1", 0.0), ("k1", 0.3), ("k2", 0.5), ("k3", 0.2), ("k3", 0.52), ("k3", 0.6)]
)
def test_killed_migration_leaves_a_whole_revision(
    empty: Database, owner: psycopg.Connection, tmp_path: Path, revision: str, delay: float
) -> None:
    """kill -9 at any moment: a whole revision, no lock, and the next migration goes on from there."""
    names = ("k1", "k2", "k3")
    killed = chain(tmp_path, **{name: WHOLE.format(name, "SELECT pg_sleep(0.5)") for name in names})
    try:
        process = start(empty, "-c", killed.file(tmp_path), "upgrade", "head")
        wait_for(process, f"-> {revision}")
        time.sleep(delay)  # the moment is what is tested
        process.kill()
        process.communicate(timeout=60)
        at, tables = state(owner)
        assert tables == set(names[: names.index(at) + 1 if at else 0])
        killed.upgrade()
        assert state(owner) == ("k3", set(names))
        for name in names:
            assert owner.execute(f"TABLE {name}".encode()).fetchall() == [(1,)]
    finally:
        killed.downgrade()


def test_killed_migration_leaves_no_statement_running(
    empty: Database, owner: psycopg.Connection, tmp_path: Path
) -> None:
    """What it was just doing ends too, so that the next one does not meet its locks."""
    long = chain(tmp_path, long='op.execute("SELECT pg_sleep(3600)")')
    process = start(empty, "-c", long.file(tmp_path), "upgrade", "head")
    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)' AND state = 'active'"
    try:
        wait_for(process, "-> long")
        wait_until(owner, running, 1)
    finally:
        process.kill()
        process.communicate(timeout=60)
    wait_until(owner, running, 0)


def wait_until(owner: psycopg.Connection, query: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while owner.execute(query.encode()).fetchone() != (count,):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_older_code_leaves_a_newer_schema_alone(owner: psycopg.Connection, empty: Database, tmp_path: Path) -> None:
    """After a rollback the old code's migration finds a revision that it hasn't: it does nothing, and succeeds."""
    for name in ("old", "new", "other"):
        (tmp_path / name).mkdir()
    old = chain(tmp_path / "old", first=WHOLE.format("first", "SELECT 1"))
    new = chain(tmp_path / "new", first="pass", second=WHOLE.format("second", "SELECT 1"))
    other = chain(tmp_path / "other", another=WHOLE.format("another", "SELECT 1"))
    old.upgrade()
    new.upgrade()
    try:
        old.upgrade()
        assert owner.execute("SELECT version_num FROM alembic_version").fetchall() == [("second",)]
        # Code of which the schema has never been at the head is no older release.
        with pytest.raises(CommandError, match="second"):
            other.upgrade()
    finally:
        new.downgrade()
