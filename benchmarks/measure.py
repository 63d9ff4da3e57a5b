"""What the benchmarks measure with: processes, their CPU time and memory, and load by h2load.

The load, over HTTP/2 on CLIENTS connections, has CPU 1.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from tests.stack.engine import descendants
from tests.stack.stacks import inspect
from tests.stack.tools import tool

CLIENTS = 32
SECONDS = 6
WARM_UP = 2
HERTZ = os.sysconf("SC_CLK_TCK")


def processes(containers: Iterable[str]) -> list[int]:
    """The ids on this machine of all that runs in the containers."""
    parents = [inspect(one)["State"]["Pid"] for one in containers]
    return [one for parent in parents for one in (parent, *descendants(parent))]


def cpu_seconds(pids: Iterable[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / HERTZ


def pss(pid: int) -> float:
    """MiB of the process, by its share of what several use."""
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) / 1024


def load(out: Path, url: str, *more: str) -> list[int]:
    """Microseconds of each request that h2load sent in SECONDS, after WARM_UP. Every answer must be a 2xx.

    `out` is a folder for its log, /out for h2load; `more` are further options of it.
    """
    log = out / "log"
    log.unlink(missing_ok=True)
    flags = ["-c", str(CLIENTS), "-D", str(SECONDS), f"--warm-up-time={WARM_UP}", "--log-file=/out/log", *more]
    done = tool("h2load", *flags, url, options=("--cpuset-cpus", "1", "-v", f"{out}:/out"))
    assert not done.returncode, done.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    right = [line for line in lines if line[1].startswith("2")]
    # Those under way at the end have another status.
    others = [line for line in lines if not line[1].startswith("2")]
    assert len(others) <= CLIENTS < len(right), (done.stdout, others[:5])
    assert not others or {line[1] for line in others} <= {"0", "-1"}, others[:5]
    return [int(line[2]) for line in right]
