"""What comes back by itself: after a restart of the engine, and after the machine's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.stack.engine import Abroad, Engine
from tests.stack.stacks import Stack, run, wait_until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine"),
]
RELEASES = ("first", "second")
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


class Remote(Abroad):
    """The stack on an engine of our own, as release `first`; `second` is the same image."""

    def __init__(self, engine: Engine, local: Stack, folder: Path) -> None:
        super().__init__(engine, folder, "boot", RELEASE="first")
        run("chmod", "-R", "a+rX", str(folder))
        images = {service: one["Config"]["Image"] for service, one in local.containers().items()}
        engine.load(*set(images.values()))
        names = {service: f"{self.project}-{service}" for service in ("traefik", "postgres", "backup")}
        for service, name in [*names.items(), *(("app-1", f"{self.project}-app:{one}") for one in RELEASES)]:
            run("docker", "tag", images[service], name, env=engine.environment)

    def health(self) -> dict[str, Any]:
        """What `/health` says; nothing when nobody answers."""
        answer = self.ask("/health")
        found: dict[str, Any] = json.loads(answer) if answer.startswith("{") else {}
        return found

    def answers(self) -> bool:
        """Whether the app and its database are well."""
        return bool(self.health().get("at_head", False))

    def started(self) -> dict[str, str]:
        """When each container was started."""
        return {service: one["State"]["StartedAt"] for service, one in self.state().items()}


@pytest.fixture
def remote(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Remote]:
    engine = Engine("stack-test", *request.param)
    try:
        engine.start()
        (tmp_path / "clone").mkdir()
        remote = Remote(engine, stack, tmp_path / "clone")
        remote.compose("up", "--detach", "--wait", "--no-build")
        wait_until(remote.answers)
        yield remote
    finally:
        engine.remove()


@pytest.mark.long
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
    wait_until(remote.answers)
    after = remote.started()
    assert all(after[service] > before[service] for service in before)

    remote.engine.power_off()
    begun = time.monotonic()
    remote.engine.start()
    wait_until(remote.answers)
    print(f"serves {time.monotonic() - begun:.1f} s after the engine was started")
    assert all(remote.started()[service] > after[service] for service in ("app-1", "app-2", "traefik", "postgres"))


@pytest.mark.long
@pytest.mark.parametrize("remote", [[]], indirect=True)
def test_power_failure_during_a_deploy(remote: Remote) -> None:
    """At whatever moment: the stack serves again without a command, and the next command brings both slots together.

    A rollback: the same rollout, without a build and a migration, which touch no slot.
    """
    # The line after which the engine dies, the slot that is replaced then, and how many seconds later.
    moments = [("settings", "app-1", 0), ("settings", "app-1", 3), ("settings", "app-1", 7), ("app-1", "app-2", 0)]
    for number, (line, slot, later) in enumerate(moments):
        old, new = RELEASES[number % 2], RELEASES[1 - number % 2]
        fail_during_rollback(remote, new, line, slot, later)
        remote.engine.start()
        wait_until(remote.answers)
        print(f"{later} s into the replacement of {slot} by {new}: {remote.serving()} after the boot")
        assert remote.health()["release"] in (old, new)
        with remote.begin("rollback", new) as rollback:
            _, said = rollback.communicate()
        assert rollback.returncode == 0, said
        assert remote.serving() == {"app-1": new, "app-2": new}


def fail_during_rollback(remote: Remote, new: str, line: str, slot: str, later: float) -> None:
    def containers() -> set[str]:
        return set(remote.compose("ps", "--all", "--quiet", slot).split())

    before = containers()
    # Those that never served are removed by the command before.
    image = remote.state()[slot]["Image"]
    run("docker", "tag", image, f"{remote.project}-app:{new}", env=remote.engine.environment)
    with remote.begin("rollback", new) as rollback:
        assert rollback.stderr
        said = ""
        while f"{line}: " not in said:
            said += rollback.stderr.readline()
            assert rollback.poll() is None, said
        wait_until(lambda: bool(containers() - before))
        time.sleep(later)  # the moment is what is tested
        rollback.kill()
        rollback.stderr.close()
    remote.engine.power_off()
