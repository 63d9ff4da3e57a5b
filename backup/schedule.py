"""PID 1 of the backup container: APScheduler says when, this says what."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-not-found]  # not in .venv
from apscheduler.triggers.interval import IntervalTrigger  # type: ignore[import-not-found]  # not in .venv

from backup import health, jobs, offsite, server, settings, verify
from backup.server import Failure

# Hours that a job may take before it counts as missed.
GRACE = timedelta(hours=2)


def quietly(job: Callable[[], Any]) -> Callable[[], None]:
    """The job, whose failure it has remembered itself."""

    def run() -> None:
        try:
            job()
        except Failure as failure:
            print(failure, flush=True)

    return run


def stream() -> None:
    try:
        jobs.stream()
    except Failure as failure:
        state = server.recall("stream")
        if state.get("said") != str(failure):
            server.failed("stream", failure)


def again() -> None:
    """A backup that failed is tried again each hour, not each day."""
    if server.recall("backup").get("ok") is False:
        jobs.backup()


def serve() -> None:
    # Each start of a job and each one that is still running would be a line.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
    settings.check()
    full, incremental, verification = (settings.crontab(setting) for setting in settings.SCHEDULES)
    every = settings.every()

    def missed(job: str, *triggers: Any) -> Any:
        """When the job should have been done after its last success; None before the first."""
        last = server.recall(job)
        if not last.get("ok"):
            return None
        after = datetime.fromisoformat(last["at"])
        return min(trigger.get_next_fire_time(None, after + timedelta(seconds=1)) for trigger in triggers)

    def look() -> None:
        due = {"backup": missed("backup", full, incremental), "verify": missed("verify", verification)}
        if settings.bucket() and server.recall("offsite").get("ok"):
            due["offsite"] = (
                datetime.fromisoformat(server.recall("offsite")["at"]) + timedelta(seconds=3 * every) - GRACE
            )
        health.write(health.look({job: at + GRACE for job, at in due.items() if at}))

    scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": 3600})
    seconds = {stream: 2, look: 5, quietly(jobs.housekeeping): 60, quietly(jobs.first): 5, quietly(again): 3600}
    if settings.bucket():
        # Half of what may be lost: the copy itself takes a while.
        seconds[quietly(offsite.copy)] = every // 2
    for job, interval in seconds.items():
        soon = {} if interval in (60, 3600) else {"next_run_time": server.now()}
        scheduler.add_job(job, IntervalTrigger(seconds=interval), max_instances=1, **soon)
    daily: list[tuple[Callable[[], Any], Any, str]] = [
        (lambda: jobs.backup("full"), full, "backup"),
        (jobs.backup, incremental, "backup"),
        (verify.main, verification, "verify"),
    ]
    for work, trigger, name in daily:
        late = missed(name, trigger)
        # What was missed while the machine was off is done when it is on again.
        soon = {"next_run_time": server.now()} if late and late < server.now() else {}
        scheduler.add_job(quietly(work), trigger, **soon)
    scheduler.start()
    # The kernel drops a signal that PID 1 does not handle. What runs then ends with the container.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()
