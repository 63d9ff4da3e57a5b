"""The two slots: what they run, and what has become of their workers."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ops import dotenv
from ops.config import ROLE, Config, resolved
from ops.database import owner
from ops.lock import STATE, note_end
from ops.release import releases
from ops.run import GONE, HERE, Stop, compose, docker, inspect, running, uninterrupted

SLOTS = ("app-1", "app-2")
# Services that a deploy leaves alone: the restart of the first two is not without a gap.
FRONT = ("traefik", "postgres")
LEFT_ALONE = (*FRONT, "backup")
# The configuration that serves, as Compose read it: .env, app.env and compose.yaml may have changed since.
SNAPSHOT = STATE / "serving.json"
READ = STATE / "read.json"
# Compose's options for that configuration in place of the files here.
AS_SERVED = ("--project-directory", str(HERE), "--file", str(SNAPSHOT))


@dataclass(frozen=True)
class Container:
    """What Docker knows of a service's."""

    id: str
    service: str
    restarts: int
    # The id of its image, and that image's tag.
    image: str
    release: str
    # Compose's hash of what it was made with.
    settings: str | None
    # As Docker has it: running, exited…
    status: str
    running: bool
    # Without a check, whether it runs.
    healthy: bool
    # Of the app's, beside the web.
    process: bool

    @classmethod
    def inspected(cls, found: dict[str, Any]) -> Container:
        config, state = found["Config"], found["State"]
        name, settings = str(config["Image"]), config["Labels"].get("com.docker.compose.config-hash")
        health = state.get("Health", {}).get("Status", "none")
        healthy = state["Status"] == "running" and health in ("healthy", "none")
        of_image = (found["Image"], name.rpartition(":")[2], settings)
        service = str(config["Labels"].get("com.docker.compose.service"))
        now = (state["Status"], state["Running"], healthy)
        return cls(found["Id"], service, found["RestartCount"], *of_image, *now, bool(config["Labels"].get(ROLE)))


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


def containers(project: str) -> list[Container]:
    """The project's. A service has two, the running one last, if a command was interrupted."""
    found = inspect(*running(project, ended=True))
    found.sort(key=lambda one: (one["State"]["Running"], one["Created"]))
    return [Container.inspected(one) for one in found]


def now(project: str) -> dict[str, Container]:
    """Each service's container."""
    return {one.service: one for one in containers(project)}


def again(found: Container) -> Container | None:
    """The same container as it is now; None when it is gone."""
    return next(map(Container.inspected, inspect(found.id)), None)


def releases_of(project: str) -> dict[str, str]:
    """The release of each slot, and of each process of the app's, that has a container."""
    return {service: one.release for service, one in now(project).items() if service in SLOTS or one.process}


def workers(found: Container | None) -> Workers | None:
    """None when the container doesn't run, has not got that far, or is of a release that writes nothing down."""
    if not found or not found.running:
        return None
    # The second is that of an older release.
    places = ("/tmp/.stack/workers", "/tmp/workers")  # noqa: S108 - a tmpfs of the container
    all_said = (docker("exec", found.id, "cat", place, check=False) for place in places)
    text = next((said.stdout for said in all_said if not said.returncode and said.stdout.strip()), "")
    if not text:
        return None
    states, *lines = text.splitlines()
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
    found = now(project)
    return [slot for slot in SLOTS if serves(found.get(slot))]


def refuse_ends(slot: str, found: Container, said: Workers | None, ends: dict[str, int]) -> None:
    """Raises Stop, with the reason, when a worker of the container has ended that is not yet in `ends`."""
    new = said.ended[ends.get(found.id, 0) :] if said else []
    if new:
        raise Stop(f"A worker of {slot} ended: {new[0]}.")


def ended(found: list[Container]) -> dict[str, int]:
    """How many workers have ended in each slot's container by now, by the container's id."""
    return {one.id: len(said.ended) for one in found if one.service in SLOTS and (said := workers(one))}


def served_services() -> dict[str, Any]:
    """What Compose resolved of each service, of the configuration that serves; {} where none has served."""
    found: dict[str, Any] = json.loads(SNAPSHOT.read_bytes())["services"] if SNAPSHOT.exists() else {}
    return found


def served_volume(project: str) -> str | None:
    """The volume of the database that served under this name; None where none has, or DATABASE_URL named another."""
    found: dict[str, Any] = json.loads(SNAPSHOT.read_bytes()) if SNAPSHOT.exists() else {}
    named = found.get("volumes", {}).get("postgres-data", {}).get("name") if found.get("name") == project else None
    return named and str(named)


def take_snapshot() -> None:
    """Write down that what Compose resolves now is the configuration that serves: all was started with it."""
    dotenv.replace_file(SNAPSHOT, resolved())


def start_app(found: dict[str, Container], processes: list[str], files: tuple[str, ...] = ()) -> None:
    """Start the front door, the slots, the app's processes and all that they need; `found` as `now` has it.

    Returns when Postgres is healthy and the migration has run. `files`: Compose's options for other files than those
    here. Raises Stop.
    """
    for slot in found.keys() & set(SLOTS):
        said = workers(found[slot])
        if said and said.draining:
            # Told to stop by somebody who is gone: Compose would take it for started, and then see it end.
            docker("stop", found[slot].id, despite=GONE)
    compose(*files, "up", "--detach", "traefik", *SLOTS, *processes)


def start_backup(files: tuple[str, ...] = ()) -> None:
    """Start the backups; if they are not well, that holds nothing up. `files` as for `start_app`."""
    # None where DATABASE_URL names another Postgres: compose.yaml.
    compose(*files, "up", "--detach", "--no-deps", "backup")


def keep(project: str, release: str, rolled_back: str | None = None, take: Callable[[], None] = take_snapshot) -> None:
    """Make what serves now what plain `docker compose` would start, and what a failed rollout goes back to.

    `take`: what writes down with which configuration.
    """
    # It serves: an interruption now would leave .env with another release.
    with uninterrupted():
        owner.remember(project)
        take()
        releases.record(project, release, rolled_back)
        note_end()
    if not dotenv.own_postgres():
        # Nothing has used them since the last slot was replaced. The volumes stay.
        compose("rm", "--stop", "--force", "postgres", "backup", check=False)
    prune(project)


def prune(project: str) -> None:
    """Remove what no release needs any more, and what was built and never served."""
    releases.remove_images(project, releases_of(project).values())


def changed(config: Config, release: str) -> set[str]:
    """The services that aren't well, or aren't just what Compose would start: all else is left alone."""
    used = LEFT_ALONE if dotenv.own_postgres() else ("traefik",)
    names = {service: config.services[service].image for service in used}
    names |= dict.fromkeys([*SLOTS, *config.processes], releases.image_name(config.project, release))
    ids = releases.image_ids(*names.values())
    if not ids or not SNAPSHOT.exists() or SNAPSHOT.read_text("utf-8") != resolved():
        return set(names)
    found, settings = now(config.project), settings_of_snapshot()
    wanted = {(service, image, settings[service]) for service, image in zip(names, ids)}
    as_wanted = {service for service, one in found.items() if (service, one.image, one.settings) in wanted}
    return {one for one in names if one not in as_wanted or not as_it_should(found[one])}


def as_it_should(found: Container) -> bool:
    if found.service in SLOTS:
        return serves(found)
    # Nobody waits for the backups: a start would not make them well.
    return found.running if found.service == "backup" else found.healthy


def settings_of_snapshot() -> dict[str, str]:
    """Compose's hash of what each service is made with, of the configuration that serves."""
    return hashes(SNAPSHOT.read_text("utf-8"))


@functools.lru_cache
def hashes(text: str) -> dict[str, str]:
    """Compose's hash of what each service is made with, of a configuration as it resolved it."""
    # Of what Compose has read: of compose.yaml it would not count what comes from an env_file.
    dotenv.replace_file(READ, text)
    listed = compose("--project-directory", str(HERE), "--file", str(READ), "config", "--hash", "*").stdout
    return dict(line.split() for line in listed.splitlines())


def database_changed(config: Config) -> bool:
    """Whether the slots would get another database than the one that they have, or had, if any."""
    wanted, known = config.services["app-1"].environment["STACK_DATABASE_URL"], served_services().get("app-1")
    return wanted != (known["environment"].get("STACK_DATABASE_URL") if known else "")


def serving_now(project: str) -> str:
    """Which slots serve, each with its release, in words."""
    found = now(project)
    return ", ".join(f"{slot} ({found[slot].release})" for slot in SLOTS if serves(found.get(slot))) or "nothing"


def show_evidence(project: str, *services: str) -> None:
    """The services that are not well, each with its state, its last health checks and the end of its log."""
    for found in inspect(*running(project, ended=True)):
        one, state, health = Container.inspected(found), found["State"], found["State"].get("Health", {})
        is_well = one.healthy or (one.status, state["ExitCode"]) == ("exited", 0)
        if one.status == "created" or is_well or (services and one.service not in services):
            continue
        killed = ", out of memory" if state["OOMKilled"] else ""
        print(
            f"\n{one.service}: {one.status}, exit code {state['ExitCode']}{killed}, "
            f"restarts: {one.restarts}, health: {health.get('Status', 'not checked')}",
            file=sys.stderr,
        )
        for check in health.get("Log", [])[-3:]:
            print(f"    health check {check['ExitCode']}: {check['Output'].strip()[-200:]}", file=sys.stderr)
        log = docker("logs", "--tail", "20", found["Id"], check=False)
        print(log.stdout + log.stderr, file=sys.stderr)
