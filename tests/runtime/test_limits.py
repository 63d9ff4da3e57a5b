import re
from pathlib import Path

import pytest

from runtime.limits import RESERVE, RESERVED_CONNECTIONS, Sizes, cpu_limit, memory_limit, oom_kills, sizes, worker_count
from tests.cgroups import cgroup
from tests.conftest import REPO

MIB = 2**20


def test_v2_limits(tmp_path: Path) -> None:
    """cgroup v2 says both in one file each."""
    root = cgroup(tmp_path, memory_DOT_max="536870912", cpu_DOT_max="150000 100000")
    assert memory_limit(root) == 512 * MIB
    assert cpu_limit(root) == 1.5


def test_v2_without_limits(tmp_path: Path) -> None:
    """`max` is no limit."""
    root = cgroup(tmp_path, memory_DOT_max="max", cpu_DOT_max="max 100000")
    assert memory_limit(root) is None
    assert cpu_limit(root) is None


def test_v1_limits(tmp_path: Path) -> None:
    """cgroup v1 has a folder for each kind."""
    root = cgroup(
        tmp_path,
        memory__memory_DOT_limit_in_bytes="268435456",
        cpu__cpu_DOT_cfs_quota_us="50000",
        cpu__cpu_DOT_cfs_period_us="100000",
    )
    assert memory_limit(root) == 256 * MIB
    assert cpu_limit(root) == 0.5


def test_v1_without_limits(tmp_path: Path) -> None:
    """v1 writes no limit as -1 and as the largest number of pages."""
    root = cgroup(
        tmp_path,
        memory__memory_DOT_limit_in_bytes="9223372036854771712",
        cpu__cpu_DOT_cfs_quota_us="-1",
        cpu__cpu_DOT_cfs_period_us="100000",
    )
    assert memory_limit(root) is None
    assert cpu_limit(root) is None


def test_what_was_killed_for_memory(tmp_path: Path) -> None:
    """v2 and v1 count it in a line of a file; without such a line nothing was."""
    v2 = cgroup(tmp_path / "2", memory_DOT_events="low 0\noom 3\noom_kill 2\noom_group_kill 0")
    v1 = cgroup(tmp_path / "1", memory__memory_DOT_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4")
    assert (oom_kills(v2), oom_kills(v1), oom_kills(tmp_path)) == (2, 4, 0)


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    """Where nothing is mounted there is no limit."""
    assert memory_limit(tmp_path) is None
    assert cpu_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "workers"),
    [
        (1, None, 2),
        (2.5, None, 3),
        (8, None, 8),
        (8, RESERVE + 4 * 150, 4),
        (8, RESERVE + 4 * 150 - 1, 3),
        (8, RESERVE + 150, 1),
        (8, 64, 1),
    ],
)
def test_worker_count(cpus: float, memory_mib: int | None, workers: int) -> None:
    """A worker a CPU, at least two, but no more than the memory holds, and never none."""
    assert worker_count(150, cpus, None if memory_mib is None else memory_mib * MIB) == workers


@pytest.mark.parametrize(("machine", "workers"), [(1, 2), (2, 2), (5, 3), (16, 8)])
def test_slots_share_the_machine(monkeypatch: pytest.MonkeyPatch, machine: int, workers: int) -> None:
    """Without a CPU limit each slot counts half of the machine's CPUs, rounded up."""
    monkeypatch.setattr("os.cpu_count", lambda: machine)
    assert worker_count(150, None, None) == workers


@pytest.mark.parametrize(
    ("workers", "pool_size", "max_connections", "expected"),
    [
        (None, None, 100, Sizes(2, 15)),
        (3, None, 100, Sizes(3, 13)),
        (5, None, 100, Sizes(5, 8)),
        (40, None, 100, Sizes(40, 1)),
        (None, 20, 100, Sizes(2, 20)),
        (None, None, 24, Sizes(2, 1)),
        (None, None, 10_000, Sizes(2, 15)),
    ],
)
def test_pools_fit_into_postgres(
    workers: int | None, pool_size: int | None, max_connections: int, expected: Sizes
) -> None:
    """What is not set is SQLAlchemy's default, or what fits where that is less; it stays within the app's share."""
    found = sizes(workers, 150, pool_size, max_connections, cpus=2, memory=None)
    assert found == expected
    assert found.connections <= max_connections - RESERVED_CONNECTIONS


@pytest.mark.parametrize(
    ("workers", "worker_memory", "memory_mib", "sentence"),
    [
        (
            4,
            1000,
            3072,
            "4 x WORKER_MEMORY=1000 MiB and 80 MiB around them are 4080 MiB, and APP_MEMORY is 3072 MiB. "
            "Set WORKERS=2 or APP_MEMORY=4080m.",
        ),
        (
            None,
            1000,
            512,
            "1 x WORKER_MEMORY=1000 MiB and 80 MiB around them are 1080 MiB, and APP_MEMORY is 512 MiB. "
            "Set APP_MEMORY=1080m.",
        ),
    ],
)
def test_workers_that_do_not_fit(workers: int | None, worker_memory: int, memory_mib: int, sentence: str) -> None:
    """Four workers with a model of 1 GB each don't fit into 3 GB: refused, with the arithmetic and what to set."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sizes(workers, worker_memory, None, 100, cpus=4, memory=memory_mib * MIB)
    if workers:
        assert sizes(2, worker_memory, None, 100, cpus=4, memory=memory_mib * MIB).workers == 2


@pytest.mark.parametrize(
    ("workers", "pool_size", "max_connections", "sentence"),
    [
        (
            2,
            21,
            100,
            "2 slots x 2 workers x POOL_SIZE=21 are 84 connections, and of MAX_CONNECTIONS=100 the "
            "app may have 80. Set POOL_SIZE=20 or MAX_CONNECTIONS=104.",
        ),
        (
            41,
            None,
            100,
            "x POOL_SIZE=1 are 82 connections, and of MAX_CONNECTIONS=100 the app may have 80. "
            "Set MAX_CONNECTIONS=102.",
        ),
    ],
)
def test_pools_that_do_not_fit(workers: int, pool_size: int | None, max_connections: int, sentence: str) -> None:
    """More connections than Postgres has for the app: refused, with the arithmetic and what to set."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sizes(workers, 150, pool_size, max_connections, cpus=2, memory=None)
    needed = int(sentence.rpartition("=")[2].rstrip("."))
    sizes(workers, 150, pool_size, needed, cpus=2, memory=None)


def test_replicas_and_surge_share_postgres() -> None:
    """Twelve replicas and three of a rollout leave each worker less, and what doesn't fit is said in their number."""
    assert sizes(2, 150, None, 200, cpus=2, memory=None, replicas=12, surge=3) == Sizes(2, 6, 15)
    sentence = "15 replicas (3 of them SURGE) x 2 workers x POOL_SIZE=15 are 450 connections"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sizes(2, 150, 15, 200, cpus=2, memory=None, replicas=12, surge=3)
    assert sizes(2, 150, 15, 470, cpus=2, memory=None, replicas=12, surge=3).connections == 450


def test_reserve_is_what_postgres_keeps() -> None:
    """The arithmetic here and the server's: reserved_connections, and 3 for the superuser by default."""
    found = re.search(r"^reserved_connections = (\d+)$", (REPO / "postgres/postgresql.conf").read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) + 3 == RESERVED_CONNECTIONS


UNIT = "system.slice/app@1.service"


def own(folder: Path, text: str) -> Path:
    """What the kernel says of which cgroups a process is in."""
    folder.mkdir(exist_ok=True)
    (folder / "own").write_text(text)
    return folder / "own"


def test_limits_of_a_unit_v2(tmp_path: Path) -> None:
    """Those of its own cgroup and of the slices above it, the tightest of each; what was killed is its own count."""
    root = cgroup(tmp_path, memory_DOT_max="max", cpu_DOT_max="max 100000")
    cgroup(
        root / "system.slice", memory_DOT_max="1073741824", cpu_DOT_max="150000 100000", memory_DOT_events="oom_kill 9"
    )
    cgroup(root / UNIT, memory_DOT_max="536870912", cpu_DOT_max="max 100000", memory_DOT_events="oom 1\noom_kill 2")
    mine = own(tmp_path, f"0::/{UNIT}\n")
    assert (memory_limit(root, mine), cpu_limit(root, mine), oom_kills(root, mine)) == (512 * MIB, 1.5, 2)
    slice_alone = own(tmp_path, "0::/system.slice\n")
    assert memory_limit(root, slice_alone) == 1024 * MIB


def test_limits_of_a_unit_v1(tmp_path: Path) -> None:
    """Each kind by its own hierarchy, of which two may be one."""
    cgroup(tmp_path / "memory" / UNIT, memory_DOT_limit_in_bytes="268435456")
    cgroup(tmp_path / "cpu" / UNIT, cpu_DOT_cfs_quota_us="50000", cpu_DOT_cfs_period_us="100000")
    mine = own(tmp_path, f"3:cpu,cpuacct:/{UNIT}\n4:memory:/{UNIT}\n0::/{UNIT}\n")
    assert (memory_limit(tmp_path, mine), cpu_limit(tmp_path, mine)) == (256 * MIB, 0.5)


def test_path_that_only_the_machine_has(tmp_path: Path) -> None:
    """In a container without a cgroup namespace: what is mounted there is its own."""
    root = cgroup(tmp_path, memory_DOT_max="536870912", cpu_DOT_max="150000 100000", memory_DOT_events="oom_kill 2")
    mine = own(tmp_path, "0::/system.slice/docker-1f.scope\n")
    assert (memory_limit(root, mine), cpu_limit(root, mine), oom_kills(root, mine)) == (512 * MIB, 1.5, 2)
