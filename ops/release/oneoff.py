"""`./stack run -- COMMAND`, `shell` and `psql`: one program beside the app, with what the serving release has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from ops import dotenv
from ops.config import project_name
from ops.database.switch import RUN, under_way
from ops.release.slots import SNAPSHOT
from ops.run import HERE, Stop, docker, handling, running

RUNNER = "/opt/stack/bin/run"
# In the image of an app there may be no better one.
SHELL = ["sh", "-c", 'command -v bash > /dev/null && exec bash "$@"; exec sh "$@"', "sh"]


def run_program(command: list[str], owner: bool = False) -> None:
    """Run the command in a container of its own, with the image and settings that serve. Raises Stop unless it is 0.

    `owner`: as the role that owns the schema.
    """
    if not command:
        raise Stop("Say what to run: ./stack run -- python -m shop.report", 2)
    refuse_without_database()
    project, service = project_name(), RUN
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(template(service, owner), file)
        file.flush()
        where = ("--project-name", project, "--project-directory", str(HERE), "--file", file.name)
        name = f"{project}-run-{os.getpid()}"
        once = ("--rm", "--no-deps", "--name", name, *terminal())
        attached("compose", *where, "run", *once, service, *command, container=name)


def template(service: str, owner: bool) -> dict[str, Any]:
    """What serves, with a service that is like a slot, or for `owner` like the migration, and runs one program."""
    if not SNAPSHOT.exists():
        raise Stop("There is no release yet: `./stack up` makes the first.")
    serving: dict[str, Any] = json.loads(SNAPSHOT.read_bytes())
    like = {**serving["services"]["migrate" if owner else "app-1"], "init": True, "restart": "no", "scale": 0}
    like.pop("build", None)
    like.update(entrypoint=[RUNNER], command=None, depends_on={}, healthcheck={"disable": True})
    serving["services"][service] = like
    return serving


def open_psql(arguments: list[str], owner: bool = False) -> None:
    """Postgres's own client, as the app's role. Raises Stop unless it ends with 0."""
    refuse_without_database()
    if not dotenv.own_postgres():
        raise Stop("DATABASE_URL names another Postgres, and this is for the stack's own: use that one's client.", 2)
    containers = running(project_name(), "postgres")
    if not containers:
        raise Stop("Postgres doesn't run: `./stack up` starts the stack.")
    user = "owner" if owner else "app"
    options = ("--interactive",) if terminal() else ("--interactive", "--tty")
    attached("exec", *options, "--user", user, containers[0], "psql", "--dbname", "app", *arguments)


def refuse_without_database() -> None:
    """Raises Stop while a restore or an upgrade is under way: what is written then may be lost."""
    journal = under_way()
    if journal:
        raise Stop(
            f"`./stack {journal.verb}` is under way, and what a program writes now may be lost. Wait for its end."
        )


def terminal() -> tuple[str, ...]:
    """Compose's option for a program that has no terminal."""
    return () if sys.stdin.isatty() and sys.stdout.isatty() else ("-T",)


def attached(*argv: str, container: str | None = None) -> None:
    """Run docker with this terminal; its exit code is the program's. Raises Stop with it, unless it is 0.

    `container`: whose program gets the signals; Compose would leave it, and end.
    """
    # A terminal's Ctrl-C must reach the program alone. With a terminal of its own it does.
    process = subprocess.Popen(["docker", *argv], cwd=HERE, start_new_session=bool(terminal()))

    def pass_on(number: int, _frame: object) -> None:
        kill = ("kill", "--signal", str(int(number)))
        if not container or docker(*kill, container, check=False).returncode:
            process.send_signal(number)

    with handling(pass_on):
        code = process.wait()
    if code:
        raise Stop("", code if code > 0 else 128 - code)
