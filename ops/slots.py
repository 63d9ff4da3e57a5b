"""The two slots: what they run, and how one is replaced while the other serves."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ops import ask, releases
from ops.lock import STATE
from ops.run import HERE, Stop, compose, docker, step

SLOTS = ("app-1", "app-2")
# Seconds that a release may take to come back, however short DEPLOY_TIMEOUT is.
PATIENCE = 120
# The configuration that serves, as Compose read it: .env, app.env and compose.yaml may have changed since.
SNAPSHOT = STATE / "serving.json"


def containers(slot: str) -> list[dict[str, Any]]:
    """The slot's container as `docker inspect` sees it; two, the running one last, if a command was interrupted."""
    names = compose("ps", "--all", "--quiet", slot, check=False).stdout.split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *names).stdout) if names else []
    return sorted(found, key=lambda one: (one["State"]["Running"], one["Created"]))


def container(slot: str) -> dict[str, Any] | None:
    return next(reversed(containers(slot)), None)


def release_of(slot: str) -> str | None:
    found = container(slot)
    return str(found["Config"]["Image"]).rpartition(":")[2] if found else None


def is_healthy(slot: str) -> bool:
    found = container(slot)
    return bool(found and found["State"].get("Health", {}).get("Status") == "healthy")


def serving() -> list[str]:
    return [slot for slot in SLOTS if is_healthy(slot)]


def wait_until_routed(slot: str, config: dict[str, Any]) -> dict[str, Any]:
    """Wait until a request from outside was answered by this slot; return the answer. Raises Stop."""
    found = container(slot)
    if not found:
        raise Stop(f"{slot} has no container.")
    # A container's host name is the beginning of its id.
    return ask.wait_for(config, f"{slot} did not answer through Traefik", {"slot": found["Id"][:12]})


def update(
    slot: str, config: dict[str, Any], timeout: int, files: tuple[str, ...] = (), doubtful: bool = False
) -> dict[str, Any]:
    """Bring the slot to what Compose would start, and wait until Traefik routes to it; return its first answer.

    A `doubtful` slot gets another container also when it has one that looks as it should. Raises Stop. Touches nothing
    while the other slot, if it is healthy, isn't routed to.
    """
    others = set(serving()) - {slot}
    for other in others:
        wait_until_routed(other, config)
    # What an interrupted Compose left: where there are two containers it confuses them over their names.
    left = containers(slot) if doubtful and others else containers(slot)[:-1]
    for one in left:
        docker("stop", one["Id"])
        docker("rm", one["Id"])
    # Nothing to drain where nothing serves.
    timeout_of_stop = () if is_healthy(slot) else ("--timeout", "1")
    before = container(slot)
    compose(*files, "up", "--detach", "--no-deps", "--no-build", *timeout_of_stop, slot)
    wait_until_healthy(slot, timeout, before)
    return wait_until_routed(slot, config)


def wait_until_healthy(slot: str, timeout: int, before: dict[str, Any] | None) -> None:
    """Wait until the slot's own health check succeeds. Raises Stop when it doesn't in time, or crashes.

    Compose's --wait would go on waiting for a container that Docker starts again and again.
    """
    crashes = before["RestartCount"] if before else 0
    deadline = time.monotonic() + timeout
    while not is_healthy(slot):
        found = container(slot)
        if not found or found["State"]["Status"] == "exited":
            raise Stop(f"{slot} ended.")
        if found["RestartCount"] > (crashes if before and found["Id"] == before["Id"] else 0):
            raise Stop(f"{slot} crashed.")
        if time.monotonic() > deadline:
            raise Stop(f"{slot} was not ready within DEPLOY_TIMEOUT={timeout} s.")
        time.sleep(0.2)


def rollout(release: str, config: dict[str, Any]) -> dict[str, Any]:
    """Replace the slots one at a time; return the last answer. A failure brings back what served, and raises."""
    before, timeout = serving(), int(config["x-deploy"]["timeout"])
    # What an interrupted rollout left on its way is no release to go back to, unless it is all that serves.
    running = [release_of(slot) for slot in before]
    old = releases.current() if releases.current() in running or not running else running[0]
    touched: list[str] = []
    answer: dict[str, Any] = {}
    # The one that serves last: until then it is all there is.
    for slot in sorted(SLOTS, key=before.__contains__):
        touched.append(slot)
        try:
            with step(f"Replace {slot}"):
                answer = update(slot, config, timeout)
        except (Stop, KeyboardInterrupt) as failure:
            if isinstance(failure, Stop):
                print(failure, file=sys.stderr)
                show_evidence(slot)
            if old:
                go_back(old, touched, config, timeout)
            if isinstance(failure, Stop):
                raise Stop(f"Release {release} does not serve. Serving now: {summary()}.") from None
            raise
    return answer


def go_back(release: str, touched: list[str], config: dict[str, Any], timeout: int) -> None:
    """Bring the slots that a failed rollout touched back to `release`, the one first that it was just replacing."""
    os.environ["RELEASE"] = release
    snapshot = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {"services": {"app-1": {"image": None}}}
    # Settings may have changed too, so what counts is how it was started. Compose finds no change in it.
    known = snapshot["services"]["app-1"]["image"] == releases.image(release)
    files = ("--project-directory", str(HERE), "--file", str(SNAPSHOT)) if known else ()
    for slot in reversed(touched):
        try:
            with step(f"Back to {release} in {slot}"):
                # It has served before, and there is nothing to go back to from here: all the time that it may need.
                # The one that was being replaced may look well and be on its way out: told to stop, it drains, and
                # the engine goes on with that when whoever asked for it is gone.
                update(slot, config, max(timeout, PATIENCE), files, doubtful=slot == touched[-1])
        except Stop as failure:
            print(failure, file=sys.stderr)
            show_evidence(slot)


def start_app() -> None:
    """Start the front door, the slots and all that they need, and wait until they are healthy."""
    compose("up", "--detach", "--wait", "traefik", *SLOTS)


def start_backup() -> None:
    """Start the backups; if they are not well, that holds nothing up."""
    compose("up", "--detach", "--no-deps", "backup")


def start_all() -> None:
    start_app()
    start_backup()


def keep(release: str, rolled_back: str | None = None) -> None:
    """Make what serves now what plain `docker compose` would start, and what a failed rollout goes back to."""
    draft = SNAPSHOT.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(compose("config", "--format", "json").stdout)
    os.replace(draft, SNAPSHOT)
    releases.record(release, rolled_back)
    releases.prune([running for running in map(release_of, SLOTS) if running])


def unchanged(release: str) -> bool:
    """Whether both slots are healthy and just what Compose would start: nothing is to be checked or replaced then."""
    settings = compose("config", "--format", "json").stdout
    if not SNAPSHOT.exists() or SNAPSHOT.read_text() != settings:
        return False
    hashes = compose("--project-directory", str(HERE), "--file", str(SNAPSHOT), "config", "--hash", ",".join(SLOTS))
    wanted, image = dict(line.split() for line in hashes.stdout.splitlines()), releases.image_id(release)
    for slot in SLOTS:
        found = container(slot)
        if not found or not well(found["State"]) or found["Image"] != image:
            return False
        if found["Config"]["Labels"]["com.docker.compose.config-hash"] != wanted[slot]:
            return False
    return True


def summary() -> str:
    """Which slots serve, each with its release."""
    return ", ".join(f"{slot} ({release_of(slot)})" for slot in serving()) or "nothing"


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
