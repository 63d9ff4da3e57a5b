"""What must hold before anything starts."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from ops import dotenv
from ops.config import published
from ops.machine import clone
from ops.run import HERE, Stop, compose, docker, running
from ops.settings import check_settings

HANDED_OVER = ("DATABASE_URL", "PGHOST", "PGUSER", "PGDATABASE")
# GB that images, build cache and a young database need.
DISK_GB = 3


def configuration() -> dict[str, Any]:
    """compose.yaml with its settings filled in, as Compose reads it. Raises Stop with 2 when a setting is wrong."""
    done = compose("config", "--format", "json", check=False)
    if done.returncode:
        raise Stop(f"A setting is wrong: {done.stderr.strip().splitlines()[-1]}", 2)
    # Compose's warnings, of a `$` in a value for one, and what would look like a setting and isn't.
    print(done.stderr, end="", file=sys.stderr)
    for name in unknown_settings():
        print(f".env sets {name}, which is no setting: .env.example lists them.", file=sys.stderr)
    for name in handed_over():
        print(f"app.env sets {name}, so that the app does not get the stack's own.", file=sys.stderr)
    config: dict[str, Any] = json.loads(done.stdout)
    check_settings(config["services"]["traefik"]["environment"])
    clone.check_folder(config["name"])
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


def check_machine(config: dict[str, Any]) -> None:
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
    for port in published(config):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except PermissionError:
                pass  # the engine may, even where we may not
            except OSError:
                name = "HTTP_PORT" if port == published(config)[0] else "HTTPS_PORT"
                raise Stop(f"Port {port} is taken by another program: stop that, or set {name} in .env.") from None
