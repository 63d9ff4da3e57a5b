"""What the backup container runs: APScheduler says when, this says what."""

import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-not-found]  # not in .venv
from apscheduler.triggers.interval import IntervalTrigger  # type: ignore[import-not-found]  # not in .venv

from backup import bucket, catalog, health, jobs, offsite, server, settings, verify
from backup.server import Failure

# Hours that a job may take before it counts as missed.
GRACE = timedelta(hours=2)
# The job that makes each thing that may be overdue. Below: the jobs that run now, and since when. What runs is not
# overdue.
JOB = {"full": "backup", "backup": "backup", "verify": "verify"}
# A full one that found another under way and did not wait would not come for a week.
WORK: dict[str, Callable[[], Any]] = {
    "full": lambda: jobs.backup("full", wait=True),
    "backup": jobs.backup,
    "verify": verify.main,
}
at_work: list[tuple[str, datetime]] = []
# A job that takes longer hangs.
LONGEST = timedelta(days=1)
# However late, also where the machine was suspended meanwhile: of several times that were missed, the last one.
DEFAULTS = {"coalesce": True, "misfire_grace_time": None}


def quietly(job: Callable[[], Any], name: str = "") -> Callable[[], None]:
    """The job, whose failure it has remembered itself."""

    def run() -> None:
        mine = (name, server.now())
        at_work.append(mine)
        try:
            job()
        except (Failure, OSError) as failure:
            print(failure, flush=True)
        finally:
            at_work.remove(mine)

    return run


def stream() -> None:
    try:
        jobs.stream()
    except (Failure, OSError) as failure:
        state = server.recall("stream")
        if state.get("said") != str(failure):
            server.failed("stream", failure)


def make_up() -> None:
    """Take the backup that is needed, if one is. Only then it is under way: to look is not."""
    wanted = jobs.needed()
    # Asked anew: the look that `needed` goes by may be older than Postgres's end. Tried then, the backup that Postgres
    # interrupted would have failed by itself, and wait.
    with contextlib.suppress(Failure):
        if wanted and jobs.received():
            quietly(lambda: jobs.backup(*wanted), "backup")()


def since(job: str) -> datetime | None:
    """When the job was last done; before the first time, since when it could have been; None while neither is so."""
    state = server.recall(job)
    if state.get("ok"):
        return datetime.fromisoformat(state["at"])
    if state:
        return None
    return min((one.ended for one in catalog.backups()), default=None)


def serve() -> None:
    # Each start of a job and each one that is still running would be a line.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
    settings.check()
    server.hold()
    full, incremental, verification = (settings.crontab(setting) for setting in settings.SCHEDULES)
    every = settings.every()
    scheduled = {"full": [full], "backup": [full, incremental], "verify": [verification]}

    def missed(job: str, *triggers: Any) -> Any:
        """When the job should have been done after its last success."""
        last = since(job)
        if not last:
            return None
        return min(trigger.get_next_fire_time(None, last + timedelta(seconds=1)) for trigger in triggers)

    def look() -> None:
        due = {name: missed(name, *triggers) for name, triggers in scheduled.items()}
        working = {name for name, begun in list(at_work) if server.now() - begun < LONGEST}
        due = {name: at + GRACE for name, at in due.items() if at and JOB[name] not in working}
        kept_house = since("housekeeping")
        if kept_house:
            due["housekeeping"] = kept_house + GRACE
        copied = since("offsite")
        if settings.bucket() and copied:
            due["offsite"] = copied + timedelta(seconds=3 * every)
        health.write(health.look(due))

    scheduler = BackgroundScheduler(timezone="UTC", job_defaults=DEFAULTS)
    seconds = {stream: 2, look: 5, quietly(jobs.housekeeping): 60, make_up: 5}
    if settings.bucket():
        # Half of what may be lost: the copy itself takes a while. A backup takes longer, and WAL doesn't wait for it.
        seconds[quietly(offsite.copy)] = every // 2
        seconds[quietly(offsite.upload)] = every
        if every // 2 > bucket.ALIVE:
            seconds[quietly(offsite.alive)] = bucket.ALIVE
    for job, interval in seconds.items():
        soon = {} if interval == 60 else {"next_run_time": server.now()}
        scheduler.add_job(job, IntervalTrigger(seconds=interval), max_instances=1, **soon)
    # Where Postgres is away, `stream` says so, and the next start does it.
    with contextlib.suppress(Failure, OSError):
        jobs.bring_back()
    jobs.sweep()
    # Of a verification that was killed: as large as the database.
    shutil.rmtree(verify.SCRATCH, ignore_errors=True)
    for name, trigger in zip(WORK, (full, incremental, verification), strict=True):
        late = missed(name, trigger)
        # What was missed while the machine was off is done when it is on again.
        soon = {"next_run_time": server.now()} if late and late < server.now() else {}
        scheduler.add_job(quietly(WORK[name], JOB[name]), trigger, **soon)
    scheduler.start()
    # With exit code 0: `./stack` takes another one for a fault. What runs then ends with the container.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()
