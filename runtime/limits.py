"""How much a slot may use, as the kernel says (cgroup v2 and v1), and what fits into that.

Standard library and Python 3.9 only: `./stack plan` computes with it too, on the machine's own Python.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# Which of them are this process's.
OWN = Path("/proc/self/cgroup")
# v1 has no word for "no limit", only the largest page-aligned number.
V1_UNLIMITED = 1 << 60
MIB = 2**20
SLOTS = 2
# Connections that a worker is taken to open where nothing else is known: SQLAlchemy's default, 5 and 10 more.
POOL_SIZE = 15
# Connections that are not the app's: postgresql.conf keeps 17 for migrations, backups and monitoring, Postgres itself 3
# for the superuser.
RESERVED_CONNECTIONS = 20
# The settings' defaults.
WORKER_MEMORY = 150
MAX_CONNECTIONS = 100
BODY_LIMIT = 10_000_000
# Where uploads are kept, unless the app's TMPDIR says otherwise.
TMP = "/tmp"  # noqa: S108 - a tmpfs of the container
# MiB of it, which is memory of the slot's. What is over the default is counted.
TMP_SIZE = 64
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
# MiB of PID 1, whose pages the workers share, and of the probe.
RESERVE = 80


class Wrong(ValueError):
    """One sentence about a setting."""


def memory_limit(root: Path = CGROUP, own: Path = OWN) -> int | None:
    """Bytes, or None when there is no limit."""
    found = _said(root, own, "memory.max", "memory/memory.limit_in_bytes")
    limits = [int(text) for text in found if text != "max" and int(text) < V1_UNLIMITED]
    return min(limits, default=None)


def oom_kills(root: Path = CGROUP, own: Path = OWN) -> int:
    """How many processes the kernel has ended in this container or unit for want of memory (cgroup v2, v1)."""
    for text in _said(root, own, "memory.events", "memory/memory.oom_control")[:1]:
        counts = dict(line.split(" ", 1) for line in text.splitlines())
        return int(counts.get("oom_kill", 0))
    return 0


def cpu_limit(root: Path = CGROUP, own: Path = OWN) -> float | None:
    """CPUs, a fraction as a fraction, or None when there is no limit."""
    quotas = [tuple(text.split()) for text in _said(root, own, "cpu.max", "")]
    of_v1 = (_said(root, own, "", f"cpu/cpu.cfs_{what}_us") for what in ("quota", "period"))
    quotas += zip(*of_v1)
    return min((int(quota) / int(period) for quota, period in quotas if quota not in ("max", "-1")), default=None)


def mib(text: str) -> int:
    """Of a size as Docker takes it: 64m is 64. Raises Wrong."""
    found = re.fullmatch(r"([1-9]\d{0,9})([kmg]?)", text.lower())
    if not found:
        raise Wrong("a size like 64m")
    return int(found[1]) * UNITS[found[2]] // MIB


def check_uploads(body_limit: int, there: int, folder: str = TMP) -> None:
    """Whether the largest upload fits into as many bytes of the folder where Starlette keeps it. Raises Wrong.

    Half of them at most: two of them may come at one time, and the app may write there, too.
    """
    if (needed := 2 * body_limit) > there:
        size, more = -(-needed // MIB), -(-(needed - there) // MIB)
        enough = f"Set TMP_SIZE={size}m, and APP_MEMORY {more} MiB higher, for it is memory."
        if folder != TMP:
            enough = f"It must have {size} MiB, or TMPDIR name another."
        raise Wrong(
            f"BODY_LIMIT={body_limit} is wrong: {folder}, where uploads are kept, has {there // MIB} MiB. {enough}"
        )


def worker_count(worker_memory: int, cpus: float | None, memory: int | None, around: int = RESERVE) -> int:
    """Uvicorn workers for one slot, from MiB a worker, the CPU limit and the memory limit in bytes.

    One worker a CPU, the machine's CPUs shared between the slots when the slot has no limit of its own, at least two,
    so that one can die or hang alone; but never more than the memory holds, of which each may need WORKER_MEMORY of its
    own, and at least one.
    """
    count = max(2, math.ceil(cpus if cpus is not None else (os.cpu_count() or 1) / SLOTS))
    if memory is not None:
        count = min(count, (memory // MIB - around) // worker_memory)
    return max(1, count)


@dataclass(frozen=True)
class Sizes:
    """What one slot starts with: workers, and the connections that there are for each."""

    workers: int
    pool_size: int
    # How many there are at one time.
    containers: int = SLOTS

    @property
    def connections(self) -> int:
        """What the workers of all of them take from Postgres at most."""
        return self.containers * self.workers * self.pool_size


def sizes(
    workers: int | None,
    worker_memory: int,
    pool_size: int | None,
    max_connections: int,
    cpus: float | None,
    memory: int | None,
    replicas: int = SLOTS,
    surge: int = 0,
    tmp_size: int = TMP_SIZE,
) -> Sizes:
    """Complete what is None, and raise Wrong, with the arithmetic and what to set, where it does not fit.

    `replicas` are the containers that serve, `surge` those that a rollout starts before it stops one.
    """
    around = RESERVE + max(0, tmp_size - TMP_SIZE)
    count = workers or worker_count(worker_memory, cpus, memory, around)
    needed = count * worker_memory + around
    if memory is not None and needed > memory // MIB:
        limit = memory // MIB
        fitting, of_tmp = (limit - around) // worker_memory, f" (TMP_SIZE={tmp_size}m)" * (around > RESERVE)
        raise Wrong(
            f"The workers don't fit into their slot: {count} x WORKER_MEMORY={worker_memory} MiB and {around} MiB "
            f"around them{of_tmp} are {needed} MiB, and APP_MEMORY is {limit} MiB. "
            f"Set {f'WORKERS={fitting} or ' if fitting > 0 else ''}APP_MEMORY={needed}m."
        )
    containers = replicas + surge
    all_workers, share = containers * count, max_connections - RESERVED_CONNECTIONS
    most = share // all_workers
    size = pool_size or min(POOL_SIZE, max(1, most))
    if size > most:
        enough = all_workers * size + RESERVED_CONNECTIONS
        raise Wrong(
            f"The pools don't fit into Postgres: {containers} {named(replicas, surge)} x {count} workers x "
            f"POOL_SIZE={size} are {all_workers * size} connections, and of MAX_CONNECTIONS={max_connections} the app "
            f"may have {share}. "
            f"Set {f'POOL_SIZE={most} or ' if most else ''}MAX_CONNECTIONS={enough}."
        )
    return Sizes(count, size, containers)


def named(replicas: int, surge: int) -> str:
    """What a message calls the containers: slots, or replicas, where another engine has other numbers of them."""
    return "slots" if (replicas, surge) == (SLOTS, 0) else f"replicas ({surge} of them SURGE)"


def _said(root: Path, own: Path, v2: str, v1: str) -> list[str]:
    """What that file says of this process's cgroup, and of each above it: what limits one limits all below.

    A container sees its own as the root of all, and may be told a path that only the machine has.
    """
    # "0::/path" is v2, and "4:cpu,cpuacct:/path" v1.
    lines = [line.split(":", 2) for line in _read(own).splitlines()]
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    found = []
    for controller, _, file in (("", "", v2), v1.partition("/")):
        path = Path(paths.get(controller, "/"))
        found += [_read(root / controller / one.relative_to("/") / file) for one in (path, *path.parents) if file]
    return [text for text in found if text]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
