"""Backups of a database of some size: `.venv/bin/python -m benchmarks.backups [GB]`, 5 unless told.

pgbench's tables; then notes written at 10,000 a minute alone, and beside a full backup and a verification; an increment
after some of pgbench's changes, a verification, a restore, and a plain copy of the same volume to compare it with. Each
once, by the commands that an operator types, with what they take from their start to their end.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.stack.stacks import Clone, run, wait_until
from tests.stack.tools import tool

# pgbench's rows of a scale of 1 and their indexes, in GB.
GB_A_SCALE = 0.015
CLIENTS = 8
WRITES_A_SECOND = 10_000 / 60
SECONDS = 20
RUNS = 3
# What writes are measured beside, how often in that time, and the command.
BESIDE = [
    ("full, at BACKUP_RATE", RUNS, ("backup", "--full")),
    ("full, --fast", 1, ("backup", "--full", "--fast")),
    ("verify, beside writes", 2, ("verify",)),
]


class Sized(Clone):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "backups", POSTGRES_MEMORY="2g")
        run("chmod", "-R", "a+rX", str(folder))
        self.out = folder / "out"
        self.out.mkdir()
        (self.out / "body").write_text('{"text": "a note of a usual length, some forty characters"}')

    def ok(self, *arguments: str) -> str:
        done = self.stack(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inside(self, *argv: str) -> str:
        """Run one of Postgres's programs in its container, without the tests' time limit."""
        return run(*("docker", "exec", "--user", "postgres", self.container("postgres"), *argv), timeout=3600).strip()

    def sql(self, statement: str) -> str:
        return self.inside("psql", "-XAtqc", statement, "app")

    def write(self) -> list[float]:
        """Milliseconds of each POST /notes of SECONDS, sent at WRITES_A_SECOND."""
        log = self.out / "log"
        log.unlink(missing_ok=True)
        flags = ["-c", str(CLIENTS), "-D", str(SECONDS), f"--rps={WRITES_A_SECOND / CLIENTS:.2f}"]
        flags += ["--log-file=/out/log", "-d", "/out/body", "-H", "content-type: application/json"]
        done = tool("h2load", *flags, f"{self.address}/notes", options=("-v", f"{self.out}:/out"))
        assert not done.returncode, done.stderr
        lines = [line.split() for line in log.read_text().splitlines()]
        assert sum(line[1] == "201" for line in lines) >= len(lines) - CLIENTS, done.stdout
        return [int(line[2]) / 1000 for line in lines if line[1] == "201"]

    def at_work(self, what: str) -> bool:
        """Whether the backup has begun to copy, or the verification to look at what it will restore."""
        if what.startswith("verify"):
            return "barman" in run("docker", "top", self.container("backup"), "-o", "pid,args")
        return self.sql("SELECT count(*) FROM pg_stat_progress_basebackup") == "1"


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def measure(sized: Sized, gigabytes: float) -> None:
    sized.ok("up")
    wait_until(lambda: len(sized.ok("backups").splitlines()) > 1)
    sized.inside("pgbench", "-i", "-q", "-s", str(round(gigabytes / GB_A_SCALE)), "app")
    size = int(sized.sql("SELECT pg_database_size('app')")) / 1e9
    rows: list[tuple[str, float]] = []

    writes: list[tuple[str, list[float]]] = []

    def write(beside: str, runs: int = RUNS) -> None:
        writes.append((beside, [p99(sized.write()) for _ in range(runs)]))

    sized.write()
    write("nothing")

    def write_beside(what: str, runs: int, *arguments: str) -> None:
        beside = threading.Thread(target=lambda: rows.append((what, timed(lambda: sized.ok(*arguments)))))
        beside.start()
        wait_until(lambda: sized.at_work(what))
        write(what, runs)
        whole = "" if beside.is_alive() else ", which ended before them"
        beside.join()
        writes.append((f"{what}{whole}", writes.pop()[1]))

    for what, runs, arguments in BESIDE:
        write_beside(what, runs, *arguments)
        write("nothing")
    sized.inside("pgbench", "-n", "-c", "2", "-T", "20", "app")
    rows.append(("increment", timed(lambda: sized.ok("backup"))))
    rows.append(("verify", timed(lambda: sized.ok("verify"))))
    old = f"{sized.project}_postgres-data"
    rows.append(("restore", timed(lambda: sized.ok("restore", "--to", "latest", "--yes"))))

    def copy() -> None:
        mounts = ("-v", f"{old}:/from:ro", "-v", f"{sized.project}_copy:/to")
        script = "cp -a /from/. /to && sync"
        run(
            *("docker", "run", "--rm", "--user", "root", "--entrypoint", "sh", *mounts),
            *(f"{sized.project}-postgres", "-c", script),
            timeout=3600,
        )

    rows.append(("plain copy", timed(copy)))
    print(f"\nA database of {size:.2f} GB. p99 in ms of {SECONDS} s of 10,000 writes a minute, beside")
    for what, times in writes:
        print(f"{what}: {statistics.median(times):.1f} ({', '.join(f'{one:.1f}' for one in times)})")
    print()
    print("| what | seconds | MB/s |\n|---|---|---|")
    for what, seconds in rows:
        print(f"| {what} | {seconds:.1f} | {size * 1000 / seconds:.0f} |")
    print(sized.ok("backups"))


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        sized = Sized(Path(folder))
        sized.remove()
        try:
            measure(sized, gigabytes)
        finally:
            sized.remove()
            for volume in run("docker", "volume", "ls", "-q", "--filter", f"name={sized.project}_").split():
                run("docker", "volume", "rm", "--force", volume)


if __name__ == "__main__":
    main()
