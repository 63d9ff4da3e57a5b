"""A Compose project that is made for one task and removed after it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol

from ops import dotenv
from ops.config import Config
from ops.machine.checks import known_settings
from ops.machine.images import build_settings
from ops.run import HERE, Stop, docker


class Compose(Protocol):
    def __call__(self, *argv: str, check: bool = ...) -> Any: ...


@contextlib.contextmanager
def throwaway(config: Config, purpose: str) -> Iterator[Compose]:
    """Give what runs Compose on a project of its own, and remove that project, its volumes included, at the end.

    Of the settings it gets those alone that say what is built: nothing in .env or the shell that belongs to the running
    stack, its volumes, ports, networks or release, reaches it. Raises Stop.
    """
    # A name that nobody gives a stack of theirs: all that is of it is removed.
    name = f"{config.project}-throwaway-{purpose}"
    settings = known_settings()
    environment = {
        key: value for key, value in os.environ.items() if key not in settings and not key.startswith("COMPOSE_")
    }
    with tempfile.NamedTemporaryFile("w", suffix=".env") as file:
        file.write("".join(f"{key}={dotenv.quoted(value)}\n" for key, value in build_settings(config).items()))
        file.flush()
        # compose.yaml alone: what an override file names may be anybody's.
        where = ("--project-name", name, "--project-directory", str(HERE), "--file", str(HERE / "compose.yaml"))

        def compose(*argv: str, check: bool = True) -> Any:
            return docker("compose", *where, "--env-file", file.name, *argv, check=check, environment=environment)

        own = json.loads(compose("config", "--format", "json").stdout)
        refuse_others_volumes(own, name)
        # Not by --rmi: the app's image may be somebody else's, APP_IMAGE.
        images = [one["image"] for one in own["services"].values() if one["image"].startswith(f"{name}-")]

        def remove() -> None:
            compose("down", "--volumes", "--remove-orphans", "--timeout", "1", check=False)
            docker("image", "rm", *sorted(set(images)), check=False)

        # What an earlier one that was killed left behind.
        remove()
        try:
            yield compose
        finally:
            remove()


def refuse_others_volumes(config: dict[str, Any], name: str) -> None:
    """Raises Stop unless every volume is the project's own, for all of them are removed with it."""
    for volume in config.get("volumes", {}).values():
        if volume.get("external") or not volume["name"].startswith(f"{name}_"):
            raise Stop(f"The volume {volume['name']} is not of the throwaway project {name}: nothing was started.")
