"""Postgres goes away in every way that it can, under load: nothing acknowledged is lost, and nobody restarts."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.clients import Answer, Clients
from tests.stack.load import Load
from tests.stack.stacks import Stack, inspect, run, wait_until

# Seconds around an answer of /health in which every read must have seen the other state for it to be untrue: twice what
# a connection may take.
AROUND = 4
# Seconds: twice the contract's 3 for an answer and 5 to recover; what it was is printed.
ANSWERED, RECOVERED = 6, 10


def healthy(stack: Stack) -> bool:
    return bool(inspect(stack.container("postgres"))["State"].get("Health", {}).get("Status") == "healthy")


def slots(stack: Stack) -> list[tuple[str, int, str]]:
    states = [inspect(stack.container(slot)) for slot in ("app-1", "app-2")]
    return [(state["Id"], state["RestartCount"], state["State"]["StartedAt"]) for state in states]


def stored(stack: Stack) -> Counter[str]:
    statement = "SELECT text FROM notes WHERE text LIKE 'write %'"
    argv = ("exec", "-T", "postgres", "psql", "-XqAt", "-U", "postgres", "app", "-c", statement)
    return Counter(stack.compose(*argv).splitlines())


def stopped_for_ten_seconds(stack: Stack) -> tuple[float, float]:
    stack.compose("stop", "postgres")
    away = time.monotonic()
    time.sleep(10)  # as long as it is to be away
    until = time.monotonic()
    stack.compose("start", "postgres")
    return away, until


def restarted(stack: Stack) -> tuple[float, float]:
    stack.compose("restart", "postgres")
    return 0, 0


def killed(stack: Stack) -> tuple[float, float]:
    """PID 1 and every backend, in the middle of whatever they write."""
    container = stack.container("postgres")
    restarts = inspect(container)["RestartCount"]
    # On the machine: `docker kill` would count as a stop that somebody wanted.
    os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: inspect(container)["RestartCount"] == restarts + 1)
    return 0, 0


def recreated(stack: Stack) -> tuple[float, float]:
    stack.compose("up", "--detach", "--force-recreate", "--no-deps", "postgres")
    return 0, 0


@pytest.mark.parametrize(
    "outage",
    [
        stopped_for_ten_seconds,
        killed,
        pytest.param(restarted, marks=pytest.mark.long),
        pytest.param(recreated, marks=pytest.mark.long),
    ],
    ids=lambda outage: outage.__name__,
)
def test_postgres_goes_and_comes_back(stack: Stack, outage: Callable[[Stack], tuple[float, float]]) -> None:
    """503 with Retry-After soon, every other route serves, no write lost or doubled, all well again by itself."""
    before = slots(stack)
    clients = Clients(stack)
    with Load(stack.address, slow=False) as load, clients.at_work():
        away, until = outage(stack)
        wait_until(lambda: healthy(stack))
        back = time.monotonic()
        wait_until(lambda: len(clients.of("write", since=back + RECOVERED)) > 10)
    check(stack, clients, back)
    # What comes on a schedule, over HTTP/1.1 and HTTP/2, connections new and kept, saw the same.
    assert load.lost_or_doubled() == []
    assert {sample.failure[:3] for sample in load.failed} == {"503"}
    assert slots(stack) == before
    told = Counter(answer.status for answer in clients.of("health", since=away, until=until))
    assert set(told) == ({503} if until else set())


def check(stack: Stack, clients: Clients, back: float) -> None:
    """What must hold of every outage, whatever its kind."""
    database, statuses = clients.of("write", "read", "health"), Counter(answer.status for answer in clients.answers)
    assert statuses[503], "the outage was not noticed: nothing is shown"
    assert set(statuses) == {200, 201, 503}
    assert {answer.status for answer in clients.of("plain")} == {200}
    assert {answer.retry_after for answer in clients.of("write", "read") if answer.status == 503} == {"1"}
    assert max(answer.seconds for answer in database) < ANSWERED
    assert clients.well_again() < back + RECOVERED
    assert untrue(clients) == []
    found = stored(stack)
    acknowledged = [answer.text for answer in clients.of("write") if answer.status == 201]
    assert [text for text in acknowledged if found[text] != 1] == []
    assert [text for text, count in found.items() if count > 1] == []
    times = {"longest": max(answer.seconds for answer in database), "well again": clients.well_again() - back}
    print(dict(statuses), {name: round(value, 2) for name, value in times.items()})


def untrue(clients: Clients) -> list[Answer]:
    """The answers of /health that no read agrees with, of all from AROUND before it until AROUND after it."""
    reads = clients.of("read")
    first, last = reads[0].begun, reads[-1].begun
    return [
        told
        for told in clients.of("health", since=first + AROUND, until=last - AROUND)
        if told.status not in {one.status for one in reads if abs(one.begun - told.begun) < AROUND}
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Stack, Path]]:
    """A stack whose Postgres has a disk of 400 MB, and where that is mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=400m,mode=777", "tmpfs", str(disk))
    try:
        (disk / "data").mkdir()
        stack = Stack("disk", tmp_path / "env")
        stack.remove()
        labels = {"com.docker.compose.project": stack.project, "com.docker.compose.volume": "postgres-data"}
        run(
            *("docker", "volume", "create", f"{stack.project}_postgres-data"),
            *(word for name, value in labels.items() for word in ("--label", f"{name}={value}")),
            *("--opt", "type=none", "--opt", "o=bind", "--opt", f"device={disk / 'data'}"),
        )
        try:
            stack.up()
            yield stack, disk
        finally:
            stack.remove()
    finally:
        run("umount", str(disk))


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_disk_full(small_disk: tuple[Stack, Path]) -> None:
    """Not one byte left: 503 for what can't be written, nothing lost; with room again Postgres writes by itself."""
    stack, disk = small_disk
    before = slots(stack)
    clients = Clients(stack)
    filler = disk / "filler"
    with clients.at_work():
        run("fallocate", "--length", str(shutil.disk_usage(disk).free - 2**20), str(filler))
        wait_until(lambda: len([answer for answer in clients.of("write") if answer.status == 503]) > 50)
        full = time.monotonic()
        wait_until(lambda: len(clients.of("write", since=full + 5)) > 10)
        filler.unlink()
        # What Docker says of Postgres's health is some seconds old.
        wait_until(lambda: healthy(stack) and clients.all_well())
        back = time.monotonic()
        wait_until(lambda: len(clients.of("write", since=back + RECOVERED)) > 10)
    check(stack, clients, back)
    assert slots(stack) == before
