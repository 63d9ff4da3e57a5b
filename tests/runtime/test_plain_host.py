"""A slot without a container, as a supervisor of the machine's starts it: no PID 1, and another beside it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import environment, install, relay
from tests.conftest import REPO
from tests.runtime.slots import Slot, children
from tests.stack.stacks import command, wait_until


class Instance(Slot):
    """Not PID 1 of anything."""

    namespace = ()

    @property
    def first(self) -> int:
        return self.process.pid

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[0]


Start = Callable[..., Instance]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Instance] = []

    def start(name: str, **settings: str) -> Instance:
        (tmp_path / name).mkdir(exist_ok=True)
        # Without DATABASE_URL it has a Postgres of its own: by the socket.
        begun.append(Instance(tmp_path / name, **{"WORKERS": "1", "DATABASE_URL": "", **settings}))
        return begun[-1]

    yield start
    for instance in begun:
        instance.stop()


def test_two_instances_side_by_side(start: Start) -> None:
    """Neither is PID 1 nor takes Postgres's port, each has its state, and each drains."""
    one, other = start("1"), start("2")
    one.starts()
    other.starts()
    assert (one.ask()[0], other.ask()[0]) == (200, 200)
    with socket.socket() as client:
        assert not environment.IN_IMAGE
        assert client.connect_ex(relay.ADDRESS) or not listens(relay.PORT, one.first, other.first)
    assert "Draining for 0 s." in one.stop()
    assert one.process.returncode == 0
    assert other.is_ready()


def test_who_keeps_a_connection_is_told_of_the_drain(start: Start) -> None:
    """The answers then close it: where no Traefik looks ahead, no request meets a connection that is just ending."""
    one = start("1", DRAIN_SECONDS="20", WORKERS="2")
    one.starts()
    kept = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
    with contextlib.closing(kept):

        def told() -> "str | None":
            kept.request("GET", "/")
            answer = kept.getresponse()
            answer.read()
            return answer.headers["Connection"]

        assert told() is None
        os.kill(one.first, signal.SIGTERM)
        wait_until(lambda: told() == "close", 5)
    # And not again.
    os.kill(one.first, signal.SIGINT)


def listens(port: int, *pids: int) -> bool:
    """Whether one of these processes does."""
    found = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} 00000000:" in line
    }
    held = {os.readlink(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()}
    return bool({f"socket:[{inode}]" for inode in found} & held)


def test_killed_parent_takes_its_workers_along(start: Start) -> None:
    """Without a container nothing else ends them: a successor on the same port serves."""
    killed = start("1", WORKERS="2")
    killed.starts()
    workers = children(killed.first)
    assert len(workers) == 2
    killed.process.kill()
    killed.process.wait(60)
    wait_until(lambda: not any(command(worker) for worker in workers), 10)
    again = start("1", PORT=str(killed.port), READINESS_PORT=str(killed.probes))
    again.port, again.probes = killed.port, killed.probes
    again.starts()
    assert again.ask()[0] == 200


@pytest.mark.parametrize("place", ["{folder}/notify", "@stack-test-{pid}"], ids=["file", "abstract"])
def test_systemd_is_told_once_it_is_ready(start: Start, tmp_path: Path, place: str) -> None:
    """A unit of `Type=notify` is started then, and not before."""
    place = place.format(folder=tmp_path, pid=os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(place.replace("@", "\0"))
        systemd.settimeout(60)
        instance = start("1", notify=place)
        assert systemd.recv(100) == b"READY=1"
        assert instance.is_ready()
        instance.stop()
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def install_into(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(REPO / "runtime/install.py"), str(folder)]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_folder_that_is_there_already(tmp_path: Path) -> None:
    """One for each release: a release that serves is never written over, and the image's place is the image's."""
    for taken in (tmp_path, install.IMAGE):
        done = install_into(taken)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{taken} is there already, or is an image's: ")


def test_installation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """It can be tried again under the same name."""
    away = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = install_into(tmp_path / "stack", **away)
    assert done.returncode == 1
    assert done.stderr.startswith("The stack's packages can't be installed for ")
    assert not (tmp_path / "stack").exists()
