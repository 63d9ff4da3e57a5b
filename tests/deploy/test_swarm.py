"""deploy/swarm: what its files say beside compose.yaml, and a real Swarm under counted load."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import REPO
from tests.deploy.swarms import SHOP, Swarm
from tests.stack.engine import Engine
from tests.stack.stacks import Clone, command, run, wait_until

FOLDER = REPO / "deploy/swarm"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine")
# What compose.yaml has and Swarm has not, with what stands in its place.
OTHERWISE = {"STACK_DATABASE_URL", "STACK_TRUSTED_PROXIES"}
ELSEWHERE = {"STACK_DATABASE_URL_FILE", "STACK_REPLICAS", "STACK_SURGE"}


def stack(name: str) -> dict[str, Any]:
    """The services of a file of deploy/swarm, as `docker stack deploy` reads it without any setting."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "IMAGE": "shop:1"}
    argv = ["docker", "stack", "config", "--compose-file", f"deploy/swarm/{name}.yml"]
    found: dict[str, Any] = yaml.safe_load(subprocess.check_output(argv, cwd=REPO, env=environment, timeout=60))[
        "services"
    ]
    return found


def compose() -> dict[str, Any]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    argv = ["docker", "compose", "--env-file", "/dev/null", "config", "--format", "json"]
    found: dict[str, Any] = json.loads(subprocess.check_output(argv, cwd=REPO, env=environment, timeout=60))["services"]
    return found


@pytest.mark.docker
@pytest.mark.parametrize(("file", "service", "slot"), [("stack", "app", "app-1"), ("migrate", "migrate", "migrate")])
def test_services_are_those_of_compose(file: str, service: str, slot: str) -> None:
    """User, command, root, capabilities, /tmp, health check, grace, log and limits."""
    here, there = stack(file)[service], compose()[slot]
    for key in ("user", "read_only", "cap_drop", "stop_grace_period", "init", "logging", "healthcheck"):
        assert here.get(key) == there.get(key), key
    # Docker's JSON has the image's own command as null.
    assert here.get("command") == there.get("command")
    limits = here["deploy"]["resources"]["limits"]
    assert (int(limits["memory"]), limits["pids"]) == (int(there["mem_limit"]), there["pids_limit"])
    assert float(limits.get("cpus", 0)) == float(there.get("cpus") or 0)
    assert [one["target"] for one in here["volumes"]] == ["/tmp"]  # noqa: S108 - a tmpfs of the container
    assert f"size={here['volumes'][0]['tmpfs']['size'] >> 20}m" in there["tmpfs"][0]
    mine, theirs = (set(one.get("environment", {})) - known for one, known in ((here, ELSEWHERE), (there, OTHERWISE)))
    if service == "app":
        assert mine == theirs
    else:
        # Of a slot's settings it needs what a command of its own is told.
        assert mine <= theirs


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A Swarm whose first release serves."""
    clone = Clone(tmp_path_factory.mktemp("swarm"), "swarm")
    engine = Engine("stack-swarm")
    try:
        engine.let_out()
        engine.start()
        swarm = Swarm(engine, clone)
        swarm.make()
        done = swarm.deploy("first")
        assert done.returncode == 0, done.stderr
        wait_until(swarm.answers)
        yield swarm
    finally:
        run("docker", "swarm", "leave", "--force", env=engine.environment, check=False)
        engine.remove()
        clone.remove()


@pytest.fixture
def serving(swarm: Swarm) -> Swarm:
    """The Swarm with its first release, whatever a test before has left."""
    if swarm.serving() != {"first"}:
        assert swarm.deploy("first").returncode == 0
    return swarm


@pytest.mark.long
@AS_ROOT
@pytest.mark.timeout(900)
@pytest.mark.docker
def test_client(serving: Swarm) -> None:
    """The client's address is the real one, and nobody's to say. Probes are not served, and HTTP leads to HTTPS."""
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Auth-Request-User": "root", "Forwarded": "for=198.51.100.7"}
    forged |= {"X_Real_Ip": "198.51.100.7", "X-Real-Ip": "198.51.100.7", "X-Forwarded-Host": "198.51.100.7"}
    with serving.client() as client:
        said = client.get("/who-asks", headers=forged).json()
        assert (said["client"], said["scheme"]) == (f"{serving.engine.outside[:-1]}1", "https")
        assert {value for _, value in said["headers"]}.isdisjoint(forged.values())
        assert [client.get(f"/{path}").status_code for path in ("ready", "live")] == [404] * 2
        answer = client.get(f"http://{serving.engine.outside}:{serving.clone.http_port}/items/5?q=1")
        assert (answer.status_code, answer.headers["Location"]) == (
            308,
            f"https://{serving.engine.outside}:{serving.clone.http_port}/items/5?q=1",
        )


@pytest.mark.long
@AS_ROOT
@pytest.mark.timeout(900)
@pytest.mark.docker
def test_update(serving: Swarm) -> None:
    """A release and the way back by Swarm's own command drop no request. The migration ran once for each."""
    with serving.load("update") as load:
        done = serving.deploy("second")
    assert done.returncode == 0, done.stderr
    assert not load.failed, load.failed
    assert serving.serving() == {"second"}
    [ended] = serving.docker("service", "ps", "--format", "{{.CurrentState}}", f"{SHOP}_migrate").splitlines()
    assert ended.startswith("Complete ")
    with serving.load("rollback by hand") as load:
        serving.docker("service", "rollback", "--quiet", f"{SHOP}_app")
    assert not load.failed, load.failed
    assert serving.serving() == {"first"}


@pytest.mark.long
@AS_ROOT
@pytest.mark.timeout(900)
@pytest.mark.docker
def test_broken_release(serving: Swarm) -> None:
    """Swarm goes back by itself, the old tasks serve throughout, and the command says so."""
    before = serving.running()
    with serving.load("broken release") as load:
        # Its migration would fail, too.
        done = serving.deploy("broken", MIGRATE="none")
    assert not load.failed, load.failed
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert serving.update() == "rollback_completed"
    assert serving.serving() == {"first"}
    assert serving.running() == before


@pytest.mark.long
@AS_ROOT
@pytest.mark.timeout(900)
@pytest.mark.docker
def test_killed_task(serving: Swarm) -> None:
    """Of a task that is killed only what it was answering fails. Another takes its place."""
    before = serving.running()
    # What one task holds by itself, on a busy machine too.
    with serving.load("killed task", rate=10) as load:
        victim = serving.process(min(before))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not command(victim), 10)
        dead = time.monotonic()
        wait_until(lambda: serving.replaced(before))
    # PID 1 takes a moment to end the others of its namespace, which answer until then.
    assert [one for one in load.failed if one.sent > dead] == []


@pytest.mark.long
@AS_ROOT
@pytest.mark.timeout(900)
@pytest.mark.docker
def test_failing_migration(serving: Swarm) -> None:
    """Its code is the command's, its last words are shown, and the app is not touched."""
    before = serving.running()
    done = serving.deploy("second", MIGRATE="sh -c 'echo no; exit 7'")
    assert done.returncode == 7
    assert "no\n" in done.stderr
    assert serving.running() == before
    # And again, without the mistake.
    assert serving.deploy("second").returncode == 0
    assert serving.serving() == {"second"}
