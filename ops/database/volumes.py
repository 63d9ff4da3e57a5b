"""`./stack volumes`: the databases that are on this machine, those that a restore or an upgrade left included."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ops.run import Stop, confirm, docker
from ops.words import since

# Where the Postgres image has the volume.
MOUNTED = "/var/lib/postgresql"
DATA = "label=com.docker.compose.volume=postgres-data"


def volumes() -> dict[str, dict[str, Any]]:
    """All data volumes of stacks on this machine, as `docker volume inspect` has them, by name."""
    names = docker("volume", "ls", "--quiet", "--filter", DATA).stdout.split()
    found = json.loads(docker("volume", "inspect", *names, check=False).stdout or "[]") if names else []
    return {one["Name"]: one for one in found}


def project(facts: dict[str, Any]) -> str:
    """The Compose project that made the volume."""
    return str(facts["Labels"]["com.docker.compose.project"])


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a volume: its name, size and age."""
    if not found:
        return "  no volume of any stack"
    listed = json.loads(docker("system", "df", "--verbose", "--format", "{{json .Volumes}}").stdout)
    sizes = {one["Name"]: one["Size"] for one in listed}
    lines = []
    for name, facts in found.items():
        # Python 3.9 reads no Z.
        age = since(facts["CreatedAt"].replace("Z", "+00:00"))
        lines.append(f"  {name}  {sizes.get(name, '?')}, {age} old")
    return "\n".join(lines)


def in_volume(volume: str, image: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the Postgres image with the volume, which it can only read."""
    mounted = ("--volume", f"{volume}:{MOUNTED}:ro", "--entrypoint", argv[0])
    return docker("run", "--rm", "--network", "none", *mounted, image, *argv[1:], check=False)


def holds_database(volume: str, image: str) -> bool:
    """Whether there is such a volume with a database in it."""
    if docker("volume", "inspect", volume, check=False).returncode:
        return False
    return not in_volume(volume, image, "sh", "-c", f"ls {MOUNTED}/*/docker/PG_VERSION").returncode


def show_volumes(config: dict[str, Any], remove: str | None, yes: bool) -> None:
    """List this stack's databases, or remove one that isn't in use. Raises Stop."""
    name, image = config["volumes"]["postgres-data"]["name"], config["services"]["postgres"]["image"]
    found = {volume: facts for volume, facts in volumes().items() if project(facts) == config["name"]}
    if remove:
        if remove not in found:
            raise Stop(f"{remove} is no volume of this stack: `./stack volumes` lists them.", 2)
        if remove == name:
            raise Stop(f"{remove} holds the database that is in use: `docker compose down --volumes` removes it.", 2)
        print(table({remove: found[remove]}))
        confirm("Remove it, and all that is in it?", yes)
        docker("volume", "rm", remove)
        return
    print(table(found))
    for volume in found:
        if volume == name:
            print(f"{volume} is in use.")
        elif in_volume(volume, image, "test", "-e", f"{MOUNTED}/.held-by").returncode:
            print(f"{volume}: no server has run on it, as far as is known.")
        else:
            print(f"{volume} was in use before: `./stack volumes --remove {volume}`, when you don't need it.")
