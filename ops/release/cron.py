"""`./stack cron`: the jobs of the app's crontab, when each ran and will."""

from __future__ import annotations

import json
from typing import Any

from ops.config import Config
from ops.run import Stop, docker, inspect, running


def jobs(config: Config) -> list[dict[str, Any]]:
    """What each cron that runs says of its jobs."""
    found: list[dict[str, Any]] = []
    for name in config.crons:
        for one in inspect(*running(config.project, name)):
            program = (*one["Config"]["Entrypoint"][1:], *one["Config"]["Cmd"], "--list")
            said = docker("exec", one["Id"], *program, check=False)
            # One that has no such program, or ends at this moment, has nothing to say.
            found += json.loads(said.stdout) if not said.returncode else []
    return found


def troubles(config: Config) -> list[str]:
    """A sentence on each job whose last run went wrong, or was left out."""
    return [
        f"Cron: `{one['command']}` {one['trouble']}. `./stack cron` shows the jobs."
        for one in jobs(config)
        if one["trouble"]
    ]


def show_cron(config: Config, as_json: bool) -> None:
    """Raises Stop where no cron runs."""
    for name in config.crons:
        if not running(config.project, name):
            raise Stop(f"{name} doesn't run: `./stack up` starts it.")
    if not config.crons:
        raise Stop("There is no cron in compose.override.yaml: docs/processes.md says how to add one.")
    found = jobs(config)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for one in found:
        last = f"began {one['began']}, {state(one)}" if one["began"] else "has not run yet"
        print(f"{one['schedule']:16}  {one['command']}")
        print(f"    {last}; next {one['next']}")


def state(job: dict[str, Any]) -> str:
    if job["running"] or job["trouble"]:
        return ", ".join(filter(None, ("runs" if job["running"] else None, job["trouble"])))
    return "done"
