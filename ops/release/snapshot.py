"""The configuration that serves, where a command has not started all of it: each service as it was started."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ops import dotenv
from ops.config import resolved
from ops.release import slots
from ops.release.slots import SNAPSHOT, hashes, settings_of_snapshot, take_snapshot
from ops.run import Stop

# Parts of a configuration beside its services, and the service whose change shows that the new one is in use.
PARTS = {"networks": "traefik", "volumes": "postgres", "secrets": "", "configs": ""}


def after_deploy(project: str) -> None:
    """Write down what serves once slots and processes were started: what a deploy leaves alone is as it was."""
    if not SNAPSHOT.exists():
        return take_snapshot()
    old, new = json.loads(SNAPSHOT.read_bytes()), json.loads(resolved())
    found, wanted = started_with(project, old), hashes(resolved())
    left = {
        name: old["services"][name]
        for name, settings in found.items()
        if name in new["services"] and settings != wanted.get(name)
    }
    if not write_merged(new, old, {**new["services"], **left}):
        take_snapshot()


def catch_up(project: str) -> None:
    """Write down what plain `docker compose up` has started since: that serves now, and may be gone back to."""
    if not SNAPSHOT.exists():
        return
    old, before = json.loads(SNAPSHOT.read_bytes()), settings_of_snapshot()
    found = started_with(project, old)
    if found.items() <= before.items():
        return
    new, wanted = json.loads(resolved()), hashes(resolved())
    started = {
        name: new["services"][name]
        for name, settings in found.items()
        if before.get(name) != settings == wanted.get(name)
    }
    # What runs may be of neither, as after an update of Compose: what was written down is all that is known then.
    if started:
        write_merged(new, old, {**old["services"], **started}, started)


def write_merged(
    new: dict[str, Any], old: dict[str, Any], services: dict[str, Any], started: Collection[str] = ()
) -> bool:
    """Write down these services, with the parts that they need; return whether Compose takes them together.

    `started`: with what `new` has.
    """
    merged = {**new, "services": services}
    for part, shows in PARTS.items():
        first, then = (old, new) if shows in started else (new, old)
        if part in new or part in old:
            merged[part] = {**first.get(part, {}), **then.get(part, {})}
    if merged == new:
        # As Compose printed it: it is compared with that.
        take_snapshot()
        return True
    if possible := is_possible(merged):
        dotenv.replace_file(SNAPSHOT, json.dumps(merged))
    return possible


def started_with(project: str, old: dict[str, Any]) -> dict[str, str | None]:
    """Compose's hash of what each service that runs was made with, of those that served before."""
    return {name: one.settings for name, one in slots.now(project).items() if one.running and name in old["services"]}


def is_possible(merged: dict[str, Any]) -> bool:
    """Whether Compose takes it: a service may need another that is in neither any more, which is left out then."""
    services = merged["services"]
    for one in services.values():
        if one.get("depends_on"):
            one["depends_on"] = {name: how for name, how in one["depends_on"].items() if name in services}
    try:
        return bool(hashes(json.dumps(merged)))
    except Stop:
        return False
