"""What must hold before anything starts."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
from pathlib import Path

from ops import dotenv
from ops.config import Config, load
from ops.run import HERE, Stop, docker, engine_facts, in_containerd, inspect, running

PROJECT = "COMPOSE_PROJECT_NAME"
HANDED_OVER = ("DATABASE_URL", "PGHOST", "PGUSER", "PGDATABASE")
# In an address: postgresql://app:secret@db.example.com/app
PASSWORD = re.compile(r"://[^\s:@/]*:[^\s@/]+@")
# A line that sets something, as Compose takes it; a line of base64 that was wrapped, after 64 or 76, and its end.
VARIABLE = re.compile(r"\s*[A-Za-z_][\w.-]*=")
WRAPPED, PADDED = re.compile(r"[A-Za-z0-9+/]{60}\s*$"), re.compile(r"[A-Za-z0-9+/]+={1,2}")
# GB that images, build cache and a young database need; and what a build needs where all of them are there.
DISK_GB, BUILD_GB = 3, 1
# Where a containerd of the machine's own keeps what it has: https://github.com/containerd/containerd/blob/main/docs/ops.md
CONTAINERD = "/var/lib/containerd"


def configuration() -> Config:
    """The configuration of this folder's stack; what is odd about its files is said. Raises Stop with 2."""
    check_app_env()
    config = load()
    for sentence in oddities():
        print(sentence, file=sys.stderr)
    check_folder(config.project)
    return config


def oddities() -> list[str]:
    """What in .env, app.env and this shell may not be what their user thinks."""
    said = [f".env sets {name}, which is no setting: .env.example lists them." for name in unknown_settings()]
    said += [f"app.env sets {name}, so that the app does not get the stack's own." for name in handed_over()]
    said += [f"app.env has quotes around {name}: they are part of the value, leave them out." for name in in_quotes()]
    for name in sorted(known_settings() & set(os.environ)):
        value, in_file = os.environ[name], dotenv.read(name) or ""
        if in_file != value:
            words = f"wins over {in_file} in .env" if in_file else ".env does not: it ends with this shell"
            said.append(PASSWORD.sub("://…@", f"This shell sets {name}={value}, which {words}."))
    traefiks = HERE / "traefik.env"
    files = (
        (dotenv.FILE, PASSWORD.search(dotenv.text())),
        (HERE / "app.env", app_env()),
        (traefiks, traefiks.exists()),
    )
    for file, secret in files:
        if secret and file.stat().st_mode & 0o004:
            said.append(f"Everybody on this machine can read {file.name}: chmod 600 {file.name}")
    return said


def check_app_env() -> None:
    """Raises Stop with 2 for a line that Compose would take for a variable of its own: a value's second one."""
    before = ""
    for number, line in enumerate(app_env(), 1):
        # The padding of base64 is no `=` of a variable's; the line before such an end is full.
        cut = WRAPPED.search(before) and PADDED.fullmatch(line.strip())
        if line.strip() and not line.lstrip().startswith("#") and (cut or not VARIABLE.match(line)):
            raise Stop(
                f"app.env, line {number}, sets no variable: NAME=value. A value is one line: give a key or a "
                "certificate as base64 in one, `base64 --wrap=0 key.pem`.",
                2,
            )
        before = line


def known_settings() -> set[str]:
    """The names in .env.example, which lists them all."""
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", (HERE / ".env.example").read_text(), re.MULTILINE))


def unknown_settings() -> list[str]:
    known = known_settings()
    for file in HERE.glob("compose.override.y*ml"):
        # What it reads is its user's own.
        known.update(re.findall(r"\$\{?(\w+)", file.read_text(errors="replace")))
    found = re.findall(r"^\s*(?:export )?(\w+)=", dotenv.text(), re.MULTILINE)
    return [name for name in found if name not in known and not name.startswith(("COMPOSE_", "DOCKER_"))]


def in_quotes() -> list[str]:
    """What app.env sets as a shell's file would: Compose hands over the quotes too."""
    return [name for name, _ in re.findall(r"^\s*(\w+)=(['\"]).*\2\s*$", "\n".join(app_env()), re.MULTILINE)]


def handed_over() -> list[str]:
    """What app.env sets of that which the stack hands over to the app: runtime/environment.py."""
    names = [line.partition("=")[0].strip() for line in app_env()]
    return [name for name in names if name in HANDED_OVER or name.startswith("STACK_")]


def app_env() -> list[str]:
    file = HERE / "app.env"
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def check_room(pull: bool = False) -> None:
    """Raises Stop where the disk has no room for a build; `pull`: and for base images, other than those here."""
    facts, needed = engine_facts(), DISK_GB if pull or not dotenv.read("RELEASE") else BUILD_GB
    # Where containerd's image store has the images, it is on a disk of its own perhaps.
    stores = [CONTAINERD] if in_containerd() else []
    roots = [root for root in (facts["DockerRootDir"], *stores) if Path(root).is_dir()]
    free, root = min((shutil.disk_usage(root).free / 1e9, root) for root in roots or ["/"])
    if free < needed:
        raise Stop(
            f"The disk under {root} has {free:.1f} GB left, and a build needs {needed}. `docker system df` shows what "
            "takes it, `docker builder prune` removes what earlier builds left."
        )


def check_ports(config: Config) -> None:
    """Raises Stop where another program has one."""
    ours = published(config.project)
    for port, address in zip(config.ports, config.addresses):
        if port in ours:
            continue
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # Another address may have another program on that port.
                probe.bind(("" if address == "127.0.0.1" else address, port))
            except PermissionError:
                pass  # the engine may, even where we may not
            except OSError as error:
                name = "HTTP_PORT" if port == config.ports[0] else "HTTPS_PORT"
                if error.errno == errno.EADDRNOTAVAIL:
                    raise Stop(f"{name}={address}:{port} is wrong: this machine has no such address.", 2) from None
                raise Stop(f"Port {port} is taken by another program: stop that, or set {name} in .env.") from None


def published(project: str) -> set[int]:
    """The ports of this machine that the stack's own Traefik has."""
    bindings = [one["HostConfig"]["PortBindings"] or {} for one in inspect(*running(project, "traefik"))]
    return {int(one["HostPort"] or 0) for found in bindings for two in found.values() for one in two}


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
