"""Which stack this folder's is: its Compose project, and the volume that holds its data.

A project is known by its name, which is the folder's where nothing else is set: two folders of one name would share
containers and a database, and a renamed folder would begin with an empty one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ops import dotenv
from ops.run import HERE, Stop, docker, running
from ops.volumes import MOUNTED, in_volume, project, table, volumes

NAME = "COMPOSE_PROJECT_NAME"
# The folder whose stack wrote into the volume, by its path on the host; in the volume, because it outlives containers.
RECORD = ".folder"


def check_folder(project: str) -> None:
    """Raises Stop with 2 when another folder has containers under this project's name."""
    other = folder_of_containers(project)
    if other and not other.samefile(HERE):
        raise Stop(
            f"The project {project} is the stack in {other}: two folders can't share a name. "
            f"Set {NAME} to another one in {HERE / '.env'}.",
            2,
        )


def folder_of_containers(project: str) -> Path | None:
    """The folder that the project's containers were started from, when it is still there."""
    label = '{{.Label "com.docker.compose.project.working_dir"}}'
    ours = f"label=com.docker.compose.project={project}"
    for folder in docker("ps", "--all", "--filter", ours, "--format", label).stdout.splitlines():
        if folder and Path(folder, "compose.yaml").exists():
            return Path(folder)
    return None


def check_volume(config: dict[str, Any]) -> None:
    """Raises Stop with 2 when the volume is another folder's, or when this folder's data may be in another volume.

    The images are built by now. Says so when a stack that has served begins with an empty database.
    """
    if running("postgres"):
        return
    name, image = config["volumes"]["postgres-data"]["name"], config["services"]["postgres"]["image"]
    found = volumes()
    if name in found:
        folder = recorded(name, image)
        if folder and not folder.samefile(HERE):
            raise Stop(
                f"The volume {name} is of the stack in {folder}. Set {NAME} to another name in {HERE / '.env'}, and "
                "remove POSTGRES_VOLUME there if it is set.",
                2,
            )
        return
    if dotenv.read("POSTGRES_VOLUME") == name:
        raise Stop(
            f"POSTGRES_VOLUME={name} in .env is a volume that isn't there. What there is:\n{table(found)}\n"
            "Set it to one of these. `./stack restore --to latest` makes one from the backups. To begin with an empty "
            "database remove the line.",
            2,
        )
    if os.environ.get(NAME) or dotenv.read(NAME):
        if dotenv.read("RELEASE"):
            print(f"The volume {name} isn't there any more: this begins with an empty database.", file=sys.stderr)
        return
    lost = {other: facts for other, facts in found.items() if nobodys(other, facts, image)}
    if lost:
        raise Stop(
            f"The project {config['name']}, which this folder's name makes it, has no database. Some here are of no "
            f"folder any more:\n{table(lost)}\nIf one is yours, because the folder was renamed: set {NAME} in .env to "
            f"what stands before its `_`. For a new, empty one: {NAME}={config['name']}.",
            2,
        )


def nobodys(volume: str, facts: dict[str, Any], image: str) -> bool:
    """Whether no folder that is there has started containers on the volume's project, or written into the volume."""
    return not folder_of_containers(project(facts)) and not recorded(volume, image)


def recorded(volume: str, image: str) -> Path | None:
    """The folder that the volume says it is of, when that is still there."""
    said = in_volume(volume, image, "cat", f"{MOUNTED}/{RECORD}").stdout.strip()
    return Path(said) if said and Path(said, "compose.yaml").exists() else None


def remember() -> None:
    """Write down in the volume whose it is, and in .env under which name, so that a renamed folder keeps it."""
    for container in running("postgres"):
        write = ("sh", "-c", f'printf %s "$0" > {MOUNTED}/{RECORD}', str(HERE))
        docker("exec", container, *write, check=False)
        if not dotenv.read(NAME) and not os.environ.get(NAME):
            label = '{{index .Config.Labels "com.docker.compose.project"}}'
            name = docker("inspect", "--format", label, container).stdout.strip()
            dotenv.write({NAME: name}, "This stack's name, whatever the folder's is. Written by ./stack.")
