"""Which stack this folder's is: its Compose project.

A project is known by its name, which is the folder's where nothing else is set: two folders of one name would share
containers and a database, and a renamed folder would begin with an empty one.
"""

from __future__ import annotations

from pathlib import Path

from ops.run import HERE, Stop, docker

NAME = "COMPOSE_PROJECT_NAME"


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
