"""A random walk through the operator's verbs, under a writer whose acknowledged writes are counted.

Each step is checked against the ledger: what a restore must bring back is there and nothing else, and what any other
verb, killed or not, leaves is all that was acknowledged.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from tests.stack.backups import listing
from tests.stack.ledger import FOREVER, Epoch, Ledger, now
from tests.stack.stacks import CLEAN, Repository, inspect, run, wait_until

# Seconds of acknowledged writes that may be lost with Postgres's disk.
PROMISE = timedelta(seconds=5)
STOPPED = "==> Stop the slots"
# What a release before can live with.
MIGRATION = """
from alembic import op

revision = "{name}"
down_revision = "{head}"


def upgrade():
    op.execute("ALTER TABLE notes ADD COLUMN walked_{name} integer")
"""


class Walk:
    """Steps through a stack's verbs; `seed` makes the choices."""

    def __init__(self, repository: Repository, ledger: Ledger, seed: int) -> None:
        self.repository, self.ledger = repository, ledger
        self.dice = random.Random(seed)  # noqa: S311 - it is to be repeatable
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.targets: list[datetime] = []
        self.commits = 0
        # Whether no command is ended on its way.
        self.calm = False

    # What a step does, and how often beside the others.
    def choices(self) -> dict[Callable[[], None], int]:
        return {
            self.backup: 3,
            self.restore_latest: 2,
            self.restore_time: 5,
            self.restore_name: 2,
            self.deploy: 1,
            self.deploy_with_migration: 1,
            self.rollback: 1,
            self.up: 1,
            self.down_and_up: 1,
            self.kill_postgres: 1,
            self.kill_backup: 2,
            self.kill_receiver: 1,
            self.lose_disk: 1,
        }

    def step(self) -> None:
        weights = self.choices()
        work = self.dice.choices(list(weights), list(weights.values()))[0]
        self.counts["steps"] += 1
        self.tell(work.__name__)
        work()
        self.ledger.wait_for_writes(5, 120)

    def tell(self, words: str) -> None:
        self.story.append(words)
        print(f"{now():%H:%M:%S} {words}", flush=True)

    # The verbs

    def stack(self, *arguments: str) -> "tuple[int | None, list[tuple[datetime, str]]]":
        """Run `./stack`, and end it at some step, now and then; its exit code, None when killed, and its lines."""
        number = self.dice.choices([0, signal.SIGINT, signal.SIGTERM, signal.SIGKILL], [6, 1, 1, 2])[0]
        number = 0 if self.calm else number
        # Of the lines that say that a step is done.
        moment = self.dice.randrange(1, 9)
        lines: list[tuple[datetime, str]] = []
        process = subprocess.Popen(
            [sys.executable, "stack", *arguments],
            cwd=self.repository.folder,
            env=CLEAN,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background ignores it, and would pass that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )
        assert process.stderr
        for line in process.stderr:
            lines.append((now(), line.rstrip()))
            steps = sum(text.startswith("==>") for _, text in lines)
            if number and steps == moment and line.startswith("==>"):
                time.sleep(self.dice.random())  # the moment is what is tried
                self.tell(f"    {signal.Signals(number).name} after {line.strip()}")
                self.counts["ended"] += 1
                os.kill(process.pid, number)
                number = 0
        process.stderr.close()
        code = process.wait()
        last = lines[-1][1] if code and lines else ""
        self.tell(f"    ./stack {' '.join(arguments)}: {code} {last}")
        return (None if code == -signal.SIGKILL else code), lines

    def well(self, *arguments: str) -> None:
        """Run a verb until it comes to its end; it must be well then, whatever was killed before."""
        while True:
            code, lines = self.stack(*arguments)
            if code == 0:
                return
            assert code in (None, 130), "\n".join(text for _, text in lines)

    def unchanged(self) -> None:
        """All that was acknowledged is there."""
        self.ledger.pause()
        newest = self.ledger.epochs[-1]
        self.same(self.ledger.wrong(newest, FOREVER, FOREVER))
        self.ledger.go_on()

    def same(self, wrong: str | None) -> None:
        assert wrong is None, "\n".join([str(wrong), *self.story])
        self.counts["checks"] += 1

    def backup(self) -> None:
        self.stack("backup", *self.dice.choice(((), ("--full",), ("--fast",))))
        self.unchanged()

    def deploy(self) -> None:
        self.commits += 1
        self.repository.commit(**{"app__walked.py": f"# {self.commits}\n"})
        self.well("deploy")
        self.unchanged()

    def deploy_with_migration(self) -> None:
        versions = self.repository.folder / "migrations/versions"
        head = max(path.name[:4] for path in versions.glob("[0-9]*_*.py"))
        name = f"{int(head) + 1:04}"
        text = MIGRATION.format(name=name, head=head)
        self.repository.commit(**{f"migrations__versions__{name}_walked.py": text})
        self.well("deploy")
        self.unchanged()

    def rollback(self) -> None:
        code, lines = self.stack("rollback")
        assert code in (0, None, 130) or "no earlier release" in lines[-1][1], lines
        if code is None:
            self.well("up")
        self.unchanged()

    def up(self) -> None:
        self.well("up")
        self.unchanged()

    def down_and_up(self) -> None:
        self.repository.compose("down", "--timeout", "10")
        self.well("up")
        self.unchanged()

    # What comes from outside

    def kill_postgres(self) -> None:
        container = self.repository.container("postgres")
        before = inspect(container)["RestartCount"]
        os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: inspect(container)["RestartCount"] > before, 60)
        self.ledger.wait_for_writes(1, 120)
        self.unchanged()

    def kill_backup(self) -> None:
        """It stays away, as after `docker kill`, or comes back by its restart policy."""
        container = self.repository.container("backup")
        if self.dice.random() < 0.5:
            run("docker", "kill", container, check=False)
        elif inspect(container)["State"]["Running"]:
            os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
        self.ledger.wait_for_writes(50, 60)

    def kill_receiver(self) -> None:
        lines = run("docker", "top", self.repository.container("backup"), "-o", "pid,args", check=False).splitlines()
        for line in lines:
            if "bin/pg_receivewal" in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)

    def lose_disk(self) -> None:
        """Postgres's volume is destroyed: the newest that was received comes back, at most PROMISE before."""
        self.settle()
        [volume] = [
            mount["Name"]
            for mount in self.repository.containers()["postgres"]["Mounts"]
            if mount["Destination"] == "/var/lib/postgresql"
        ]
        first = self.ledger.epochs[-1]
        os.kill(inspect(self.repository.container("postgres"))["State"]["Pid"], signal.SIGKILL)
        lost = now()
        self.repository.compose("rm", "--stop", "--force", "postgres")
        run("docker", "volume", "rm", volume)
        self.calm = True
        self.restored(["latest"], first, lost - PROMISE, FOREVER)
        self.calm = False

    # Restores

    def restore_latest(self) -> None:
        self.restored(["latest"], self.ledger.epochs[-1], FOREVER, FOREVER)

    def restore_time(self) -> None:
        """Some moment of the past, often near an epoch's beginning or end, the present, or the last one asked for."""
        epoch = self.dice.choice(self.ledger.epochs)
        begun = [one.begun for one in self.ledger.epochs] + [now()]
        ended = begun[self.ledger.epochs.index(epoch) + 1]
        # From when it could be written to.
        first = min((one.answered for one in epoch.writes), default=epoch.begun)
        span = max(ended - first, timedelta(0))
        moment = self.dice.choice(
            [
                first + span * self.dice.random(),
                first + timedelta(seconds=self.dice.random() * 2),
                ended - timedelta(seconds=self.dice.random() * 2),
                now() - timedelta(seconds=self.dice.random() * 5),
                *self.targets[-1:],
            ]
        )
        if not epoch.begun <= moment < ended:
            epoch = self.ledger.epoch_at(moment)
        self.targets.append(moment)
        zone = timezone(timedelta(hours=self.dice.randrange(-11, 13)))
        self.restored([moment.astimezone(zone).isoformat(sep=self.dice.choice(" T"))], epoch, moment, moment)

    def restore_name(self) -> None:
        self.settle()
        one = self.dice.choice(listing(self.repository))
        ended = datetime.fromisoformat(one["ended"]) + timedelta(seconds=1)
        begun = ended - timedelta(seconds=one["seconds"] + 2)
        self.restored([one["name"]], self.ledger.epoch_at(begun), begun, ended)

    def restored(self, to: list[str], first: Epoch, surely: datetime, maybe: datetime) -> None:
        """Restore, whatever ends the command; the result is what was asked for, or what was there before."""
        newest = self.ledger.epochs[-1]
        code, lines = self.stack("restore", "--to", *to, "--yes")
        said = lines
        if code is None:
            # Killed: the next one says which way it goes.
            while code != 0:
                code, more = self.stack("up")
                said = [*said, *more]
                assert code in (0, None, 130, 2), "\n".join(text for _, text in more)
                if code == 2:
                    self.well("restore", "--to", *to, "--yes")
                    code = 0
        self.ledger.pause()
        stopped = [at for at, text in said if text.startswith(STOPPED)]
        if not stopped:
            # It had not begun, or would not.
            self.counts["refused"] += 1
            self.same(self.ledger.wrong(newest, FOREVER, FOREVER))
        else:
            since = stopped[-1]
            # Writes of before the slots stopped are the old epoch's, whatever was asked for.
            surely = since if surely is FOREVER else surely
            result = self.ledger.wrong(first, surely, min(maybe, since), since)
            if (result and code != 0) or any("back to" in text for _, text in said):
                self.counts["went back"] += 1
                self.same(self.ledger.wrong(newest, FOREVER, FOREVER))
            else:
                self.counts["restored"] += 1
                self.same(result)
                self.ledger.divide(since)
        self.ledger.go_on()

    def settle(self) -> None:
        """Have the backups well, whatever became of them: the log is received, and one can be taken."""
        self.repository.compose("up", "--detach", "--no-deps", "backup")
        wait_until(lambda: self.repository.stack("backup").returncode == 0, 180)

    def report(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{counted}; {self.ledger.acknowledged} acknowledged writes, {self.ledger.refused} refused"
