"""What the tests of backups ask a stack."""

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

from tests.stack.stacks import Clone, inspect, run, wait_until


def stored(clone: Clone) -> set[int]:
    return {int(line) for line in clone.psql("SELECT id FROM notes").split()}


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listing(clone: Clone) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(clone.stack("backups", "--json")))["backups"]
    return found


def settled(clone: Clone) -> bool:
    """Whether there is a backup of the running timeline: after a restore the service takes one by itself."""
    timeline = clone.psql("SELECT timeline_id FROM pg_control_checkpoint()", "postgres", "postgres")
    return bool(int(timeline) == listing(clone)[0]["timeline"])


def inside(clone: Clone, *argv: str) -> str:
    return clone.compose("exec", "-T", "backup", *argv)


def health(clone: Clone) -> str:
    return str(inspect(clone.container("backup"))["State"]["Health"]["Status"])


def said(clone: Clone) -> str:
    """The answer of the container's health check."""
    return clone.compose("exec", "-T", "backup", "healthy", check=False)


def volumes(clone: Clone) -> set[str]:
    return set(run("docker", "volume", "ls", "--quiet", "--filter", f"name={clone.project}_postgres-").split())


def used_volume(clone: Clone) -> str:
    """The volume that Postgres runs on."""
    mounts = clone.containers()["postgres"]["Mounts"]
    [name] = [str(mount["Name"]) for mount in mounts if mount["Destination"] == "/var/lib/postgresql"]
    return name


def served_volume(clone: Clone) -> str:
    """That of the configuration that a failed `./stack up` goes back to."""
    served = json.loads((clone.folder / ".stack/serving.json").read_text())
    return str(served["volumes"]["postgres-data"]["name"])


def two_notes(clone: Clone) -> str:
    """Write one before and one after a moment; that moment."""
    wait_until(lambda: settled(clone) and health(clone) == "healthy")
    with clone.client() as client:
        assert client.post("/notes", json={"text": "before"}).status_code == 201
        moment = datetime.now(UTC)
        assert client.post("/notes", json={"text": "after"}).status_code == 201
    return str(moment)


def is_well(clone: Clone) -> bool:
    with clone.client() as client:
        return client.get("/health").status_code == 200
