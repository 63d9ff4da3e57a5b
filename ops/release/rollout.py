"""Replacing the slots one at a time: each while the other serves, with a way back."""

from __future__ import annotations

import sys
import time
from typing import Any

from ops.config import Config, override
from ops.door import ask
from ops.release import processes, releases, slots
from ops.release.slots import SLOTS, Container
from ops.run import GONE, Stop, compose, docker, step

# Seconds that a release may take to come back, however short DEPLOY_TIMEOUT is.
BACK_SECONDS = 120
# Seconds between two looks at a slot that starts: each is an exec into it.
INTERVAL = 0.5


def start(config: Config, ends: dict[str, int] | None, files: tuple[str, ...] = ()) -> None:
    """Start all but the backups, and wait for the slots and the app's processes as a deploy does. Raises Stop.

    By the same clock: Docker's checks would give a slot 90 s more than DEPLOY_TIMEOUT, and its first deploy would fail.
    `ends` as for `wait_until_ready`, `files` as for `slots.start_app`.
    """
    before = slots.now(config.project)
    slots.start_app(before, config.processes, files)
    found = slots.now(config.project)
    for slot in SLOTS:
        wait_until_ready(slot, found.get(slot), config.deploy_timeout, before.get(slot), ends)
    restarts = {one.id: one.restarts for one in before.values()}
    for name in config.processes:
        processes.wait_until_healthy(config, name, config.deploy_timeout, restarts)


def roll_out(release: str, config: Config) -> dict[str, Any]:
    """Replace the slots one at a time; return the last answer. A failure brings back what served, and raises."""
    project, here = config.project, slots.containers(config.project)
    found = {one.service: one for one in here}
    before = [slot for slot in SLOTS if slots.serves(found.get(slot))]
    # What an interrupted rollout left on its way is no release to go back to, unless it is all that serves.
    running = [found[slot].release for slot in before]
    old = releases.current() if releases.current() in running or not running else running[0]
    touched: list[str] = []
    ends = slots.ended(here)
    # Before any page can refer to them. The pages among them come last.
    processes.bring_files(config)
    answer: dict[str, Any] = {}
    # The one that serves last: until then it is all there is. The processes once the release is known to serve.
    for slot in [*sorted(SLOTS, key=before.__contains__), *config.processes, *config.files]:
        touched.append(slot)
        try:
            with step(f"Replace {slot}"):
                if slot in config.files:
                    processes.run_once(project, slot, processes.NOT_PLACED)
                    continue
                if slot in config.processes:
                    processes.replace_process(config, slot, config.deploy_timeout)
                    continue
                answer = replace_slot(slot, config, config.deploy_timeout, ends)
                for one in slots.containers(project):
                    if one.service in touched:
                        slots.refuse_ends(one.service, one, slots.workers(one), ends)
        except (Stop, KeyboardInterrupt) as failure:
            if isinstance(failure, Stop):
                print(failure, file=sys.stderr)
                slots.show_evidence(project, slot)
            if old:
                back_to_release(old, touched, config)
            if isinstance(failure, Stop):
                raise Stop(f"Release {release} does not serve. Serving now: {slots.serving_now(project)}.") from None
            raise
    return answer


def back_to_release(release: str, touched: list[str], config: Config) -> None:
    """Bring the slots that a failed rollout touched back to `release`, the one first that it was just replacing."""
    override("RELEASE", release)
    served = slots.served_services()
    # Settings may have changed too, so what counts is how it was started. Compose finds no change in it.
    known = served and served["app-1"]["image"] == releases.image_name(config.project, release)
    files = slots.AS_SERVED if known else ()
    for slot in reversed(touched):
        try:
            with step(f"Back to {release} in {slot}"):
                # It has served before, and there is nothing to go back to from here: all the time that it may need.
                # The one that was being replaced may look well and be on its way out: told to stop, it drains, and
                # the engine goes on with that when whoever asked for it is gone.
                timeout = max(config.deploy_timeout, BACK_SECONDS)
                if slot in SLOTS:
                    replace_slot(slot, config, timeout, None, files, slot == touched[-1])
                elif known and not served.get(slot, {"scale": 0}).get("scale", 1):
                    compose("rm", "--stop", "--force", slot)
                elif slot in config.files:
                    processes.run_once(config.project, slot, processes.NOT_PLACED, files)
                else:
                    processes.replace_process(config, slot, timeout, files)
        except Stop as failure:
            print(failure, file=sys.stderr)
            slots.show_evidence(config.project, slot)


def replace_slot(
    slot: str,
    config: Config,
    timeout: int,
    ends: dict[str, int] | None,
    files: tuple[str, ...] = (),
    doubtful: bool = False,
) -> dict[str, Any]:
    """Bring the slot to what Compose would start, and wait until Traefik routes to it; return its first answer.

    A `doubtful` slot gets another container also when it has one that looks as it should. `ends` as for
    `wait_until_ready`. Raises Stop. Touches nothing while the other slot, if it serves, isn't routed to.
    """
    found = [one for one in slots.containers(config.project) if one.service in SLOTS]
    own = [one for one in found if one.service == slot]
    others = [one for one in found if one.service != slot and slots.serves(one)]
    for other in others:
        wait_until_routed(other, config)
    # What an interrupted Compose left: where there are two containers it confuses them over their names.
    left = own if doubtful and others else own[:-1]
    for one in left:
        docker("stop", one.id, despite=GONE)
        docker("rm", one.id, despite=GONE)
    before = None if own == left else own[-1]
    # Nothing to drain where nothing has ever served.
    timeout_of_stop = () if slots.serves(before) else ("--timeout", "1")
    compose(*files, "up", "--detach", "--no-deps", "--no-build", *timeout_of_stop, slot)
    ready = wait_until_ready(slot, slots.now(config.project).get(slot), timeout, before, ends)
    return wait_until_routed(ready, config)


def wait_until_ready(
    slot: str, found: Container | None, timeout: int, before: Container | None, ends: dict[str, int] | None
) -> Container:
    """Wait until all of the slot's workers serve; return its container. Raises Stop when they don't in time, or one
    has ended.

    `found` is its container, `before` the one that it had; `ends` what had ended by then, by container. None: the
    release has served before, and one worker that serves is enough, whatever became of the others.
    """
    deadline = time.monotonic() + timeout
    while found and found.status != "exited":
        said = slots.workers(found)
        if ends is not None:
            slots.refuse_ends(slot, found, said, ends)
        if found.restarts > (before.restarts if before and found.id == before.id else 0):
            raise Stop(f"{slot} crashed.")
        if (said.all_serve or (ends is None and said.served)) if said else found.healthy:
            return found
        if time.monotonic() > deadline:
            raise Stop(f"{slot} was not ready within DEPLOY_TIMEOUT={timeout} s.")
        time.sleep(INTERVAL)
        found = slots.again(found)
    raise Stop(f"{slot} ended.")


def wait_until_routed(found: Container, config: Config) -> dict[str, Any]:
    """Wait until a request from outside was answered by this slot; return what `answered` does. Raises Stop."""
    # A container's host name is the beginning of its id.
    return answered(config, f"{found.service} did not answer through Traefik", {"slot": found.id[:12]}, found.service)


def answered(config: Config, what: str, wanted: dict[str, str], *named: str) -> dict[str, Any]:
    """As `ask.wait_for`; {} when the app has too much to do for that, and the slots, or all, are routed to."""
    try:
        return ask.wait_for(config, what, wanted)
    except ask.Late as late:
        found = slots.now(config.project)
        if not all(slots.is_routed(found.get(slot)) for slot in named or SLOTS):
            raise
        print(f"{late} It is routed to, and has more to do than it can: going on.", file=sys.stderr)
        return {}
