"""What the verbs of the backups say, and of what."""

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.stack.backups import health, inside, listing, ok, said
from tests.stack.stacks import CLEAN, Clone, run, wait_until


def test_sizes_on_the_disk(backed_up: Clone) -> None:
    """What the backups take, and the log that Postgres keeps: a segment of it is 16 MiB."""
    found = json.loads(ok(backed_up.stack("backups", "--json")))
    kilobytes = int(inside(backed_up, "du", "-sk", "/backup").split()[0])
    assert found["volume_bytes"] == pytest.approx(kilobytes * 1024, rel=0.5)
    assert found["pg_wal_bytes"] >= 2**24
    assert "The log in Postgres's own volume: " in ok(backed_up.stack("backups"))
    backed_up.compose("stop", "postgres")
    try:
        assert json.loads(ok(backed_up.stack("backups", "--json")))["pg_wal_bytes"] is None
    finally:
        backed_up.compose("start", "postgres")
    wait_until(lambda: health(backed_up) == "healthy", 60)


# What the service does every few seconds, by a look that is older than Postgres's end.
STALE = "from backup import health, schedule, settings, server; server.configure(settings.keep_days())"
STALE += "; health.timeline = 1; schedule.make_up()"


def restart(stack: Clone, backup: "subprocess.Popen[bytes]") -> None:
    stack.compose("stop", "postgres")
    backup.wait(60)
    inside(stack, "python", "-c", STALE)
    stack.compose("start", "postgres")


def kill_a_process(stack: Clone, _: "subprocess.Popen[bytes]") -> None:
    """As the kernel does when memory runs out: Postgres ends all its processes but the first, and recovers."""
    killed = stack.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'", "postgres", "postgres")
    stack.compose("exec", "-T", "postgres", "sh", "-c", f"kill -9 {killed}")


Ending = Callable[[Clone, "subprocess.Popen[bytes]"], None]


@pytest.mark.parametrize("ended", [restart, kill_a_process])
def test_postgres_ends_under_a_backup(backed_up: Clone, ended: Ending) -> None:
    """It is taken again as soon as Postgres is back. Nothing is wrong with the backups meanwhile."""
    container, before = backed_up.container("backup"), {one["name"] for one in listing(backed_up)}
    # Slowly: it must not be done before it is seen.
    argv = ["docker", "exec", "-e", "BACKUP_RATE=1", container, "python", "-m", "backup", "backup", "full"]
    with subprocess.Popen(argv, env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as under_way:
        wait_until(lambda: "pg_basebackup" in run("docker", "top", container) or under_way.poll() is not None)
        ended(backed_up, under_way)
        assert under_way.wait(60) == 1
    heard = set()

    def taken_again() -> bool:
        heard.add(said(backed_up))
        return {one["name"] for one in listing(backed_up)} > before

    wait_until(taken_again)
    assert [words for words in heard if "failed" in words] == []


# As the next release has it.
NEWER = """
from alembic import op

revision = "newer"
down_revision = "0001"


def upgrade():
    op.execute("ALTER TABLE notes ADD COLUMN done bool")
"""


def test_older_code_is_checked_out(backed_up: Clone) -> None:
    """A backup is judged by itself, and its schema by the release that serves, whatever the checkout knows."""
    new = backed_up.folder / "migrations/versions/newer.py"
    new.write_text(NEWER)
    ok(backed_up.stack("deploy"))
    new.unlink()
    done = backed_up.stack("verify")
    assert "Schema revision: newer." in ok(done)
    assert "is good" in done.stdout
    assert "doesn't know" not in done.stderr
    ok(backed_up.stack("backup"))
    done = backed_up.stack("restore", "--to", "latest")
    assert "Restore to   the newest that was received" in done.stdout
    assert "But " not in done.stdout


def test_verification_before_the_first_backup(backed_up: Clone) -> None:
    """There is nothing to verify, which is no verification that failed."""
    young = ("exec", "-T", "-e", "BACKUP_FOLDER=young", "backup")
    said = backed_up.compose(*young, "python", "-m", "backup", "verify", check=False)
    assert "There is no backup to verify yet" in said
    asked = "from backup import server; print(server.recall('verify'))"
    assert backed_up.compose(*young, "python", "-c", asked) == "{}\n"
    inside(backed_up, "rm", "-r", "/backup/young")
