"""What must hold before anything starts."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from pathlib import Path

from ops import dotenv
from ops.config import Config, load
from ops.run import HERE, Stop, docker, running

PROJECT = "COMPOSE_PROJECT_NAME"
HANDED_OVER = ("DATABASE_URL", "PGHOST", "PGUSER", "PGDATABASE")
# GB that images, build cache and a young database need.
DISK_GB = 3


def configuration() -> Config:
    """The configuration of this folder's stack, and what would look like a setting and isn't. Raises Stop with 2."""
    config = load()
    for name in unknown_settings():
        print(f".env sets {name}, which is no setting: .env.example lists them.", file=sys.stderr)
    for name in handed_over():
        print(f"app.env sets {name}, so that the app does not get the stack's own.", file=sys.stderr)
    check_folder(config.project)
    return config


def known_settings() -> set[str]:
    """The names in .env.example, which lists them all."""
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", (HERE / ".env.example").read_text(), re.MULTILINE))


def unknown_settings() -> list[str]:
    known = known_settings()
    found = re.findall(r"^\s*(?:export )?(\w+)=", dotenv.text(), re.MULTILINE)
    return [name for name in found if name not in known and not name.startswith(("COMPOSE_", "DOCKER_"))]


def handed_over() -> list[str]:
    """What app.env sets of that which the stack hands over to the app: runtime/environment.py."""
    file = HERE / "app.env"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    names = [line.partition("=")[0].strip() for line in lines]
    return [name for name in names if name in HANDED_OVER or name.startswith("STACK_")]


def check_machine(config: Config) -> None:
    """Room on the disk and free ports. Raises Stop."""
    root = docker("info", "--format", "{{.DockerRootDir}}").stdout.strip()
    free = shutil.disk_usage(root if Path(root).is_dir() else "/").free / 1e9
    if free < DISK_GB:
        raise Stop(
            f"The disk under {root} has {free:.1f} GB left, and this needs {DISK_GB}: "
            "`docker system df` shows what may go."
        )
    if running("traefik"):
        return
    for port in config.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except PermissionError:
                pass  # the engine may, even where we may not
            except OSError:
                name = "HTTP_PORT" if port == config.ports[0] else "HTTPS_PORT"
                raise Stop(f"Port {port} is taken by another program: stop that, or set {name} in .env.") from None


def check_folder(project: str) -> None:
    """Raises Stop with 2 when another folder has containers under this project's name.

    That is the folder's where nothing else is set: two of one name would share containers and a database.
    """
    other = folder_of_containers(project)
    if other and not other.samefile(HERE):
        raise Stop(
            f"The project {project} is the stack in {other}: two folders can't share a name. "
            f"Set {PROJECT} to another one in {HERE / '.env'}.",
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
