"""What Docker asks each container, how often, and for how long it waits for one that starts."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO

WORKER = f"services: {{worker: {{extends: {{file: {REPO}/process.yaml, service: process}}}}}}"
PROGRAMS = ("postgres/healthy", "backup/healthy", "traefik/healthy", "runtime/probe", "runtime/steady")


def checks(folder: Path, **settings: str) -> dict[str, dict[str, Any]]:
    """The health check of each service that has one, with a worker and the file server."""
    (folder / "worker.yaml").write_text(WORKER)
    files = ("--file", "compose.yaml", "--file", str(folder / "worker.yaml"))
    argv = ["docker", "compose", "--env-file", "/dev/null", *files, "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "STATIC_DIR": "/app/dist", **settings}
    done = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found = {name: one.get("healthcheck", {}) for name, one in json.loads(done.stdout)["services"].items()}
    return {name: one for name, one in found.items() if "test" in one}


def seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


@pytest.mark.docker
def test_time_to_start_is_one_setting(tmp_path: Path) -> None:
    """DEPLOY_TIMEOUT, for the slots and for the processes beside them. Recovery of Postgres has more."""
    for expected, settings in ((120, {}), (300, {"DEPLOY_TIMEOUT": "300"})):
        found = {name: seconds(one["start_period"]) for name, one in checks(tmp_path, **settings).items()}
        assert {found[name] for name in ("app-1", "app-2", "worker")} == {expected}
        assert found["postgres"] >= 600


@pytest.mark.docker
def test_checks_are_seldom(tmp_path: Path) -> None:
    """Once a container is up nobody waits for its check: every 30 s, by a program of the stack's, or a request."""
    found = checks(tmp_path)
    assert {name: seconds(one["interval"]) for name, one in found.items()} == dict.fromkeys(
        ("app-1", "app-2", "backup", "postgres", "static", "traefik", "worker"), 30
    )
    asked = {one["test"][1].removeprefix("/opt/stack/bin/") for one in found.values()}
    assert asked == {"healthy", "probe", "steady", "wget"}


@pytest.mark.parametrize("path", PROGRAMS)
def test_checks_start_no_interpreter(path: str) -> None:
    """Each is a few lines of sh that read what is written down: an interpreter would cost more than what it asks."""
    first, *lines = (REPO / path).read_text().splitlines()
    assert first == "#!/bin/sh"
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    assert re.findall(r"\b(?:python\S*|psql|barman\S*|perl)\b", code) == []


def test_rights_are_put_right_once_a_start(tmp_path: Path) -> None:
    """Postgres's check opens a session before anybody waits for it to be healthy, and never again."""
    for name in ("rights", "pg_isready"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "comm").write_text("postgres\n")
    check = (REPO / "postgres/healthy").read_text()
    for there, here in (("/proc/1/comm", "comm"), ("/tmp/rights-are-right", "done")):  # noqa: S108 - the container's
        assert there in check
        check = check.replace(there, str(tmp_path / here))
    for _ in range(3):
        subprocess.run(["sh", "-c", check], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=30, check=True)
    assert (tmp_path / "ran").read_text().split() == ["rights", "pg_isready", "pg_isready"]
