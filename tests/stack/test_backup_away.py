"""Backups that can't go on: the app does, and what is wrong is said until it is right again."""

import pytest

from tests.stack.backups import health, inside, listing, ok, said, stored
from tests.stack.stacks import Clone, run, wait_until

pytestmark = pytest.mark.long


def sql(clone: Clone, statement: str) -> str:
    return clone.compose("exec", "-T", "postgres", "psql", "-XAtqc", statement, "app").strip()


@pytest.fixture(scope="module")
def small(clone: Clone) -> Clone:
    """A stack whose backup volume is of 200 MB."""
    options = ("type=tmpfs", "device=tmpfs", "o=size=200m,uid=10003,mode=700")
    labels = (f"com.docker.compose.project={clone.project}", "com.docker.compose.volume=backup")
    flags = [word for option in options for word in ("--opt", option)]
    flags += [word for label in labels for word in ("--label", label)]
    run("docker", "volume", "create", "--driver", "local", *flags, f"{clone.project}_backup")
    ok(clone.stack("up"))
    wait_until(lambda: bool(listing(clone)))
    return clone


def test_full_backup_volume(small: Clone) -> None:
    """Writes are taken as ever, a backup says what is wrong, and with room again the stream has lost nothing."""
    fill = "open('/backup/filler', 'wb').write(bytes(10**9))"
    small.compose("exec", "-T", "backup", "python", "-c", fill, check=False)
    done = small.stack("backup", "--full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    wait_until(lambda: health(small) == "unhealthy", 60)
    assert "failed" in said(small)
    sql(small, "CREATE TABLE bulk AS SELECT repeat('x', 100) FROM generate_series(1, 300000)")
    with small.client() as client:
        assert client.post("/notes", json={"text": "while there was no room"}).status_code == 201
    inside(small, "rm", "/backup/filler")
    sql(small, "DROP TABLE bulk")
    wait_until(lambda: "WAL is received" in said(small) or small.stack("backup").returncode == 0)
    wait_until(lambda: health(small) == "healthy")
    ok(small.stack("verify"))


def test_postgres_stands_still(small: Clone) -> None:
    """A server that takes connections and answers none is said to be away, and is asked again until it answers."""
    small.compose("pause", "postgres")
    try:
        wait_until(lambda: "Postgres can't be asked: no answer within" in said(small), 150)
    finally:
        small.compose("unpause", "postgres")
    wait_until(lambda: "WAL is received" in said(small), 60)


def test_slot_given_up(small: Clone) -> None:
    """A backup service that was away too long: Postgres's disk is spared, and backups begin anew with a full one."""
    sql(small, "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    sql(small, "SELECT pg_reload_conf()")
    before = {one["name"] for one in listing(small)}
    # Not down: its volume is gone with its last container.
    small.compose("pause", "backup")
    sql(small, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    for _ in range(5):
        sql(small, "CREATE TABLE junk (); DROP TABLE junk; SELECT pg_switch_wal(); CHECKPOINT")
    assert sql(small, "SELECT wal_status FROM pg_replication_slots") == "lost"
    small.compose("unpause", "backup")
    wait_until(lambda: listing(small)[0]["name"] not in before)
    assert listing(small)[0]["kind"] == "full"
    # 16 MB are one segment: until the first is received, the new slot may already be over it.
    wait_until(lambda: sql(small, "SELECT wal_status FROM pg_replication_slots") == "reserved")
    ok(small.stack("verify"))
    assert stored(small)
