"""The app's jobs on a schedule: a process of its own, which runs the lines of a crontab.

    cron CRONTAB             run them
    cron CRONTAB --check     say whether the file is right
    cron CRONTAB --list      print each job's last and next run, as JSON

What is due runs once, whatever becomes of this container. It writes down in a volume what it has begun, before it
begins it; its successor runs what came due in between. Told to stop, it begins nothing more, and waits for what runs.
"""

import fcntl
import json
import os
import signal
import sys
import time
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import IO, Any

from . import crontab, environment, settings
from .limits import Wrong

# A volume: process.yaml.
FOLDER = environment.STACK / "cron"
# Seconds: what came due longer ago, while no cron ran, is left out.
CATCH_UP = 3600
# Seconds between two looks at the clock, which somebody may set.
LOOK = 60
# Seconds after which a run that begins is said to make up for one that did not.
LATE = 10
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


class Task:
    """A job, and what is known of it.

    `record`: `seen`, when it was last due and was run or left out; of the last run when it was `due`, `began` and
    `ended`, and its exit `code`, None of one that was cut off; `left_out`, when it was last due in vain. All times are
    seconds since the epoch.
    """

    def __init__(self, job: crontab.Job, record: dict[str, Any]) -> None:
        self.job, self.record, self.pid = job, record, 0
        self.see(record["seen"])

    def see(self, moment: float) -> None:
        self.record["seen"] = moment
        self.next = self.job.next(moment)

    def leave_out(self, why: str) -> None:
        self.record["left_out"] = self.next
        self.say(f"is left out, due at {shown(self.next, self.job.zone)}: {why}")
        self.see(self.next)

    def begin(self, now: float) -> None:
        shell = self.job.environment.get("SHELL", "/bin/sh")
        due = datetime.fromtimestamp(self.record["due"], timezone.utc)
        # For a program that would know which of its runs this is.
        own = {**self.job.environment, "STACK_DUE": f"{due:%Y-%m-%dT%H:%M:%SZ}"}
        if now - self.record["due"] > LATE:
            self.say(f"is made up for, due at {shown(self.record['due'], self.job.zone)}")
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        argv = [shell, "-c", self.job.command]
        # Python ignores these two, and a shell can't undo that: `yes | head -1` would go on for ever.
        undo = [signal.SIGPIPE, signal.SIGXFSZ]
        self.pid = os.posix_spawn(
            shell, argv, {**os.environ, **own}, file_actions=[nothing], setsigmask=[], setsigdef=undo
        )

    def end(self, code: int | None, now: float) -> None:
        self.record.update(ended=now, code=code)
        self.pid = 0
        how = "was cut off" if code is None else f"ended with {code}" if code else "is done"
        self.say(f"{how} after {now - self.record['began']:.1f} s")

    def say(self, words: str) -> None:
        say(f"`{self.job.command}` {words}")

    def row(self, now: float) -> dict[str, Any]:
        """What `./stack cron` shows; `trouble` is a word on what went wrong last, or None."""
        found = self.record
        ran, left_out = "began" in found, found.get("left_out")
        running = ran and not found["ended"]
        trouble = None
        if ran and not running and found["code"] != 0:
            trouble = "was cut off" if found["code"] is None else f"ended with {found['code']}"
        if left_out and left_out > found.get("due", 0):
            trouble = f"was left out at {shown(left_out, self.job.zone)}"
        times = {name: found.get(name) for name in ("due", "began", "ended", "left_out")}
        return {
            "schedule": self.job.schedule,
            "command": self.job.command,
            **{name: one and shown(one, self.job.zone) for name, one in times.items()},
            "code": found.get("code"),
            "running": running,
            "next": shown(self.job.next(now), self.job.zone),
            "trouble": trouble,
        }


class Cron:
    def __init__(self, path: Path) -> None:
        self.file = FOLDER / (str(path.absolute()).replace("/", "-")[-200:] + ".json")
        self.jobs = crontab.read(path)
        # When it was told to.
        self.stopped: float | None = None

    def remember(self) -> None:
        """Go on from what was written down."""
        self.began = time.time()
        found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        # A job that is new here has come with this release, whose is all that came due since the one before ended.
        until, records = found.get("until", self.began), found.get("jobs", {})
        self.tasks = [Task(job, records.get(job.name, {"seen": until})) for job in self.jobs]

    def save(self) -> None:
        """Have it on the disk, whole, before what it says is done."""
        records = {task.job.name: task.record for task in self.tasks}
        draft = self.file.with_suffix(".new")
        with draft.open("w") as file:
            json.dump({"until": self.stopped or time.time(), "jobs": records}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.file)

    def try_save(self) -> bool:
        """Save it, or say why not: what runs goes on on a full disk, too."""
        try:
            self.save()
        except OSError as error:
            say(f"what ran can't be written down: {error}")
            return False
        return True

    def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        # Open, and so locked, until this process has ended: two would run each job twice.
        with self.file.with_suffix(".lock").open("w") as lock:
            if not locked(lock):
                say("another runs these jobs: waiting for its end")
                while not locked(lock):
                    if self.wait(1):
                        return 0
            say(f"jobs: {len(self.jobs)}")
            self.remember()
            for task in self.tasks:
                if "began" in task.record and not task.record["ended"]:
                    task.end(None, self.began)
            while True:
                now = time.time()
                for task in self.tasks:
                    self.look(task, now)
                self.try_save()
                if self.stopped and not any(task.pid for task in self.tasks):
                    return 0
                to_come = [task.next - now for task in self.tasks if task.next > now]
                if self.wait(min([LOOK, *to_come])):
                    self.stopped = self.stopped or time.time()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a job ends; whether to stop."""
        found = signal.sigtimedwait(SIGNALS, seconds)
        return bool(found and found.si_signo != signal.SIGCHLD)

    def look(self, task: Task, now: float) -> None:
        """End the job if it has ended, and begin it if it is due."""
        if task.pid and (found := os.waitpid(task.pid, os.WNOHANG))[0]:
            task.end(os.waitstatus_to_exitcode(found[1]), now)
        while task.next <= now:
            if task.pid and task.record["due"] > self.began:
                task.leave_out("it still runs")
            elif task.pid or self.stopped:
                # What came due before this process began runs first, one after the other.
                return
            elif now - task.next > CATCH_UP:
                task.leave_out("no cron ran")
                task.see(max(task.record["seen"], now - CATCH_UP))
            else:
                known, due = dict(task.record), task.next
                task.record.update(due=due, began=now, ended=None, code=None)
                task.see(due)
                # First: a run that nobody knows of would be repeated.
                if not self.try_save():
                    task.record, task.next = known, due
                    return
                try:
                    task.begin(now)
                except OSError as error:
                    task.say(f"can't be run: {error}")
                    task.end(127, now)


def say(words: str) -> None:
    print(f"cron: {words}", file=sys.stderr, flush=True)


def locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def shown(moment: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(moment, zone).isoformat(" ", "seconds")


@settings.program
def main() -> int:
    path, *what = sys.argv[1:]
    cron = Cron(Path(path))
    if not os.access(FOLDER, os.W_OK):
        raise Wrong(f"{FOLDER} is no volume that this user may write to: docs/processes.md.")
    if what == ["--check"]:
        return 0
    if what == ["--list"]:
        cron.remember()
        print(json.dumps([task.row(time.time()) for task in cron.tasks]))
        return 0
    return cron.run()
