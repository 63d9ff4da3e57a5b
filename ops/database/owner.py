"""Whose a data volume is: a folder that was renamed keeps its database, and another folder does not get it."""

from __future__ import annotations

import sys
from pathlib import Path

from ops import dotenv
from ops.config import Config
from ops.database.volumes import MOUNTED, DataVolume, holds_database, in_volume, volume_table, volumes
from ops.machine.checks import PROJECT, folder_of_containers
from ops.run import HERE, Stop, docker, inspect, running

# The folder whose stack wrote into the volume, by its path on the host; in the volume, because it outlives containers.
RECORD = ".folder"


def check_volume(config: Config) -> None:
    """Raises Stop with 2 when the volume is another folder's, or when this folder's data may be in another volume.

    The images are built by now. Says so when a stack that has served begins with an empty database.
    """
    if in_use(config):
        return
    name, image = config.volumes["postgres-data"], config.services["postgres"].image
    found = volumes()
    named = dotenv.chosen("POSTGRES_VOLUME") == name or running(config.project, "postgres")
    if named and not holds_database(name, image):
        raise Stop(
            f"POSTGRES_VOLUME is wrong: the volume {name} holds no database. What there is:\n{volume_table(found)}\n"
            "Set it to one of these. `./stack restore --to latest` makes one from the backups. To begin with an empty "
            "database stop Postgres, and remove the line.",
            2,
        )
    if name in found:
        folder = recorded(name, image)
        if folder and not folder.samefile(HERE):
            raise Stop(
                f"The volume {name} is of the stack in {folder}. Set {PROJECT} to another name in {HERE / '.env'}, "
                "and remove POSTGRES_VOLUME there if it is set.",
                2,
            )
        return
    if dotenv.chosen(PROJECT):
        if dotenv.read("RELEASE"):
            print(f"The volume {name} isn't there any more: this begins with an empty database.", file=sys.stderr)
        return
    lost = {other: facts for other, facts in found.items() if nobodys(other, facts, image)}
    if lost:
        raise Stop(
            f"The project {config.project}, which this folder's name makes it, has no database. Some here are of no "
            f"folder any more:\n{volume_table(lost)}\nIf one is yours, because the folder was renamed, name it in "
            f".env: for shop_postgres-data that is {PROJECT}=shop. For a new, empty one: {PROJECT}={config.project}.",
            2,
        )


def in_use(config: Config) -> bool:
    """Whether Postgres runs, on the volume that Compose would start it on: one of a mistyped name would be empty."""
    mounts = (mount for one in inspect(*running(config.project, "postgres")) for mount in one["Mounts"])
    return any(mount.get("Name") == config.volumes["postgres-data"] for mount in mounts)


def refuse_unused(config: Config) -> None:
    """Raises Stop with 2 when Postgres runs on another volume than .env names: another verb would take that for it."""
    if running(config.project, "postgres") and not in_use(config):
        name = config.volumes["postgres-data"]
        raise Stop(f"Postgres runs on another volume than {name}, which .env names: `./stack up` first.", 2)


def nobodys(volume: str, facts: DataVolume, image: str) -> bool:
    """Whether no folder that is there has started containers on the volume's project, or written into the volume."""
    return not folder_of_containers(facts.project) and not recorded(volume, image)


def recorded(volume: str, image: str) -> Path | None:
    """The folder that the volume says it is of, when that is still there."""
    said = in_volume(volume, image, "cat", f"{MOUNTED}/{RECORD}").stdout.strip()
    return Path(said) if said and Path(said, "compose.yaml").exists() else None


def remember(project: str) -> None:
    """Write down in the volume whose it is, and in .env under which name, so that a renamed folder keeps it."""
    for container in running(project, "postgres"):
        write = ("sh", "-c", f'printf %s "$0" > {MOUNTED}/{RECORD}', str(HERE))
        docker("exec", container, *write, check=False)
    if not dotenv.chosen(PROJECT):
        dotenv.write({PROJECT: project}, "This stack's name, whatever the folder's is. Written by ./stack.")
