"""What the backup service does by itself as time passes, on backups and jobs that are made older than they are."""

import json

import pytest

from tests.stack.backups import health, inside, listing, ok, said, stored
from tests.stack.stacks import Clone, wait_until

# Barman goes by what a backup's file says of it.
AGE = """
import re, sys
from datetime import datetime, timedelta
from pathlib import Path

def older(found):
    return f"{found[1]}={datetime.fromisoformat(found[2]) - timedelta(days=int(sys.argv[1]))}"

for name in sys.argv[2:]:
    for path in (Path(f"/backup/18/meta/{name}-backup.info"), Path(f"/backup/18/base/{name}/backup.info")):
        if path.exists():
            path.write_text(re.sub(r"(?m)^(begin_time|end_time)=(.+)$", older, path.read_text()))
"""
AGE_JOB = """
import sys
from datetime import timedelta
from backup import server

job, days = sys.argv[1:]
at = server.now() - timedelta(days=float(days))
server.remember(job, **{**server.recall(job), "at": at.isoformat()})
"""
RECALL = "import json, sys; from backup import server; print(json.dumps(server.recall(sys.argv[1])))"
# What is started while the service looks for a minute and more. What Docker itself starts there has no parent.
STARTED = """
import time
from pathlib import Path

def running():
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            left, _, right = path.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        number, _, name = left.partition(" (")
        if right.split()[1] != "0":
            found[number] = name
    return found

before, started, looks = running(), {}, set()
while len(looks) < 14:
    looks.add(Path("/tmp/health").stat().st_mtime_ns)
    started |= running()
    time.sleep(0.002)
print(sorted(name for number, name in started.items() if number not in before))
"""


def kept_house(clone: Clone) -> bool:
    """Whether there is nothing left to do: the window was looked at with every backup, and the log is archived."""
    done = json.loads(inside(clone, "python", "-c", RECALL, "housekeeping"))
    streamed = inside(clone, "ls", "/backup/18/streaming").split()
    return bool(done.get("backups") == sorted(names(clone)) and all(name.endswith(".partial") for name in streamed))


def names(clone: Clone) -> list[str]:
    return [one["name"] for one in listing(clone)]


def segments(clone: Clone) -> list[str]:
    """The archived WAL segments of all timelines, without the timeline's part of their names."""
    found = inside(clone, "sh", "-c", "ls /backup/18/wals/*").split()
    return sorted(name[8:] for name in found if len(name) == 24)


@pytest.mark.long
def test_idle(backed_up: Clone) -> None:
    """With nothing to do it starts no process, neither to look nor to keep house: it has one connection to ask by."""
    wait_until(lambda: kept_house(backed_up), 150)
    assert inside(backed_up, "python", "-c", STARTED) == "[]\n"


@pytest.mark.long
def test_recovery_window(backed_up: Clone) -> None:
    """What is older than 14 days goes by itself, but for the backup that reaches the first of them, and its WAL."""
    with backed_up.client() as client:
        assert client.post("/notes", json={"text": "from before"}).status_code == 201
    ok(backed_up.stack("backup"))
    gone = names(backed_up)
    ok(backed_up.stack("backup", "--full"))
    kept = names(backed_up)[0]
    before = segments(backed_up)
    ok(backed_up.stack("backup", "--full"))
    newest = names(backed_up)[0]
    inside(backed_up, "python", "-c", AGE, "40", *gone)
    inside(backed_up, "python", "-c", AGE, "20", kept)
    # Once an hour it looks whether time has passed.
    inside(backed_up, "python", "-c", AGE_JOB, "housekeeping", "0.1")
    wait_until(lambda: names(backed_up) == [newest, kept], 150)
    wait_until(lambda: segments(backed_up)[0] > before[0], 150)
    ok(backed_up.stack("restore", "--to", kept, "--yes"))
    # Until the new timeline has a backup, the old one is the only way to it; a machine that is slow has it by now.
    assert " is good: " in ok(backed_up.stack("verify"))
    assert stored(backed_up)
    # A restore begins a timeline, and backups of it.
    wait_until(lambda: listing(backed_up)[0]["timeline"] == 2)


@pytest.mark.long
def test_rate(backed_up: Clone) -> None:
    """A backup reads no more than BACKUP_RATE MB a second, unless told; a restore is as fast as it goes."""
    rate = ("env", "BACKUP_RATE=2", "python", "-m", "backup")

    def took(*options: str) -> float:
        """Over what it takes at that rate."""
        made = json.loads(inside(backed_up, *rate, "backup", "full", "--immediate-checkpoint", *options))
        return float(made["took"] / (made["bytes"] / 2e6))

    assert took() > 0.8
    assert took("--bwlimit=0") < 0.4
    found = json.loads(inside(backed_up, *rate, "verify").splitlines()[-1])
    assert found["seconds"] < 0.5 * listing(backed_up)[0]["bytes"] / 2e6


# A job whose time was nine hours ago, for the service's own scheduler.
LATE = """
import threading
from datetime import timedelta
from apscheduler.schedulers.background import BackgroundScheduler
from backup import schedule, server

done = threading.Event()
scheduler = BackgroundScheduler(timezone="UTC", job_defaults=schedule.DEFAULTS)
scheduler.add_job(done.set, "interval", days=1, next_run_time=server.now() - timedelta(hours=9))
scheduler.start()
print(done.wait(10))
"""
# What is under way while the service looks whether a backup is needed.
LOOKING = """
from backup import jobs, schedule

seen = []
jobs.needed = lambda: seen.extend(schedule.at_work)
schedule.make_up()
print(seen)
"""
# The weekly backup's job, before another backup has ended and after.
WAITING = """
import threading
from backup import jobs, schedule, server

taken = []
jobs.take = lambda *words: taken.append(words)
full = threading.Thread(target=schedule.WORK["full"])
with server.alone("backup"):
    full.start()
    full.join(0.5)
    print(taken)
full.join(10)
print(taken)
"""
# Receiving WAL on a volume without room.
NO_ROOM = """
import os
from backup import jobs, schedule, server

def full():
    raise OSError(28, os.strerror(28), "/backup")

jobs.stream, server.failed = full, print
schedule.stream()
"""


def test_disk_that_fails(backed_up: Clone) -> None:
    """It is said in a sentence, by the service and by a verb; never a traceback."""
    assert inside(backed_up, "python", "-c", NO_ROOM) == "stream [Errno 28] No space left on device: '/backup'\n"
    argv = ("env", f"BACKUP_FOLDER={'x' * 300}", "python", "-m", "backup", "list")
    done = backed_up.compose("exec", "-T", "backup", *argv, check=False)
    assert "File name too long" in done
    assert "Traceback" not in done


def test_full_backup_waits(backed_up: Clone) -> None:
    """For another that is under way, as one by hand may be for hours: the next full one would be a week later."""
    assert inside(backed_up, "python", "-c", WAITING) == "[]\n[('full',)]\n"


def test_machine_that_was_suspended(backed_up: Clone) -> None:
    """What it slept through is done when it wakes, however late that is."""
    assert inside(backed_up, "python", "-c", LATE) == "True\n"


def test_look_whether_a_backup_is_needed(backed_up: Clone) -> None:
    """It is no backup that is under way: one that is overdue is said at every look, not by chance."""
    assert inside(backed_up, "python", "-c", LOOKING) == "[]\n"


FAIL = "from backup import server; server.failed('backup', 'as planned', kind='full')"
BACKUP = ("python", "-m", "backup", "backup", "full", "--immediate-checkpoint")


def test_failed_full_backup(backed_up: Clone) -> None:
    """It is tried again as a full one: increments alone would grow for ever, and none of them would ever expire."""
    ok(backed_up.stack("backup"))
    inside(backed_up, "python", "-c", FAIL)
    before = names(backed_up)
    inside(backed_up, "python", "-c", AGE_JOB, "backup", "0.05")
    wait_until(lambda: names(backed_up) != before)
    assert listing(backed_up)[0]["kind"] == "full"


def test_increment_on_an_old_backup(backed_up: Clone) -> None:
    """Postgres forgets after ten days what has changed since one: a full one is taken, and the next rests on it."""
    inside(backed_up, "python", "-c", AGE, "9", *names(backed_up))
    assert ": full, " in ok(backed_up.stack("backup"))
    assert ": incremental, " in ok(backed_up.stack("backup"))


@pytest.mark.long
def test_backup_of_a_service_that_was_killed(backed_up: Clone) -> None:
    """It is removed at the next start, with what it had copied, as is what a verification had restored."""
    backed_up.compose("exec", "-T", "--detach", "backup", "env", "BACKUP_RATE=1", *BACKUP)
    wait_until(lambda: inside(backed_up, "ls", "/backup/18/base").split()[-1] != names(backed_up)[0])
    inside(backed_up, "mkdir", "-p", "/backup/18/stack/verify/data")
    backed_up.compose("kill", "backup")
    backed_up.compose("start", "backup")
    wait_until(lambda: health(backed_up) == "healthy")
    assert inside(backed_up, "ls", "/backup/18/base").split() == sorted(names(backed_up))
    assert "verify" not in inside(backed_up, "ls", "/backup/18/stack").split()


def test_overdue(backed_up: Clone) -> None:
    """A verification that was not made when it should have been is said; a service that starts makes it at once."""
    ok(backed_up.stack("verify"))
    wait_until(lambda: health(backed_up) == "healthy")
    inside(backed_up, "python", "-c", AGE_JOB, "verify", "15")
    wait_until(lambda: health(backed_up) == "unhealthy")
    assert "The verification of " in said(backed_up)
    assert "has not been made" in said(backed_up)
    backed_up.compose("restart", "backup")
    wait_until(lambda: health(backed_up) == "healthy")
