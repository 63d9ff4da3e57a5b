import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.runtime.conftest import Demand

# Says who it is to each who connects, until it is told to end.
GREETER = """
import os, socket
with open({log!r}, "a") as file: file.write("started\\n")
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    with connection:
        if connection.recv(100) == b"end": break
        connection.sendall(str(os.getpid()).encode())
"""
SLOT = """
import signal, socket, sys, time
from runtime.demand import OnDemand
from runtime.supervisor import Supervisor
def work(listener, serving):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serving()
    time.sleep(60)
program = OnDemand(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
sys.exit(Supervisor(work, socket.create_server(("127.0.0.1", 0)), 1, 0, 0.5, programs=[program]).run())
"""
BROKEN = """
with open({log!r}, "a") as file: file.write("started\\n")
raise SystemExit(1)
"""


@pytest.fixture
def listener() -> socket.socket:
    """`demand` closes it."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def say(listener: socket.socket, words: str) -> str:
    """Say this to the program; its answer, or nothing where there is none."""
    with socket.create_connection(listener.getsockname(), timeout=20) as connection:
        # Where nobody reads it the connection is reset.
        with contextlib.suppress(ConnectionError):
            connection.sendall(words.encode())
            return connection.recv(100).decode()
        return ""


def starts(log: Path) -> int:
    return log.read_text().count("started")


def test_program_starts_when_somebody_connects(demand: Demand, listener: socket.socket, log: Path) -> None:
    """Not before, and one for all who come."""
    program = demand(listener, GREETER.format(log=str(log)))
    assert (starts(log), program.pid) == (0, 0)
    first = say(listener, "hello")
    assert first == str(program.pid)
    assert say(listener, "hello") == first
    assert starts(log) == 1


def test_program_that_ended_starts_again(demand: Demand, listener: socket.socket, log: Path) -> None:
    """At the next connection, and not before that."""
    program = demand(listener, GREETER.format(log=str(log)))
    first = say(listener, "hello")
    assert say(listener, "end") == ""
    deadline = time.monotonic() + 20
    while program.pid:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert starts(log) == 1
    assert say(listener, "hello") not in ("", first)
    assert starts(log) == 2


def test_program_that_ends_at_once_is_no_loop(demand: Demand, listener: socket.socket, log: Path) -> None:
    """Who waits for it is told, one by one, and then nothing starts any more."""
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(listener.getsockname(), timeout=20)) for _ in range(3)]
        demand(listener, BROKEN.format(log=str(log)))
        assert [connection.recv(100) for connection in waiting] == [b""] * 3
        assert starts(log) == 3
    # A new one is a new try, and the last: nobody waits.
    assert say(listener, "hello") == ""
    assert starts(log) == 4


def test_program_that_cannot_be_started(
    demand: Demand, listener: socket.socket, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the kernel gives the container no process more: who connects is told, and PID 1 goes on."""
    demand(listener, GREETER.format(log=str(log)))
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        assert [say(listener, "hello") for _ in range(2)] == ["", ""]
    assert say(listener, "hello") != ""


def test_program_that_is_killed_starts_again(demand: Demand, listener: socket.socket, log: Path) -> None:
    """By the kernel for memory, or by hand."""
    program = demand(listener, GREETER.format(log=str(log)))
    first = say(listener, "hello")
    os.kill(int(first), 9)
    # Until PID 1 knows of its end nobody answers.
    deadline = time.monotonic() + 20
    while (again := say(listener, "hello")) in ("", first):
        assert time.monotonic() < deadline
    assert again == str(program.pid)


def test_program_gets_one_socket_and_no_blocked_signal(demand: Demand, listener: socket.socket) -> None:
    """What PID 1 has open and handles is not the program's."""
    code = """
import os, socket, signal
connection, _ = socket.socket(fileno=3).accept()
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
defaults = [signal.getsignal(one) is signal.SIG_DFL for one in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)]
connection.sendall(f"{blocked} {all(defaults)}".encode())
"""
    demand(listener, code)
    assert say(listener, "hello") == "set() True"


def test_program_beside_the_workers(listener: socket.socket, log: Path, tmp_path: Path) -> None:
    """PID 1 of a slot starts it, takes in its end, and takes that for no worker's."""
    (tmp_path / "program").write_text(GREETER.format(log=str(log)))
    argv = [sys.executable, "-c", SLOT, str(listener.fileno()), str(tmp_path / "program")]
    slot = subprocess.Popen(
        argv,
        cwd=REPO,
        env={**os.environ, "SLOT_FOLDER": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[listener.fileno()],
    )
    try:
        first = say(listener, "hello")
        assert say(listener, "end") == ""
        deadline = time.monotonic() + 20
        while (again := say(listener, "hello")) in ("", first):
            assert time.monotonic() < deadline
        assert not Path(f"/proc/{first}").exists()
        assert say(listener, "end") == ""
        assert slot.poll() is None
    finally:
        slot.send_signal(signal.SIGTERM)
        _, said = slot.communicate(timeout=30)
        listener.close()
    assert again
    assert (slot.returncode, said) == (0, "Draining for 0 s.\n")
