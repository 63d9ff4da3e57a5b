"""Postgres's major version: the one that runs, and the one of the image."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from ops.config import Config
from ops.run import Stop, docker, inspect, running, uninterrupted

# The services whose images are of it.
SERVICES = ("postgres", "backup")
# The tag under which an upgrade, and an `up` or a `restore` that builds, keep what runs. By its id alone
# containerd's image store forgets an image as soon as a build takes its name.
WAY_BACK = "before-upgrade"


def versions(config: Config) -> tuple[int, int] | None:
    """The major version that runs, and that of POSTGRES_IMAGE; None while Postgres doesn't run."""
    found = inspect(*running(config.project, "postgres"))
    if not found:
        return None
    postgres = config.services["postgres"]
    [image] = json.loads(docker("image", "inspect", postgres.arguments.get("POSTGRES_IMAGE", postgres.image)).stdout)
    return major(found[0]), major(image)


def major(found: dict[str, Any]) -> int:
    """From what `docker inspect` says of an image or a container."""
    environment = dict(line.partition("=")[::2] for line in found["Config"]["Env"])
    return int(environment["PG_MAJOR"])


def refuse_another(config: Config) -> None:
    """Raises Stop when POSTGRES_IMAGE is of another major version than runs. Where none runs, postgres/tune refuses.

    Before the build: plain `docker compose up` would start what that makes on a database that it can't read.
    """
    old, new = versions(config) or (0, 0)
    if old != new:
        raise Stop(
            f"Postgres {old} runs, and POSTGRES_IMAGE is of {new}: ./stack upgrade-postgres goes from one to "
            "the other. Nothing was changed.",
            2,
        )


def keep_images(config: Config, services: Iterable[str]) -> dict[str, str]:
    """Tag the images that the services run; return the tags by the names that Compose starts them by.

    Nothing for one that doesn't run, or whose image is not there any more.
    """
    found = {}
    for service in services:
        for container in inspect(*running(config.project, service)):
            kept = f"{config.project}-{service}:{WAY_BACK}"
            if not docker("tag", container["Image"], kept, check=False).returncode:
                found[config.services[service].image] = kept
    return found


def put_back(images: dict[str, str]) -> None:
    """Make what Compose starts by these names what was kept under these tags."""
    for name, kept in images.items():
        # Somebody's prune may have taken it.
        docker("tag", kept, name, check=False)


@contextlib.contextmanager
def put_back_on_failure(images: dict[str, str]) -> Iterator[None]:
    """A failure within puts the images back, and forgets their tags."""
    try:
        yield
    except BaseException:
        with uninterrupted():
            put_back(images)
            forget_images(images)
        raise


def forget_images(images: dict[str, str]) -> None:
    for kept in images.values():
        docker("image", "rm", kept, check=False)
