"""Replacing the slots one at a time: each while the other serves, with a way back."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ops.door import ask
from ops.release import releases
from ops.release.slots import (
    SLOTS,
    SNAPSHOT,
    container,
    containers,
    ended,
    is_healthy,
    is_routed,
    refuse_ends,
    release_of,
    serves,
    serving,
    show_evidence,
    summary,
    workers,
)
from ops.run import HERE, Stop, compose, docker, step

# Seconds that a release may take to come back, however short DEPLOY_TIMEOUT is.
PATIENCE = 120


def roll_out(release: str, config: dict[str, Any]) -> dict[str, Any]:
    """Replace the slots one at a time; return the last answer. A failure brings back what served, and raises."""
    before, timeout = serving(), int(config["x-deploy"]["timeout"])
    # What an interrupted rollout left on its way is no release to go back to, unless it is all that serves.
    running = [release_of(slot) for slot in before]
    old = releases.current() if releases.current() in running or not running else running[0]
    touched: list[str] = []
    ends = ended()
    answer: dict[str, Any] = {}
    # The one that serves last: until then it is all there is.
    for slot in sorted(SLOTS, key=before.__contains__):
        touched.append(slot)
        try:
            with step(f"Replace {slot}"):
                answer = update(slot, config, timeout, ends)
                for one in touched:
                    if found := container(one):
                        refuse_ends(one, found, workers(found), ends)
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
                update(slot, config, max(timeout, PATIENCE), None, files, doubtful=slot == touched[-1])
        except Stop as failure:
            print(failure, file=sys.stderr)
            show_evidence(slot)


def update(
    slot: str,
    config: dict[str, Any],
    timeout: int,
    ends: dict[str, int] | None,
    files: tuple[str, ...] = (),
    doubtful: bool = False,
) -> dict[str, Any]:
    """Bring the slot to what Compose would start, and wait until Traefik routes to it; return its first answer.

    A `doubtful` slot gets another container also when it has one that looks as it should. `ends` as for
    `wait_until_ready`. Raises Stop. Touches nothing while the other slot, if it serves, isn't routed to.
    """
    others = set(serving()) - {slot}
    for other in others:
        wait_until_routed(other, config)
    # What an interrupted Compose left: where there are two containers it confuses them over their names.
    left = containers(slot) if doubtful and others else containers(slot)[:-1]
    for one in left:
        docker("stop", one["Id"])
        docker("rm", one["Id"])
    before = container(slot)
    # Nothing to drain where nothing has ever served.
    timeout_of_stop = () if serves(before) else ("--timeout", "1")
    compose(*files, "up", "--detach", "--no-deps", "--no-build", *timeout_of_stop, slot)
    wait_until_ready(slot, timeout, before, ends)
    return wait_until_routed(slot, config)


def wait_until_ready(slot: str, timeout: int, before: dict[str, Any] | None, ends: dict[str, int] | None) -> None:
    """Wait until all of the slot's workers serve. Raises Stop when they don't in time, or when one has ended.

    `before` is the container that it had; `ends` what had ended by then, by container. None: the release has served
    before, and one worker that serves is enough, whatever became of the others.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = container(slot)
        if not found or found["State"]["Status"] == "exited":
            raise Stop(f"{slot} ended.")
        said = workers(found)
        if ends is not None:
            refuse_ends(slot, found, said, ends)
        same = before and found["Id"] == before["Id"]
        if found["RestartCount"] > (before["RestartCount"] if before and same else 0):
            raise Stop(f"{slot} crashed.")
        if (said.all_serve or (ends is None and said.served)) if said else is_healthy(found):
            return
        if time.monotonic() > deadline:
            raise Stop(f"{slot} was not ready within DEPLOY_TIMEOUT={timeout} s.")
        time.sleep(0.2)


def wait_until_routed(slot: str, config: dict[str, Any]) -> dict[str, Any]:
    """Wait until a request from outside was answered by this slot; return what `answer` does. Raises Stop."""
    found = container(slot)
    if not found:
        raise Stop(f"{slot} has no container.")
    # A container's host name is the beginning of its id.
    return answer(config, f"{slot} did not answer through Traefik", {"slot": found["Id"][:12]}, slot)


def answer(config: dict[str, Any], what: str, wanted: dict[str, str], *slots: str) -> dict[str, Any]:
    """As `ask.wait_for`; {} when the app has too much to do for that, and the slots, or all, are routed to."""
    try:
        return ask.wait_for(config, what, wanted)
    except ask.Late as late:
        if not all(is_routed(container(slot)) for slot in slots or SLOTS):
            raise
        print(f"{late} It is routed to, and has more to do than it can: going on.", file=sys.stderr)
        return {}
