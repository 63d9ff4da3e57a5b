"""The two slots: what they run, and what has become of their workers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from ops import dotenv
from ops.config import Config, resolved
from ops.database import owner
from ops.lock import STATE
from ops.release import releases
from ops.run import HERE, Stop, compose, docker

SLOTS = ("app-1", "app-2")
# The configuration that serves, as Compose read it: .env, app.env and compose.yaml may have changed since.
SNAPSHOT = STATE / "serving.json"


@dataclass(frozen=True)
class Container:
    """What Docker knows of a slot's."""

    id: str
    restarts: int
    # The id of its image, and that image's tag.
    image: str
    release: str
    # Compose's hash of what it was made with.
    settings: str | None
    # As Docker has it: running, exited…
    status: str
    running: bool
    healthy: bool

    @classmethod
    def inspected(cls, found: dict[str, Any]) -> Container:
        config, state = found["Config"], found["State"]
        name, settings = str(config["Image"]), config["Labels"].get("com.docker.compose.config-hash")
        healthy = state.get("Health", {}).get("Status") == "healthy"
        of_image = (found["Image"], name.rpartition(":")[2], settings)
        return cls(found["Id"], found["RestartCount"], *of_image, state["Status"], state["Running"], healthy)


@dataclass(frozen=True)
class Workers:
    """What PID 1 of a slot wrote down of its workers (runtime/supervisor.py)."""

    # A letter each: `.` has not served yet, `+` serves, `-` has served and ended.
    states: str
    # Why each ended that was not asked to, oldest first.
    ended: list[str]
    draining: bool
    # Traefik has been told that it may send requests.
    routed: bool

    @property
    def all_serve(self) -> bool:
        return set(self.states) == {"+"}

    @property
    def served(self) -> bool:
        return self.states.strip(".") != ""


def containers(project: str, slot: str) -> list[Container]:
    """The slot's container; two, the running one last, if a command was interrupted."""
    labels = {"project": project, "service": slot, "oneoff": "False"}
    filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    names = docker("ps", "--all", "--quiet", *filters, check=False).stdout.split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *names, check=False).stdout) if names else []
    found.sort(key=lambda one: (one["State"]["Running"], one["Created"]))
    return [Container.inspected(one) for one in found]


def container(project: str, slot: str) -> Container | None:
    return next(reversed(containers(project, slot)), None)


def release_of(project: str, slot: str) -> str | None:
    found = container(project, slot)
    return found.release if found else None


def workers(found: Container | None) -> Workers | None:
    """None when the container doesn't run, has not got that far, or is of a release that writes nothing down."""
    if not found or not found.running:
        return None
    said = docker("exec", found.id, "cat", "/tmp/workers", check=False)  # noqa: S108 - a tmpfs of the container
    if said.returncode or not said.stdout.strip():
        return None
    states, *lines = said.stdout.splitlines()
    ended = [line for line in lines if line not in ("draining", "routed")]
    return Workers(states, ended, "draining" in lines, "routed" in lines)


def serves(found: Container | None) -> bool:
    """Whether the slot runs, has once been ready, and isn't on its way out.

    Docker's health is not asked where the slot itself says it: one that has much to do misses its checks, and serves.
    """
    said = workers(found)
    return said.served and not said.draining if said else bool(found and found.healthy)


def is_routed(found: Container | None) -> bool:
    """Whether the slot serves, and Traefik knows it."""
    said = workers(found)
    return serves(found) and (not said or said.routed)


def serving(project: str) -> list[str]:
    return [slot for slot in SLOTS if serves(container(project, slot))]


def refuse_ends(slot: str, found: Container, said: Workers | None, ends: dict[str, int]) -> None:
    """Raises Stop, with the reason, when a worker of the container has ended that is not yet in `ends`."""
    new = said.ended[ends.get(found.id, 0) :] if said else []
    if new:
        raise Stop(f"A worker of {slot} ended: {new[0]}.")


def ended(project: str) -> dict[str, int]:
    """How many workers have ended in each slot's container by now, by the container's id."""
    found = [one for slot in SLOTS for one in containers(project, slot)]
    return {one.id: len(said.ended) for one in found if (said := workers(one))}


def start_app(project: str) -> None:
    """Start the front door, the slots and all that they need, and wait until they are healthy. Raises Stop."""
    for found in (container(project, slot) for slot in SLOTS):
        said = workers(found)
        if found and said and said.draining:
            # Told to stop by somebody who is gone: Compose would take it for started, and then see it end.
            docker("stop", found.id)
    compose("up", "--detach", "--wait", "traefik", *SLOTS)


def start_backup() -> None:
    """Start the backups; if they are not well, that holds nothing up."""
    # None where DATABASE_URL names another Postgres: compose.yaml.
    compose("up", "--detach", "--no-deps", "backup")


def start_all(project: str) -> None:
    start_app(project)
    start_backup()


def keep(project: str, release: str, rolled_back: str | None = None) -> None:
    """Make what serves now what plain `docker compose` would start, and what a failed rollout goes back to."""
    owner.remember()
    if not dotenv.own_postgres():
        # Nothing has used them since the last slot was replaced. The volumes stay.
        compose("rm", "--stop", "--force", "postgres", "backup", check=False)
    dotenv.replace_file(SNAPSHOT, resolved())
    releases.record(project, release, rolled_back)
    releases.prune(project, [running for slot in SLOTS if (running := release_of(project, slot))])


def unchanged(project: str, release: str) -> bool:
    """Whether both slots serve and are just what Compose would start: nothing is to be checked or replaced then."""
    if not SNAPSHOT.exists() or SNAPSHOT.read_text("utf-8") != resolved():
        return False
    hashes = compose("--project-directory", str(HERE), "--file", str(SNAPSHOT), "config", "--hash", ",".join(SLOTS))
    wanted, image = dict(line.split() for line in hashes.stdout.splitlines()), releases.image_id(project, release)
    for slot in SLOTS:
        found = container(project, slot)
        if not found or not serves(found) or (found.image, found.settings) != (image, wanted[slot]):
            return False
    return True


def database_changed(config: Config) -> bool:
    """Whether the slots would get another database than the one that they have, or had, if any."""
    wanted = config.services["app-1"].environment["STACK_DATABASE_URL"]
    known = json.loads(SNAPSHOT.read_bytes()) if SNAPSHOT.exists() else None
    return wanted != (known["services"]["app-1"]["environment"].get("STACK_DATABASE_URL") if known else "")


def serving_now(project: str) -> str:
    """Which slots serve, each with its release, in words."""
    return ", ".join(f"{slot} ({release_of(project, slot)})" for slot in serving(project)) or "nothing"


def show_evidence(*services: str) -> None:
    """The services that are not well, each with its state, its last health checks and the end of its log."""
    names = compose("ps", "--all", "--quiet", *services, check=False).stdout.split()
    for found in json.loads(docker("inspect", *names).stdout) if names else []:
        state, health = found["State"], found["State"].get("Health", {})
        if state["Status"] == "created" or well(state):
            continue
        service = found["Config"]["Labels"]["com.docker.compose.service"]
        killed = ", out of memory" if state["OOMKilled"] else ""
        print(
            f"\n{service}: {state['Status']}, exit code {state['ExitCode']}{killed}, "
            f"restarts: {found['RestartCount']}, health: {health.get('Status', 'not checked')}",
            file=sys.stderr,
        )
        for check in health.get("Log", [])[-3:]:
            print(f"    health check {check['ExitCode']}: {check['Output'].strip()[-200:]}", file=sys.stderr)
        log = docker("logs", "--tail", "20", found["Id"], check=False)
        print(log.stdout + log.stderr, file=sys.stderr)


def well(state: dict[str, Any]) -> bool:
    health = state.get("Health", {}).get("Status", "healthy")
    status, code = state["Status"], state["ExitCode"]
    return bool((status, health) == ("running", "healthy") or (status, code) == ("exited", 0))
