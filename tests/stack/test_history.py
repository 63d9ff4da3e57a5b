"""What can be restored, asked of the backup container: exactly that, or why not."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.stack.databases import Database
from tests.stack.stacks import run, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("database"), "history")
    database.remove()
    try:
        database.begin()
        yield database
    finally:
        database.remove()


def later(moment: str, seconds: float) -> str:
    return str(datetime.fromisoformat(moment) + timedelta(seconds=seconds))


def test_restores_are_exactly_that(database: Database) -> None:
    """A time soon after a restore, or while nothing was received: what was there then, or a sentence."""
    early = database.write(1, 2)
    database.write(3)
    assert database.plan(early)["warnings"] == []
    # The service stays away: nobody sees the new timeline.
    restored = database.restore(early, services=("postgres",))
    assert (restored["timeline"], restored["warnings"]) == (1, [])
    assert database.notes() == {1, 2}
    soon = database.write(4)
    assert "Nothing of timeline 2, which the last restore began, has been received." in database.refused(soon)
    database.start()
    database.settle()
    database.write(5)
    database.plan(soon)

    # While the service is away.
    run("docker", "kill", database.container("backup"))
    away = database.write(6)
    said = database.refused(away)
    assert f"{away} can't be restored: what was written after " in said
    assert "The latest time before it is `--to " in said
    [warning] = database.plan("latest")["warnings"]
    assert "may be missing: the service `backup` does not receive it" in warning
    # Behind Postgres's back: the restore itself says the same.
    done = database.recover(away)
    assert done.returncode == 1
    assert "can't be restored" in done.stderr
    database.start()
    database.plan(away)

    # Postgres was stopped, and all of its log is here: the time in between belongs to what was before.
    restored = database.restore("latest")
    assert restored["warnings"] == []
    assert database.notes() == {1, 2, 4, 5, 6}
    between = database.sql("SELECT pg_postmaster_start_time() - interval '2 seconds'")
    database.settle()
    assert database.plan(between)["warnings"] == []
    # To a time of the timeline that was left, after its last write.
    restored = database.restore(later(away, 0.5))
    assert restored["timeline"] == 2
    assert database.notes() == {1, 2, 4, 5, 6}


def test_removed_wal(database: Database) -> None:
    """A slot that came too late: it is said, a full backup follows by itself, and the gap is known as one."""
    database.settle()
    database.compose("stop", "backup")
    before = database.write(11)
    database.sql("SELECT pg_drop_replication_slot('barman')")
    for number in range(12, 16):
        database.write(number)
        database.sql("SELECT pg_switch_wal()", "CHECKPOINT")
    database.sql("SELECT pg_create_physical_replication_slot('barman', true)")
    known = {one["name"] for one in database.alone("list")}
    database.start()
    wait_until(lambda: database.verb("list")[0]["name"] not in known)
    assert database.verb("list")[0]["kind"] == "full"
    assert "removed WAL that the backups had not received" in database.compose("logs", "backup")
    after = database.write(16)
    database.plan(after)
    assert "The latest time before it is" in database.refused(before)
    assert database.sql("SELECT wal_status FROM pg_replication_slots") == "reserved"


def test_names(database: Database) -> None:
    """A backup, and a restore point whose name was given twice: the end of the one, the newer of the other."""
    database.settle()
    database.write(21)
    database.verb("point", "release")
    database.write(22)
    database.verb("point", "release")
    database.write(23)
    backup = database.verb("backup", "incremental", "--immediate-checkpoint")["name"]
    there = database.notes()
    again = database.write(24)
    database.write(25)
    database.restore("release")
    assert database.notes() == there - {23}
    # Of another timeline than the newest.
    database.restore(backup)
    assert database.notes() == there
    for _ in range(2):
        database.restore(again)
        assert database.notes() == there | {24}
