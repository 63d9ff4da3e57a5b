"""Which releases there are: an image each, and the order in which they served."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ops import dotenv
from ops.lock import STATE
from ops.run import HERE, Stop, docker, in_containerd

HISTORY = STATE / "releases.json"
# Releases whose images stay.
KEPT = 5
DRAFT = "building"
# What is in no image, as git's pathspec: an operator who adds a worker or a hook has no other release for that.
OPERATORS = tuple(f":(exclude){name}" for name in ("compose.override.y*ml", "hooks", "maintenance.html"))
# What runtime/Dockerfile runs, as the build cache describes it: no other build on the machine has that layer. From the
# beginning of the line, for a "cached mount" of the same command is what the next build need not fetch and compile.
LAYER = 'description~="^mount / from exec .*/mnt/stack/install.sh /mnt/stack"'


@dataclass(frozen=True)
class Release:
    """One that serves or has served."""

    name: str
    # The id of its image.
    image: str | None
    # When it last began to serve.
    since: str
    rolled_back: bool = False

    def row(self) -> dict[str, Any]:
        """As releases.json and `./stack releases --json` have it."""
        return {"release": self.name, "image": self.image, "since": self.since, "rolled_back": self.rolled_back}


def current() -> str | None:
    """The release that serves, or would: what plain `docker compose` takes from .env."""
    return dotenv.read("RELEASE")


def image_name(project: str, release: str) -> str:
    """What compose.yaml calls it."""
    return f"{project}-app:{release}"


def image_id(project: str, release: str) -> str | None:
    """The id of the release's image, None when there is none."""
    return next(iter(image_ids(image_name(project, release))), None)


def image_ids(*names: str) -> list[str]:
    """The ids of the images; [] when one of them is missing."""
    found = docker("image", "inspect", "--format", "{{.Id}}", *names, check=False)
    return [] if found.returncode else found.stdout.split()


def app_folder() -> Path:
    """Where the app's own code is."""
    return (HERE / (dotenv.chosen("APP_DIR") or ".")).resolve()


def of_checkout() -> str | None:
    """The name of this checkout: the app's revision, and of what isn't committed a name by its content.

    An app with a folder of its own has the stack's revision behind it; without git there is no name.
    """
    app, stack = revision(app_folder()), revision(HERE)
    if app_folder() == HERE or not app or not stack:
        return app
    return f"{app}-{stack[:7]}{stack[12:]}"


def is_of(release: str, checkout: str) -> bool:
    """Whether it was built of this checkout, on whatever base."""
    return bool(re.fullmatch(rf"{re.escape(checkout)}(-base-\w+)?", release))


def git_says(folder: Path, *argv: str) -> str | None:
    """What a command of git's prints in the folder; None where it fails, or there is no git."""
    # Root often looks at a user's clone, which git else refuses to read.
    command = ["git", "-c", "safe.directory=*", *argv]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Names and contents are bytes.
    return None if done.returncode else os.fsdecode(done.stdout).strip()


def revision(folder: Path) -> str | None:
    """What git calls what is in the folder: its revision, and of what isn't committed a name by its content."""
    git = partial(git_says, folder)
    # The stack inside somebody else's repository has no revision of its own; an app may be a folder of a larger one.
    if folder == HERE and git("rev-parse", "--show-toplevel") != str(HERE):
        return None
    name = git("rev-parse", "--short=12", "HEAD")
    where = (".", *(OPERATORS if folder == HERE else ()))
    if name and git("status", "--porcelain", *where):
        content = hashlib.sha256(os.fsencode(str(git("diff", "HEAD", "--binary", *where))))
        for path in str(git("ls-files", "-z", "--others", "--exclude-standard", *where)).split("\0"):
            content.update(os.fsencode(path))
            with contextlib.suppress(OSError):
                content.update((folder / path).read_bytes() if path else b"")
        name += f"-dirty-{content.hexdigest()[:8]}"
    return name


def history() -> list[Release]:
    """Newest last."""
    found = json.loads(HISTORY.read_text()) if HISTORY.exists() else []
    return [Release(one["release"], one["image"], one["since"], one["rolled_back"]) for one in found]


def record(project: str, release: str, rolled_back: str | None = None) -> None:
    """Write down that `release` serves from now on, and which one it took back, if any."""
    listed = {one.name: one for one in history()}
    before, image = listed.get(release), image_id(project, release)
    if rolled_back in listed:
        listed[rolled_back] = replace(listed[rolled_back], rolled_back=True)
    # Last, or those that failed after it would be the last five, whose images stay.
    listed.pop(release, None)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    since = before.since if before and before.image == image and current() == release else now
    listed[release] = Release(release, image, since)
    dotenv.replace_file(HISTORY, json.dumps([one.row() for one in listed.values()], indent=1))
    dotenv.write({"RELEASE": release}, "The release that serves. Written by ./stack.")


def previous(project: str, release: str | None) -> str:
    """The release that served before this one and was not rolled back. Raises Stop when there is none."""
    names = [one.name for one in history() if not one.rolled_back or one.name == release]
    earlier = names[: names.index(release)] if release in names else names
    for name in reversed(earlier):
        if image_id(project, name):
            if name != earlier[-1]:
                print(f"{removed(earlier[-1])} Now back to {name}.", file=sys.stderr)
            return name
    if earlier:
        raise Stop(removed(earlier[-1]))
    raise Stop("There is no earlier release to go back to: `./stack releases` lists them.")


def removed(release: str) -> str:
    """What to say of a release whose image somebody has removed, and how it is built again."""
    gone = f"The image of release {release} was removed from this machine, by a prune perhaps."
    code = re.match(r"[0-9a-f]{12}(?!-dirty)", release)
    if not code:
        return f"{gone} What it was built from was never committed."
    folder = "" if app_folder() == HERE else f"-C {app_folder()} "
    return f"{gone} To build it again: git {folder}checkout {code[0]} && ./stack deploy"


def remove_images(project: str, running: Iterable[str]) -> None:
    """All but those of the last KEPT releases and of the `running` ones."""
    kept = {one.name for one in history()[-KEPT:]} | set(running)
    repository = image_name(project, "").rstrip(":")
    for tag in docker("image", "ls", "--format", "{{.Tag}}", repository).stdout.split():
        if tag not in kept:
            docker("image", "rm", f"{repository}:{tag}", check=False)
    # Somebody else's prune at the same moment makes the engine refuse: the next deploy's does it then.
    docker("image", "prune", "--force", "--filter", f"label=com.docker.compose.project={project}", check=False)
    # Each change of the app makes the stack's layer anew, 41 MB. Of those the cache keeps what an image that stays has.
    # With containerd's image store Engine 28.5 finds nothing in its cache any more once a part of it was pruned: all
    # would be built anew, Postgres's image too, and be another. There the engine's own limit of the cache has to do.
    if not in_containerd():
        docker("builder", "prune", "--force", "--filter", LAYER, check=False)


def listing(project: str, running: dict[str, str]) -> list[tuple[Release, list[str]]]:
    """Every release with an image, newest first, and what runs it: `running` gives each service's release."""
    found = [(one, [service for service, name in running.items() if name == one.name]) for one in reversed(history())]
    return [(one, runs) for one, runs in found if runs or image_id(project, one.name)]


def known_revisions(image: str) -> dict[str, Any]:
    """`heads`, `graph` and `versions` as runtime/environment.py has them; {} without Alembic, or without the image."""
    argv = ("run", "--rm", "--network", "none", "--entrypoint", "/opt/stack/bin/revisions", image)
    done = docker(*argv, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def unknown_revision(project: str, revision: str | None) -> list[str]:
    """A warning when the release that serves doesn't know the schema's revision; none when there is nothing to know."""
    release = current()
    graph = known_revisions(image_name(project, release)).get("graph") if release and revision else None
    if not graph or set(str(revision).split()) <= graph.keys():
        return []
    return [
        f"The schema is at revision {revision}, which the release {release} doesn't know: deploy the release that made "
        "it, or a newer one."
    ]
