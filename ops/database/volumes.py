"""`./stack volumes`: the databases that are on this machine, those that a restore or an upgrade left included."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from ops import dotenv
from ops.config import Config
from ops.run import Stop, confirm, docker, forget_opened, has_volume, last_line, run_with
from ops.words import since

# Where the Postgres image has the volume.
MOUNTED = "/var/lib/postgresql"
DATA = "label=com.docker.compose.volume=postgres-data"


@dataclass(frozen=True)
class DataVolume:
    """What Docker knows of one: the Compose project that made it, and when, as fromisoformat() takes it."""

    project: str
    created: str


def volumes() -> dict[str, DataVolume]:
    """All data volumes of stacks on this machine, by name."""
    names = docker("volume", "ls", "--quiet", "--filter", DATA).stdout.split()
    found = json.loads(docker("volume", "inspect", *names, check=False).stdout or "[]") if names else []
    made_by = "com.docker.compose.project"
    # Python 3.9 reads no Z.
    return {one["Name"]: DataVolume(one["Labels"][made_by], one["CreatedAt"].replace("Z", "+00:00")) for one in found}


def volume_table(found: dict[str, DataVolume]) -> str:
    """A line a volume: its name, size and age."""
    if not found:
        return "  no volume of any stack"
    listed = json.loads(docker("system", "df", "--verbose", "--format", "{{json .Volumes}}").stdout)
    sizes = {one["Name"]: one["Size"] for one in listed}
    return "\n".join(f"  {name}  {sizes.get(name, '?')}, {since(one.created)} old" for name, one in found.items())


def in_volume(volume: str, image: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the Postgres image with the volume, which it can only read."""
    mounted = ("--volume", f"{volume}:{MOUNTED}:ro", "--entrypoint", argv[0])
    return run_with(volume, *mounted, image, *argv[1:], check=False)


def holds_database(volume: str, image: str) -> bool:
    """Whether there is such a volume with a database in it. Raises Stop where nobody can look."""
    if not has_volume(volume):
        return False
    looked = in_volume(volume, image, "sh", "-c", f"ls {MOUNTED}/*/docker/PG_VERSION")
    # docker's own failures are 125 and more, on a full disk for one: that is no "there is none".
    if looked.returncode > 2:
        raise Stop(f"The volume {volume} can't be looked into: {last_line(looked.stderr)}")
    return not looked.returncode


def show_volumes(config: Config, remove: str | None, yes: bool) -> None:
    """List this stack's databases, or remove one that isn't in use. Raises Stop."""
    name, image = config.volumes["postgres-data"], config.services["postgres"].image
    used = name if dotenv.own_postgres() else None
    found = {volume: facts for volume, facts in volumes().items() if facts.project == config.project}
    if remove:
        if remove not in found:
            raise Stop(f"{remove} is no volume of this stack: `./stack volumes` lists them.", 2)
        if remove == used:
            raise Stop(f"{remove} holds the database that is in use: `docker compose down --volumes` removes it.", 2)
        print(volume_table({remove: found[remove]}))
        confirm("Remove it, and all that is in it?", yes)
        forget_opened(remove)
        docker("volume", "rm", remove)
        return
    print(volume_table(found))
    for volume in found:
        if volume == used:
            print(f"{volume} is in use.")
            continue
        looked = in_volume(volume, image, "test", "-e", f"{MOUNTED}/.held-by")
        # docker's own failures, as above.
        if looked.returncode > 1:
            print(f"{volume} can't be looked into: {last_line(looked.stderr)}")
        elif looked.returncode:
            print(f"{volume}: no server has run on it, as far as is known.")
        else:
            print(f"{volume} was in use before: `./stack volumes --remove {volume}`, when you don't need it.")
