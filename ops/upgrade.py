"""`./stack upgrade-postgres`: the database under a new major version of Postgres, in a new volume."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ops import slots
from ops.backup import answer, backup, size, verify
from ops.build import build_all
from ops.checks import configuration
from ops.images import base_images
from ops.install import ensure_docker
from ops.lock import lock
from ops.restore import ONE_SHOT, SETTING, confirm, exists, switch
from ops.run import Stop, compose, docker, running, step

# The services whose images are of Postgres's major version.
SERVICES = ("postgres", "backup")


def major(found: dict[str, Any]) -> int:
    """Postgres's major version, from what `docker inspect` says of an image or a container."""
    environment = dict(line.partition("=")[::2] for line in found["Config"]["Env"])
    return int(environment["PG_MAJOR"])


def versions() -> tuple[int, int] | None:
    """The major version that runs, and that of the image; None while Postgres doesn't run."""
    names = running("postgres")
    if not names:
        return None
    image = compose("config", "--images", "postgres").stdout.split()[0]
    [container] = json.loads(docker("inspect", *names).stdout)
    [built] = json.loads(docker("image", "inspect", image).stdout)
    return major(container), major(built)


def refuse_another_major() -> None:
    """Raises Stop when the image is of another major version than what runs. Where nothing runs, `tune` sees to it."""
    old, new = versions() or (0, 0)
    if old != new:
        raise Stop(
            f"Postgres {old} runs, and POSTGRES_IMAGE is of {new}: ./stack upgrade-postgres goes from one to "
            "the other. Nothing was changed.",
            2,
        )


def upgrade(yes: bool) -> None:
    """Raises Stop; the old database serves then."""
    begun = time.monotonic()
    ensure_docker()
    config = configuration()
    base_images(config)
    with lock("upgrade-postgres"):
        before = {str(config["services"][service]["image"]): image_of(service) for service in SERVICES}
        try:
            with step("Build the images"):
                release = build_all()
            majors = versions()
            assert majors
            old = config["volumes"]["postgres-data"]["name"]
            new = f"{config['name']}_postgres-{majors[1]}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
            show(majors, old, new)
            if not yes:
                confirm()
            # While what runs is still the old one.
            backup()
            verify()
        except BaseException:
            put_back(before)
            raise
        switch(config, old, new, lambda: copy(new), lambda: put_back(before))
        slots.keep(release)
    print(f"\nPostgres {majors[1]} serves, after {time.monotonic() - begun:.1f} s; its backups begin with a full one.")
    if exists(old):
        print(f"Postgres {majors[0]}'s database is in the volume {old}. When you don't need it: docker volume rm {old}")


def show(majors: tuple[int, int], old: str, new: str) -> None:
    if majors[0] == majors[1]:
        raise Stop(f"Postgres {majors[0]} runs, and POSTGRES_IMAGE is of that version too: nothing is to be done.")
    if majors[0] > majors[1]:
        raise Stop(f"Postgres {majors[0]} runs, and POSTGRES_IMAGE is of {majors[1]}: there is no way back.", 2)
    print(f"Postgres {majors[0]} in the volume {old}, which stays as it is,")
    print(f"to Postgres {majors[1]} in the new volume {new}: a dump, restored.")
    print("First a backup, verified. Then the app answers 503 until it is done.", flush=True)


def copy(volume: str) -> None:
    """Fill the volume with a server of the new version, from the one that runs."""
    os.environ[SETTING] = volume
    with step("Copy the database"):
        copied = answer(*ONE_SHOT, "postgres", "upgrade")
    print(f"{copied['rows']} rows in {copied['tables']} tables, {size(copied['bytes'])}.")


def image_of(service: str) -> str:
    """The id of the image that the service runs. Raises Stop when it doesn't run."""
    names = running(service)
    if not names:
        raise Stop(f"{service} must run to be upgraded: ./stack up, with POSTGRES_IMAGE as it was.")
    return docker("inspect", "--format", "{{.Image}}", *names).stdout.strip()


def put_back(images: dict[str, str]) -> None:
    """Make what Compose starts by these names the images with these ids again."""
    for name, image in images.items():
        docker("tag", image, name)
