"""A walk through the operator's verbs, under a writer whose acknowledged writes are counted.

Each step (tests/stack/steps.py) is checked against the ledger: what a restore must bring back is there and nothing
else, and what any other verb, killed or not, leaves is all that was acknowledged.
"""

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from tests.stack.ledger import FOREVER, Epoch, Ledger, now
from tests.stack.s3 import Server
from tests.stack.stacks import CLEAN, Repository, run, wait_until

STOPPED = "==> Stop the slots"
# Seconds between two copies into the bucket.
EVERY = 10


class Walk:
    """Steps through a stack's verbs; `seed` makes the choices.

    `server` is for the bucket, and `disk` the folder that its backup volume is in: small, so that it can be filled.
    """

    def __init__(self, repository: Repository, ledger: Ledger, seed: int, server: Server, disk: Path) -> None:
        self.repository, self.ledger, self.server, self.disk = repository, ledger, server, disk
        self.dice = random.Random(seed)  # noqa: S311 - it is to be repeatable
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        # The moments that were asked for.
        self.targets: list[datetime] = []
        self.commits = 0
        # Whether no command is ended on its way.
        self.calm = False

    def step(self, weights: Mapping[Callable[["Walk"], None], int]) -> None:
        """One of these, each as often beside the others as its number says."""
        work = self.dice.choices(list(weights), list(weights.values()))[0]
        self.counts["steps"] += 1
        self.tell(work.__name__)
        work(self)
        self.ledger.wait_for_writes(5)

    def tell(self, words: str) -> None:
        self.story.append(words)
        print(f"{now():%H:%M:%S} {words}", flush=True)

    def stack(self, *arguments: str) -> "tuple[int | None, list[tuple[datetime, str]]]":
        """Run `./stack`, and end it at some moment, now and then; its exit code, None when killed, and its lines."""
        number = self.dice.choices([0, signal.SIGINT, signal.SIGTERM, signal.SIGKILL], [6, 1, 1, 2])[0]
        number = 0 if self.calm else number
        # Of the lines that say that a step is done, and seconds after it.
        moment, delay = self.dice.randrange(9), self.dice.random() * self.dice.choice((1, 1, 6))
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

        def end() -> None:
            if process.poll() is None:
                self.tell(f"    {signal.Signals(number).name} after {lines[-1][1].strip() if lines else 'nothing'}")
                self.counts[signal.Signals(number).name] += 1
                process.send_signal(number)

        # Not in between the lines, whose times count.
        ending = threading.Timer(delay, end)
        assert process.stderr
        if number and not moment:
            ending.start()
        for line in process.stderr:
            lines.append((now(), line.rstrip()))
            moment -= line.startswith("==>")
            if number and line.startswith("==>") and not moment:
                ending.start()
        process.stderr.close()
        code = process.wait()
        ending.cancel()
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
        wait_until(lambda: self.repository.stack("backup").returncode == 0, 300)

    def backup_service(self, program: str, check: bool = True) -> str:
        """What a Python program in the backup service's container prints."""
        head = "from backup import catalog, server; server.configure(14)\n"
        return self.repository.compose("exec", "-T", "backup", "python", "-c", head + program, check=check)

    @property
    def has_bucket(self) -> bool:
        return "BACKUP_S3_BUCKET=" in self.repository.env_file.read_text()

    def settings(self, without: tuple[str, ...], more: str = "") -> None:
        """Take these settings out of .env, and put `more` lines in."""
        lines = self.repository.env_file.read_text().splitlines(keepends=True)
        self.repository.env_file.write_text("".join(one for one in lines if not one.startswith(without)) + more)

    def make_backup_volume(self) -> None:
        """An empty one, on the small disk."""
        options = ("type=none", "o=bind", f"device={self.disk}")
        labels = (f"com.docker.compose.project={self.repository.project}", "com.docker.compose.volume=backup")
        flags = [word for option in options for word in ("--opt", option)]
        flags += [word for label in labels for word in ("--label", label)]
        run("docker", "volume", "create", "--driver", "local", *flags, f"{self.repository.project}_backup")

    def report(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{counted}; {self.ledger.acknowledged} acknowledged writes, {self.ledger.refused} refused"
