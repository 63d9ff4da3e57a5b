"""Which releases there are: an image each, and the order in which they served."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from ops import dotenv
from ops.lock import STATE
from ops.run import HERE, Stop, compose, docker

# Newest last: release, image (its id), since (when it last began to serve), rolled_back.
FILE = STATE / "releases.json"
KEPT = 5
DRAFT = "building"


def current() -> str | None:
    """The release that serves, or would: what plain `docker compose` takes from .env."""
    return dotenv.read("RELEASE")


def image(release: str) -> str:
    return f"{project()}-app:{release}"


@lru_cache
def project() -> str:
    config = json.loads(compose("config", "--format", "json").stdout)
    return str(config["name"])


def image_id(release: str) -> str | None:
    """The id of the release's image, None when there is none."""
    found = docker("image", "inspect", "--format", "{{.Id}}", image(release), check=False)
    return found.stdout.strip() or None


def app_folder() -> Path:
    """Where the app's own code is."""
    return (HERE / (os.environ.get("APP_DIR") or dotenv.read("APP_DIR") or ".")).resolve()


def of_checkout() -> str | None:
    """The name of this checkout: the app's revision, with the time when something isn't committed.

    An app with a folder of its own has the stack's revision behind it; without git there is no name.
    """
    app, stack = revision(app_folder()), revision(HERE)
    if app_folder() == HERE or not app or not stack:
        return app
    return f"{app}-{stack[:7]}{stack[12:]}"


def revision(folder: Path) -> str | None:
    """What git calls what is in the folder: its revision, with the time when something isn't committed."""

    def git(*argv: str) -> str | None:
        # Root often looks at a user's clone, which git else refuses to read.
        command = ["git", "-c", "safe.directory=*", *argv]
        try:
            done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if done.returncode else done.stdout.strip()

    # The stack inside somebody else's repository has no revision of its own; an app may be a folder of a larger one.
    if folder == HERE and git("rev-parse", "--show-toplevel") != str(HERE):
        return None
    name = git("rev-parse", "--short=12", "HEAD")
    if name and git("status", "--porcelain", "."):
        name += datetime.datetime.now(datetime.timezone.utc).strftime("-dirty-%Y%m%dT%H%M%S")
    return name


def history() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else []
    return found


def record(release: str, rolled_back: str | None = None) -> None:
    """Write down that `release` serves from now on, and which one it took back, if any."""
    listed = {one["release"]: one for one in history()}
    if rolled_back in listed:
        listed[rolled_back]["rolled_back"] = True
    else:
        listed.pop(release, None)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    entry = listed.setdefault(release, {"release": release})
    if entry.get("image") != image_id(release) or current() != release or "since" not in entry:
        entry.update(image=image_id(release), since=now)
    entry["rolled_back"] = False
    dotenv.replace_file(FILE, json.dumps(list(listed.values()), indent=1))
    dotenv.write({"RELEASE": release}, "The release that serves. Written by ./stack.")


def previous(release: str | None) -> str:
    """The release that served before this one and was not rolled back. Raises Stop when there is none."""
    names = [one["release"] for one in history() if not one["rolled_back"] or one["release"] == release]
    earlier = names[: names.index(release)] if release in names else names
    for name in reversed(earlier):
        if image_id(name):
            return str(name)
    raise Stop("There is no earlier release to go back to: `./stack releases` lists them.")


def prune(running: list[str]) -> None:
    """Remove the images of all releases but the last KEPT, and of what was built and never served."""
    kept = {one["release"] for one in history()[-KEPT:]} | set(running)
    repository = image("").rstrip(":")
    for tag in docker("image", "ls", "--format", "{{.Tag}}", repository).stdout.split():
        if tag not in kept:
            docker("image", "rm", f"{repository}:{tag}", check=False)
    # Somebody else's prune at the same moment makes the engine refuse: the next deploy's does it then.
    docker("image", "prune", "--force", "--filter", f"label=com.docker.compose.project={project()}", check=False)


def listing(slots: dict[str, str | None]) -> list[dict[str, Any]]:
    """Every release with an image, newest first, and which slots run it; `slots` gives each slot's release."""
    rows = []
    for one in reversed(history()):
        name = one["release"]
        runs = [slot for slot, release in slots.items() if release == name]
        if runs or image_id(name):
            rows.append({**one, "current": name == current(), "slots": runs})
    return rows
