"""PID 1 of a slot, as far as it starts programs on demand."""

import contextlib
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import schema, settings
from runtime.demand import OnDemand
from tests.conftest import REPO
from tests.runtime.supervised import WORK, Parent, Start, launch

Demand = Callable[[socket.socket, str], OnDemand]
Asker = Callable[[str], OnDemand]
# What runtime/install.py makes of a function.
PROGRAM = """
import sys
sys.path[0] = "{repository}"
{code}
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has the settings that it makes, and no other's environment."""
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    settings.load.cache_clear()
    yield
    settings.load.cache_clear()


@pytest.fixture
def demand(tmp_path: Path) -> Iterator[Demand]:
    """Starts what is given as code when somebody connects to the listener, and again after it ended."""
    loops: list[tuple[OnDemand, threading.Event, threading.Thread]] = []

    def demand(listener: socket.socket, code: str) -> OnDemand:
        path = tmp_path / f"program-{len(loops)}"
        path.write_text(PROGRAM.format(repository=REPO, code=code))
        program, done = OnDemand(listener, str(path)), threading.Event()
        thread = threading.Thread(target=loop, args=(program, done))
        thread.start()
        loops.append((program, done, thread))
        return program

    yield demand
    for program, done, thread in loops:
        done.set()
        thread.join()
        if program.pid:
            os.kill(program.pid, signal.SIGKILL)
            os.waitpid(program.pid, 0)
        program.listener.close()


def loop(program: OnDemand, done: threading.Event) -> None:
    with selectors.PollSelector() as selector:
        program.watch(selector)
        while not done.is_set():
            for key, _ in selector.select(0.02):
                key.data()
            with contextlib.suppress(ChildProcessError):
                if program.pid and os.waitpid(program.pid, os.WNOHANG)[0]:
                    program.ended(program.pid)


@pytest.fixture
def asker(demand: Demand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    """Starts what is given as code when `/health` asks for the database."""
    monkeypatch.setattr(schema, "SOCKET", tmp_path / "schema.sock")

    def asker(code: str) -> OnDemand:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(schema.SOCKET))
        listener.listen()
        return demand(listener, code)

    return asker


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def start(tmp_path: Path, listener: socket.socket) -> Iterator[Start]:
    started: list[Parent] = []

    def start(
        work: str = WORK,
        count: int = 1,
        drain_seconds: float = 0,
        blocked: bool = False,
        listener: socket.socket = listener,
        **environment: str,
    ) -> Parent:
        numbers = [str(listener.fileno()), str(count), str(drain_seconds)]
        named = {"SLOT_FOLDER": str(tmp_path), **environment}
        process = launch(work, numbers, listener.fileno(), blocked, named)
        started.append(process)
        return process

    yield start
    for process in started:
        # Not SIGKILL: the workers would outlive it.
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
