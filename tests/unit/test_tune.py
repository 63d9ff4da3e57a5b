"""postgres/tune on made-up cgroup files."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cgroups import cgroup
from tests.conftest import REPO

V2 = {"memory_DOT_max": "805306368", "cpu_DOT_max": "150000 100000"}
V1 = {
    "memory__memory_DOT_limit_in_bytes": "805306368",
    "cpu__cpu_DOT_cfs_quota_us": "150000",
    "cpu__cpu_DOT_cfs_period_us": "100000",
}


def tuned(folder: Path, files: dict[str, str], **settings: str) -> dict[str, str]:
    """The settings that Postgres would start with."""
    written = folder / "tuned.conf"
    environment = {"PATH": os.environ["PATH"], "CGROUP": str(cgroup(folder, **files)), "TUNED_CONF": str(written)}
    done = subprocess.run(
        ["sh", str(REPO / "postgres/tune"), "echo", "became the command"],
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert (done.stdout, done.stderr) == ("became the command\n", "")
    lines = [line.split(" = ") for line in written.read_text().splitlines() if not line.startswith("#")]
    return {name: value for name, value in lines}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STATEMENT_TIMEOUT", "2m"),
        ("LOCK_TIMEOUT", "-1"),
        ("IDLE_TRANSACTION_TIMEOUT", "1000000"),
        ("MAX_CONNECTIONS", "1e3"),
        ("MAX_CONNECTIONS", "0"),
    ],
)
def test_wrong_setting_is_a_sentence(tmp_path: Path, name: str, value: str) -> None:
    """Under plain Compose it is the log's last line, and Postgres does not start."""
    environment = {"PATH": os.environ["PATH"], "TUNED_CONF": str(tmp_path / "tuned.conf"), name: value}
    argv = ["sh", str(REPO / "postgres/tune"), "echo", "became the command"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{name}={value} is wrong: a whole number\n")


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_limits_are_the_containers(tmp_path: Path, files: dict[str, str]) -> None:
    """768 MiB and one and a half CPUs, by the rule in the file."""
    assert tuned(tmp_path, files) == {
        "max_connections": "100",
        "shared_buffers": "192MB",
        "effective_cache_size": "576MB",
        "work_mem": "1966kB",
        "maintenance_work_mem": "48MB",
        "min_wal_size": "256MB",
        "max_wal_size": "1024MB",
        "max_worker_processes": "8",
        "max_parallel_workers": "2",
        "max_parallel_workers_per_gather": "1",
        "max_parallel_maintenance_workers": "1",
    }


def test_one_statement_can_not_take_all(tmp_path: Path) -> None:
    """Of 768 MiB each process of Postgres's may have 384 of its own."""
    environment = {"PATH": os.environ["PATH"], "TUNED_CONF": str(tmp_path / "tuned.conf")}
    environment["CGROUP"] = str(cgroup(tmp_path, **V2))
    argv = ["sh", str(REPO / "postgres/tune"), "sh", "-c", "ulimit -d"]
    assert subprocess.check_output(argv, env=environment, text=True, timeout=10) == f"{384 * 1024}\n"


@pytest.mark.parametrize(
    "files",
    [
        {"memory_DOT_max": "max", "cpu_DOT_max": "max 100000"},
        {"memory__memory_DOT_limit_in_bytes": "9223372036854771712", "cpu__cpu_DOT_cfs_quota_us": "-1"},
        {},
    ],
    ids=["v2", "v1", "none"],
)
def test_without_limits_it_is_half_the_memory_and_every_cpu(tmp_path: Path, files: dict[str, str]) -> None:
    """Half, because Postgres is not alone on the machine."""
    found = tuned(tmp_path, files)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert abs(int(found["shared_buffers"].removesuffix("MB")) - machine // 8) <= 1
    assert int(found["max_parallel_workers"]) == len(os.sched_getaffinity(0))


def test_much_memory_and_many_connections(tmp_path: Path) -> None:
    """Sorting shares what is left between the connections; WAL and maintenance have an upper bound."""
    machine = str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    few = tuned(tmp_path, {"memory_DOT_max": machine}, MAX_CONNECTIONS="50")
    many = tuned(tmp_path, {"memory_DOT_max": machine}, MAX_CONNECTIONS="500")
    assert many["max_connections"] == "500"
    sorting = [int(found["work_mem"].removesuffix("kB")) for found in (few, many)]
    assert sorting[1] >= 1024
    assert sorting[0] > sorting[1]
    assert int(few["max_wal_size"].removesuffix("MB")) <= 4096
    assert int(few["maintenance_work_mem"].removesuffix("MB")) <= 2048
