"""Postgres's major version: the one that runs, and the one of the image."""

from __future__ import annotations

import json
from typing import Any

from ops.config import Config
from ops.run import Stop, docker, running

# The services whose images are of it.
SERVICES = ("postgres", "backup")


def versions(config: Config) -> tuple[int, int] | None:
    """The major version that runs, and that of the image; None while Postgres doesn't run."""
    names = running("postgres")
    if not names:
        return None
    [container] = json.loads(docker("inspect", *names).stdout)
    [image] = json.loads(docker("image", "inspect", config.services["postgres"].image).stdout)
    return major(container), major(image)


def major(found: dict[str, Any]) -> int:
    """From what `docker inspect` says of an image or a container."""
    environment = dict(line.partition("=")[::2] for line in found["Config"]["Env"])
    return int(environment["PG_MAJOR"])


def refuse_another(config: Config) -> None:
    """Raises Stop when the image is of another major version than what runs. Where nothing runs, `tune` sees to it."""
    old, new = versions(config) or (0, 0)
    if old != new:
        # Or plain `docker compose up` would start them on a database that they can't read.
        put_back(running_images(config))
        raise Stop(
            f"Postgres {old} runs, and POSTGRES_IMAGE is of {new}: ./stack upgrade-postgres goes from one to "
            "the other. Nothing was changed.",
            2,
        )


def running_images(config: Config) -> dict[str, str]:
    """The ids of the images that the services run, by the names that Compose starts them by."""
    found = {}
    for service in SERVICES:
        for container in running(service):
            image = docker("inspect", "--format", "{{.Image}}", container).stdout.strip()
            found[config.services[service].image] = image
    return found


def put_back(images: dict[str, str]) -> None:
    """Make what Compose starts by these names the images with these ids again."""
    for name, image in images.items():
        docker("tag", image, name)
