"""What comes back by itself: after a restart of the engine, and after the machine's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.stack.engine import HOST, Engine
from tests.stack.stacks import Stack, run, wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine"),
]
# Asks twice a second over a connection of its own and prints each answer, until its input ends.
ASK = """
import ssl, sys, threading, time, urllib.request
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.2):
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=5, context=ssl._create_unverified_context()).status
    except OSError as error:
        answer = error
    print(answer, flush=True)
"""


class Remote(Stack):
    """The stack on an engine of our own."""

    def __init__(self, engine: Engine, local: Stack, env_file: Path) -> None:
        super().__init__("main", env_file)
        self.engine = engine
        self.address = f"https://{HOST}:{self.https_port}"
        engine.load(*{one["Config"]["Image"] for one in local.containers().values()})

    def compose(self, *arguments: str, check: bool = True) -> str:
        argv = ("docker", "compose", "--env-file", str(self.env_file), *arguments)
        return run(*argv, cwd=self.folder, check=check, env=self.engine.environment)

    def answers(self) -> bool:
        """Whether the app and its database are well, as one sees it who comes from outside."""
        argv = ("curl", "--silent", "--insecure", "--max-time", "3", f"{self.address}/health")
        answer = run(*self.engine.inside(*argv), check=False)
        return answer.startswith("{") and json.loads(answer).get("at_head", False)

    def started(self) -> dict[str, str]:
        """When each container was started."""
        names = self.compose("ps", "--quiet").split()
        found = json.loads(run("docker", "inspect", *names, env=self.engine.environment))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"]["StartedAt"] for one in found}


@pytest.fixture
def remote(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Remote]:
    engine = Engine("stack-test", *request.param)
    try:
        engine.start()
        remote = Remote(engine, stack, tmp_path / "env")
        remote.compose("up", "--detach", "--wait", "--no-build")
        wait_until(remote.answers)
        yield remote
    finally:
        engine.remove()


@pytest.mark.parametrize("remote", [["--live-restore"]], indirect=True)
def test_engine_restarts_below_the_running_stack(remote: Remote) -> None:
    """With live-restore the containers run on through a restart of dockerd, an update of it for one.

    The ports are closed while the new one makes its rules: about a second.
    """
    before = remote.started()
    argv = remote.engine.inside(sys.executable, "-c", ASK, f"{remote.address}/")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as asking:
        remote.engine.stop()
        remote.engine.start()
        wait_until(remote.answers)
        answers, _ = asking.communicate()
    lines = answers.splitlines()
    assert lines[0] == lines[-1] == "200", answers
    closed = [line for line in lines if line != "200"]
    print(f"live-restore: closed for {len(closed) * 0.2:.1f} s")
    assert len(closed) < 25, answers
    assert remote.started() == before


@pytest.mark.parametrize("remote", [[]], indirect=True)
def test_engine_restart_and_power_failure(remote: Remote) -> None:
    """dockerd stopped and started, and everything killed and the engine started: the stack serves without a command."""
    before = remote.started()
    remote.engine.stop()
    remote.engine.start()
    wait_until(remote.answers, seconds=60)
    after = remote.started()
    assert all(after[service] > before[service] for service in before)

    remote.engine.power_off()
    begun = time.monotonic()
    remote.engine.start()
    wait_until(remote.answers, seconds=90)
    print(f"serves {time.monotonic() - begun:.1f} s after the engine was started")
    assert all(remote.started()[service] > after[service] for service in ("app-1", "app-2", "traefik", "postgres"))
