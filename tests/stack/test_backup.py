"""Backups, proven by what comes back: on the real engine, through the commands that an operator types."""

import os
import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from tests.stack.backups import health, inside, listing, ok, settled, stored
from tests.stack.stacks import CLEAN, Clone, inspect, run, wait_until

# Seconds of acknowledged writes that may be lost with Postgres's disk.
PROMISE = 5


class Writer(threading.Thread):
    """Posts a note each 50 ms; knows when it asked and when each was acknowledged."""

    def __init__(self, clone: Clone) -> None:
        super().__init__(daemon=True)
        self.clone, self.stop, self.acknowledged = clone, threading.Event(), dict[int, tuple[datetime, datetime]]()

    def run(self) -> None:
        with self.clone.client() as client:
            while not self.stop.wait(0.05):
                asked = datetime.now(UTC)
                try:
                    answer = client.post("/notes", json={"text": "one of many"})
                except httpx2.HTTPError:
                    # The server is gone.
                    continue
                if answer.status_code == 201:
                    self.acknowledged[answer.json()["id"]] = (asked, datetime.now(UTC))

    def __enter__(self) -> "Writer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


class Visitor(threading.Thread):
    """Asks for a page again and again; keeps each answer's status and Retry-After."""

    def __init__(self, clone: Clone) -> None:
        super().__init__(daemon=True)
        self.clone, self.stop, self.answers = clone, threading.Event(), set[tuple[int, str | None]]()
        self.saw_page = False

    def run(self) -> None:
        with self.clone.client() as client:
            while not self.stop.wait(0.1):
                answer = client.get("/")
                self.answers.add((answer.status_code, answer.headers.get("Retry-After")))
                self.saw_page |= "Back soon" in answer.text


def is_back_to(clone: Clone, target: datetime, writer: Writer) -> None:
    """All that was acknowledged before the target is stored, and nothing that was asked for after it."""
    there = stored(clone)
    written = writer.acknowledged.items()
    assert {number for number, (_, answered) in written if answered < target} <= there
    assert not {number for number, (asked, _) in written if asked > target} & there


def test_disk_lost_and_back_to_any_second(backed_up: Clone) -> None:
    """Killed and its volume destroyed: at most 5 s lost. Back to a second: exactly what was committed before it."""
    clone = backed_up
    old = f"{clone.project}_postgres-data"
    with Writer(clone) as writer:
        wait_until(lambda: len(writer.acknowledged) > 20)
        assert "incremental" in ok(clone.stack("backup"))
        wait_until(lambda: len(writer.acknowledged) > 80)
        os.kill(inspect(clone.container("postgres"))["State"]["Pid"], signal.SIGKILL)
        killed = datetime.now(UTC)
        clone.compose("rm", "--stop", "--force", "postgres")
    run("docker", "volume", "rm", old)
    ok(clone.stack("restore", "--to", "latest", "--yes"))
    there = stored(clone)
    lost = [asked for number, (asked, _) in writer.acknowledged.items() if number not in there]
    assert not lost or (killed - min(lost)).total_seconds() <= PROMISE

    # Back to a second between two of the writes, with a visitor at the door.
    times = sorted(writer.acknowledged.values())
    target = times[len(times) // 2][1]
    visitor = Visitor(clone)
    visitor.start()
    done = clone.stack("restore", "--to", str(target), "--yes")
    with clone.client() as client:
        assert client.get("/").status_code == 200
    visitor.stop.set()
    visitor.join()
    assert "`./stack volumes` lists and removes" in ok(done)
    is_back_to(clone, target, writer)
    there = stored(clone)
    assert there
    assert visitor.answers == {(200, None), (503, "10")}
    assert visitor.saw_page

    # The next backup begins a chain of its own, which a verification finds good.
    wait_until(lambda: listing(clone)[0]["timeline"] == 3)
    assert listing(clone)[0]["kind"] == "full"
    assert "is good" in ok(clone.stack("verify"))
    assert listing(clone)[0]["verified"]
    # Plain Compose sees the same database.
    clone.compose("up", "--detach", "--wait")
    assert stored(clone) >= there


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_random_seconds(backed_up: Clone) -> None:
    """Rows of 20 s with an increment among them; back to five moments of those, each time to exactly what was then."""
    with Writer(backed_up) as writer:
        wait_until(lambda: len(writer.acknowledged) > 50)
        begun = datetime.now(UTC)
        ok(backed_up.stack("backup"))
        wait_until(lambda: datetime.now(UTC) > begun + timedelta(seconds=20))
        ended = datetime.now(UTC)
    # A backup must have ended before it. From the last one backwards: each restore leaves what came after its moment.
    first = datetime.fromisoformat(listing(backed_up)[0]["ended"]) + timedelta(seconds=1)
    moments = [first + (ended - first) * random.random() for _ in range(5)]  # noqa: S311
    for moment in sorted(moments, reverse=True):
        ok(backed_up.stack("restore", "--to", str(moment), "--yes"))
        is_back_to(backed_up, moment, writer)
        assert stored(backed_up)


@pytest.mark.long
def test_restore_point(backed_up: Clone) -> None:
    """A deploy names the moment before its migrations, and that name leads back to it."""
    before = stored(backed_up)
    program = (
        "from ops.config import project_name; from ops.database.backup import restore_point; "
        "print(restore_point(project_name(), 'before-release-2'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=backed_up.folder, env=CLEAN, capture_output=True, text=True
    )
    assert ok(done) == "./stack restore --to before-release-2\n"
    with backed_up.client() as client:
        assert client.post("/notes", json={"text": "of the release that failed"}).status_code == 201
    ok(backed_up.stack("restore", "--to", "before-release-2", "--yes"))
    assert stored(backed_up) == before
    wait_until(lambda: health(backed_up) == "healthy")


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("2001-01-01 00:00:00+00", "is before the end of the first backup: "),
        ("2101-01-01 00:00:00+00", "is in the future: `--to latest`"),
        ("2026-11-22 03:15:46", 'has no time zone: write "2026-11-22 03:15:46+00"'),
        ("yesterday", "is neither `latest`, nor a backup's name"),
        ("20010101T000000", "There is no backup 20010101T000000"),
    ],
)
def test_wrong_target(backed_up: Clone, to: str, sentence: str) -> None:
    """A target that can't be reached is a sentence, and nothing has been stopped for it."""
    begun = backed_up.containers()["app-1"]["State"]["StartedAt"]
    done = backed_up.stack("restore", "--to", to, "--yes")
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert backed_up.containers()["app-1"]["State"]["StartedAt"] == begun


def test_nobody_to_ask(backed_up: Clone) -> None:
    """Without --yes the plan is shown and the question asked; a script that can't answer it changes nothing."""
    done = backed_up.stack("restore", "--to", "latest")
    assert "Restore to   the newest that was received" in done.stdout
    assert "--yes goes on without the question" in done.stderr
    assert done.returncode == 2


@pytest.mark.long
def test_killed_backup(backed_up: Clone) -> None:
    """One that was killed half-way is not listed, and the next one works."""
    wait_until(lambda: settled(backed_up))
    before = listing(backed_up)
    argv = ["docker", "compose", "exec", "-T", "backup", "python", "-m", "backup", "backup", "full"]
    victim = subprocess.Popen(
        argv, cwd=backed_up.folder, env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def kill() -> bool:
        # Ids on this machine, of this container alone.
        lines = run("docker", "top", backed_up.container("backup"), "-o", "pid,args").splitlines()[1:]
        found = [int(line.split()[0]) for line in lines if "pg_basebackup" in line]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    wait_until(kill)
    assert victim.wait(60) == 1
    names = [one["name"] for one in before]
    assert [one["name"] for one in listing(backed_up)] == names
    # Nor is any of it left.
    assert inside(backed_up, "ls", "/backup/18/base").split() == sorted(names)
    wait_until(lambda: health(backed_up) == "unhealthy", 60)
    ok(backed_up.stack("backup"))
    assert len(listing(backed_up)) == len(before) + 1
    wait_until(lambda: health(backed_up) == "healthy", 60)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_damaged_backup(backed_up: Clone) -> None:
    """A byte that changed in a stored file: verification fails loudly, and names the older backup that is good.

    A restore begins with that one, says so, and loses nothing. One to the damaged backup itself goes back to what was.
    """
    wait_until(lambda: settled(backed_up))
    older = listing(backed_up)[0]["name"]
    ok(backed_up.stack("backup", "--full"))
    name = listing(backed_up)[0]["name"]
    damage = f"f = open('/backup/18/base/{name}/data/global/pg_control', 'r+b'); f.seek(5000); f.write(b'!')"
    inside(backed_up, "python", "-c", damage)
    done = backed_up.stack("verify")
    assert done.returncode == 1
    assert f"The backup {name} is damaged: " in done.stderr
    assert f"A restore begins with the backup {older} instead, which is good" in done.stderr
    wait_until(lambda: health(backed_up) == "unhealthy", 60)
    there = stored(backed_up)
    done = backed_up.stack("restore", "--to", name, "--yes")
    assert done.returncode == 1
    assert "Go back to the old volume" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"The backup {name} is damaged: ")
    assert stored(backed_up) == there
    with backed_up.client() as client:
        assert client.get("/health").status_code == 200
        assert client.post("/notes", json={"text": "after the damage"}).status_code == 201
    there = stored(backed_up)
    done = backed_up.stack("restore", "--to", "latest", "--yes")
    ok(done)
    assert f"The backup {name} is damaged: " in done.stderr
    assert f"The restore began with the backup {older} of " in done.stderr
    assert stored(backed_up) == there
    # The new timeline has a backup of its own.
    wait_until(lambda: settled(backed_up))
    ok(backed_up.stack("verify"))
    wait_until(lambda: health(backed_up) == "healthy", 60)


@pytest.mark.long
def test_missing_wal(backed_up: Clone) -> None:
    """A segment that is gone is named before anything is stopped; a new full backup makes things right."""
    for _ in range(2):
        inside(
            backed_up,
            "python",
            "-c",
            "from backup.server import barman; barman('switch-wal', '--force', '--archive', 'main')",
        )
    gone = inside(backed_up, "sh", "-c", "ls /backup/18/wals/*/* | sort | tail -1").strip()
    inside(backed_up, "rm", gone)
    done = backed_up.stack("restore", "--to", "latest", "--yes")
    assert done.returncode == 1
    assert f"The WAL segment {gone[-24:]} is missing" in done.stderr
    ok(backed_up.stack("backup", "--full"))
    ok(backed_up.stack("verify"))


@pytest.mark.long
def test_two_at_once(backed_up: Clone) -> None:
    """The second of two restores is told to wait; the first is not disturbed."""
    argv = [sys.executable, "stack", "restore", "--to", "latest", "--yes"]
    first = subprocess.Popen(argv, cwd=backed_up.folder, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert first.stdout
    # Its plan: it holds the lock.
    while b"Restore to" not in first.stdout.readline():
        assert first.poll() is None
    second = backed_up.stack("restore", "--to", "latest", "--yes")
    assert second.returncode == 1
    assert "Another one is at work: `./stack restore`" in second.stderr
    printed = first.communicate(timeout=120)[0]
    assert first.returncode == 0, printed
