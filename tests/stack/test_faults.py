"""What may go wrong under load while nobody deploys: processes that die, stand still or grow, connections that last."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import connect

from tests.stack.load import Load, Sample, untrusting
from tests.stack.stacks import Repository, children, command, inspect, run, wait_until

# A request that was sent within this many seconds around a kill may have been on its way to what was killed.
SLACK = 0.5


@pytest.fixture(scope="module")
def patient(repository: Repository) -> Repository:
    """The stack with a watchdog that bites after 4 s, and slots that are small enough to be filled quickly."""
    with (repository.folder / ".env").open("a") as env:
        env.write("WATCHDOG_SECONDS=4\nAPP_MEMORY=384m\n")
    done = repository.stack("deploy", WORKER_MEMORY="120")
    assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture
def load(patient: Repository) -> Iterator[Load]:
    with Load(patient.address) as load:
        wait_until(lambda: len(load.samples) > 60)
        yield load
    print(load.report())
    assert load.lost_or_doubled() == []


def caught(load: Load, begun: float, ended: float | None = None) -> list[Sample]:
    """The requests that were in flight at that moment, or between those two, give or take SLACK."""
    return [one for one in load.samples if one.sent - SLACK <= (ended or begun) and begun < one.ended + SLACK]


def others(load: Load, begun: float, ended: float) -> list[Sample]:
    """Of those that failed the ones that a worker can't have had which stood still from the one moment to the other."""
    return [one for one in load.failed if one.sent > ended + SLACK or one.ended < begun - SLACK]


def go_on(load: Load, count: int = 60) -> None:
    wanted = len(load.samples) + count
    wait_until(lambda: len(load.samples) >= wanted)


def workers_of(pid: int) -> list[int]:
    """The workers of the slot whose PID 1 this is."""
    return [child for child in children(pid) if b"/bin/serve" in command(child)]


def restarts(stack: Repository) -> dict[str, int]:
    return {name: one["RestartCount"] for name, one in stack.containers().items()}


def test_planned_stops(patient: Repository, load: Load) -> None:
    """`docker compose restart` of a slot, `docker stop` of the other and its start: nothing fails."""
    patient.compose("restart", "app-1")
    wait_until(patient.both_slots_answer)
    container = patient.container("app-2")
    run("docker", "stop", container)
    go_on(load)
    run("docker", "start", container)
    wait_until(patient.both_slots_answer)
    go_on(load)
    load.stop()
    assert load.failed == []


def test_killed_worker(patient: Repository, load: Load) -> None:
    """kill -9 of a worker: at most the requests in flight on it fail, and another takes its place within 2 s."""
    workers, parent = patient.workers("app-1"), inspect(patient.container("app-1"))["State"]["Pid"]
    killed = time.monotonic()
    os.kill(workers[0], signal.SIGKILL)
    # Without asking the engine, which takes as long on a busy machine. Twice the promise.
    wait_until(lambda: len(set(workers_of(parent)) - {workers[0]}) == len(workers), seconds=4)
    print(f"another worker after {time.monotonic() - killed:.1f} s")
    go_on(load)
    load.stop()
    print(f"killed worker: {len(load.failed)} failed, {len(caught(load, killed))} in flight on all workers")
    assert [one for one in load.failed if one not in caught(load, killed)] == []


def test_killed_slot(patient: Repository, load: Load) -> None:
    """kill -9 of a whole slot: at most the requests in flight on it fail, and it is back and routed within 10 s."""
    pid = inspect(patient.container("app-1"))["State"]["Pid"]
    old = [Path(f"/proc/{worker}") for worker in patient.workers("app-1")]
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    # Its workers take requests until the kernel has ended them, too: on a busy machine that takes a second.
    wait_until(lambda: not any(worker.exists() for worker in old))
    killed = time.monotonic()
    assert killed - begun < 5
    # Twice the promise: on a busy machine it is the engine that takes long to tell.
    wait_until(patient.both_slots_answer, seconds=20)
    back = time.monotonic() - killed
    go_on(load)
    load.stop()
    in_flight = caught(load, begun, killed)
    print(f"killed slot: {len(load.failed)} failed, {len(in_flight)} in flight, back after {back:.1f} s")
    assert [one for one in load.failed if one not in in_flight] == []


def test_blocked_event_loop(patient: Repository, load: Load) -> None:
    """A worker that stands still is replaced, its log says where it stood, and the others serve meanwhile."""
    before = {slot: set(patient.workers(slot)) for slot in ("app-1", "app-2")}
    begun = time.monotonic()
    with patient.client() as client, pytest.raises(httpx2.HTTPError):
        client.get("/block", timeout=2).raise_for_status()

    def replaced() -> bool:
        now = {slot: set(patient.workers(slot)) for slot in before}
        return any(now[slot] != before[slot] and len(now[slot]) == len(before[slot]) for slot in before)

    wait_until(replaced)
    ended = time.monotonic()
    print(f"blocked loop: another worker after {ended - begun:.1f} s, of which WATCHDOG_SECONDS are 4")
    go_on(load)
    load.stop()
    logs = patient.compose("logs", "--no-log-prefix", "app-1", "app-2")
    assert "Timeout (0:00:04)!" in logs
    assert '/code/app/extra.py", line' in logs
    print(f"blocked loop: {len(load.failed)} failed")
    # What waited for the worker that stood still is lost with it, and nothing else.
    assert others(load, begun, ended) == []


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)], ids=["workers", "PID 1 as well"])
def test_slot_that_hangs(patient: Repository, load: Load, whole: bool) -> None:
    """SIGSTOP of a slot's workers, or of PID 1 as well: after 4 s it gets no new request, and the others don't fail.

    PID 1 tells by their heartbeats that no loop turns; that it stands still itself, Traefik's probe finds out.
    """
    pid = inspect(patient.container("app-1"))["State"]["Pid"]
    stopped = [*([pid] if whole else []), *workers_of(pid)]

    def is_known() -> bool:
        """Whether Traefik has taken it out: of twenty requests in a row half would be its."""
        try:
            with patient.client() as client:
                return all(client.get("/", timeout=2).status_code == 200 for _ in range(20))
        except httpx2.TransportError:
            return False

    begun = time.monotonic()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not is_known())
        # Three seconds until it counts as stuck, one to the next probe, the rest for a busy machine.
        wait_until(is_known, seconds=20)
        known = time.monotonic()
        go_on(load)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    wait_until(patient.both_slots_answer)
    go_on(load)
    load.stop()
    print(f"hung slot: {len(load.failed)} failed, none that came after {known - begun:.1f} s")
    # The watchdog ends the workers, with what they have.
    assert others(load, begun, known) == []


def test_worker_out_of_memory(patient: Repository, load: Load) -> None:
    """A worker that grows past the slot's limit is replaced; what waited for it is lost, and nothing else."""
    before, workers = restarts(patient), set(patient.workers("app-1")) | set(patient.workers("app-2"))
    begun = time.monotonic()
    with patient.client() as client, pytest.raises(httpx2.HTTPError):
        client.get("/hog", timeout=30).raise_for_status()
    ended = time.monotonic()
    wait_until(lambda: set(patient.workers("app-1")) | set(patient.workers("app-2")) != workers)
    wait_until(patient.both_slots_answer)
    go_on(load)
    load.stop()
    assert restarts(patient) == before
    logs = patient.compose("logs", "--no-log-prefix", "app-1", "app-2")
    assert "s: out of memory: APP_MEMORY=384m for 2 workers. Another starts." in logs
    print(f"out of memory: {len(load.failed)} failed")
    assert others(load, begun, ended) == []


def test_stop_while_it_starts(patient: Repository) -> None:
    """A slot that is stopped before it serves ends by itself: Docker does not have to wait, and to kill it."""
    container = patient.container("app-1")
    patient.compose("stop", "app-1")
    run("docker", "start", container)
    wait_until(lambda: takes_sigterm(inspect(container)["State"]["Pid"]))
    run("docker", "stop", container)
    state = inspect(container)["State"]
    patient.compose("start", "app-1")
    wait_until(patient.both_slots_answer)
    assert state["ExitCode"] == 0, state


def takes_sigterm(pid: int) -> bool:
    """Whether it handles the signal, or keeps it waiting: the interpreter needs a moment for that."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(lines["SigBlk"], 16) | int(lines["SigCgt"], 16)) >> (signal.SIGTERM - 1) & 1)


def test_long_answers_and_websockets_through_a_stop(patient: Repository) -> None:
    """What ends within drain and grace is whole; a WebSocket is closed with 1012: the client may connect again."""
    lines: list[str] = []

    def read() -> None:
        with patient.client() as client, client.stream("GET", "/stream", params={"seconds": 8}) as answer:
            lines.extend(answer.iter_lines())

    address = patient.address.replace("https", "wss") + "/echo"
    context = untrusting()
    with connect(address, ssl=context) as one, connect(address, ssl=context) as two:
        streams = [threading.Thread(target=read) for _ in range(2)]
        for stream in streams:
            stream.start()
        for socket in (one, two):
            socket.send("still there?")
            assert socket.recv() == "still there?"
        # One of each is on either slot.
        patient.compose("restart", "app-1")
        patient.compose("restart", "app-2")
        for stream in streams:
            stream.join()
        for socket in (one, two):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv()
            assert closed.value.rcvd
            assert closed.value.rcvd.code == CloseCode.SERVICE_RESTART
    assert lines.count("whole") == 2
