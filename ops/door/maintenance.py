"""`./stack maintenance`: 503 and a page for everybody but those who are let in; no slot stops.

A file in traefik/dynamic/ is all that says whether it is on: Traefik reads it at once, and after any restart.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import sys
import time
from typing import Any

from ops import dotenv
from ops.config import Config
from ops.door.ask import ANSWER_SECONDS, through_the_door
from ops.lock import STATE
from ops.run import HERE, Stop, compose, running, step

ROUTES = HERE / "traefik/dynamic/app.yaml"
SWITCH = HERE / "traefik/dynamic/maintenance.yaml"
# This file: a version of the stack without it knows nothing of maintenance.
VERB = "ops/door/maintenance.py"
# The line of ROUTES that a copy has with addresses; at least one, which is nobody's.
NOT_ON, NOBODY = '{{- $maintenance := "" }}{{ $since := "" }}', "0.0.0.0/32"
# The user's page, or else the stack's, and where the container finds it.
PAGES = (HERE / "maintenance.html", HERE / "traefik/maintenance.html")
SHOWN = STATE / "maintenance/index.html"
# Who had it switched on, where no verb did.
BY_HAND = "maintenance"


def switched() -> dict[str, Any] | None:
    """By which verb it was switched on, and who is let in; None while it is off."""
    if not SWITCH.exists():
        return None
    found: dict[str, Any] = json.loads(SWITCH.read_text("utf-8").partition("\n")[0].lstrip("# "))
    return found


def about_maintenance() -> str | None:
    """What to say of it while it is on."""
    found = switched()
    if not found:
        return None
    let_in = f"let in: {', '.join(found['allow'])}" if found["allow"] else "nobody is let in"
    how = "`./stack maintenance off` ends it" if found["by"] == BY_HAND else f"`./stack {found['by']}` is at work"
    return f"Maintenance is on, {let_in}: {how}."


def maintain(config: Config, on: bool, allow: list[str]) -> None:
    """Switch it on, with these addresses and networks let in, or off, and wait until it is so. Raises Stop."""
    if not on and allow:
        raise Stop("--allow is for `./stack maintenance on`.", 2)
    networks = [str(network_of(one)) for words in allow for one in words.split(",")]
    if on:
        switch_on(config, networks, BY_HAND)
    with step("Wait for the front door"):
        if on:
            wait_for_door(config)
        else:
            switch_off(config)
    print(about_maintenance() or "Maintenance is off.")


def network_of(word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(word.strip(), strict=False)
    except ValueError:
        raise Stop(f"--allow {word} is wrong: an address, like 203.0.113.7, or a network.", 2) from None


def switch_on(config: Config, allow: list[str], by: str) -> None:
    """First the routes, which answer 503 by themselves, then what shows the page: each step may be taken again."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    SHOWN.parent.mkdir(exist_ok=True)
    # Its reader is no user of this machine's, and what is above it is closed.
    SHOWN.parent.chmod(0o755)
    page = next(path for path in PAGES if path.exists())
    dotenv.replace_file(SHOWN, page.read_text("utf-8", "surrogateescape"), 0o644)
    for path in (STATE, SHOWN.parent):
        dotenv.give(path, HERE)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    first = json.dumps({"by": by, "allow": allow, "since": now})
    let_in = f'{{{{- $maintenance := "{",".join([NOBODY, *allow])}" }}}}{{{{ $since := "{now}" }}}}'
    dotenv.replace_file(SWITCH, f"# {first}\n{ROUTES.read_text('utf-8').replace(NOT_ON, let_in)}", 0o644)
    shown = compose("up", "--detach", "--no-deps", "--no-build", "--scale", "maintenance=1", "maintenance", check=False)
    if shown.returncode:
        print(f"The page can't be shown, and clients get a bare 503: {shown.stderr.strip()}", file=sys.stderr)


def switch_off(config: Config) -> None:
    """Raises Stop where Traefik does not read it."""
    SWITCH.unlink(missing_ok=True)
    try:
        wait_for_door(config)
    finally:
        # Not before: until Traefik has read it, requests still go to the page.
        compose("rm", "--stop", "--force", "maintenance", check=False)


def end_of_verbs(config: Config) -> None:
    """Switch off what a verb switched on; what was switched on by hand stays."""
    found = switched()
    if not found or found["by"] == BY_HAND:
        return
    try:
        switch_off(config)
    except Stop as failure:
        # The app serves, and that it can't be reached is no reason to go back.
        print(failure, file=sys.stderr)


def refresh(config: Config) -> None:
    """Where it is on: the routes of this version of the stack, the page as it is now, and somebody who shows it."""
    found = switched()
    if found:
        switch_on(config, found["allow"], found["by"])


def wait_for_door(config: Config) -> None:
    """Wait until Traefik, where it runs, has read what is written. Raises Stop."""
    if not running(config.project, "traefik"):
        return
    found, deadline = switched(), time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            if through_the_door(config, "/")[0].headers.get("X-Maintenance") == (found and found["since"]):
                return
            last = "it has not changed"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        if time.monotonic() > deadline:
            raise Stop(f"Traefik has not read {SWITCH.name} within {ANSWER_SECONDS} s: {last}.")
        time.sleep(0.1)
