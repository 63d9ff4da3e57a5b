"""Whose app it is: the user's folder, and the Dockerfile that builds it."""

from __future__ import annotations

import os
import re

from ops import dotenv
from ops.release.releases import app_folder
from ops.run import HERE, Stop

# The stack's own Dockerfiles, by the file that calls for each, in this order.
OWN = {"uv.lock": "uv", "poetry.lock": "poetry", "requirements.txt": "requirements", "pyproject.toml": "pyproject"}


def choose_dockerfile() -> None:
    """Write down which Dockerfile builds an app that has none. Raises Stop with 2 where there is nothing to go by."""
    folder = app_folder()
    if dotenv.chosen("APP_IMAGE") or dotenv.chosen("APP_DOCKERFILE"):
        return
    if not folder.is_dir():
        raise Stop(f"APP_DIR names {folder}, and there is no such folder.", 2)
    if (folder / "Dockerfile").exists():
        return
    own = next((name for file, name in OWN.items() if (folder / file).exists()), None)
    if own == "pyproject" and not re.search(r"^\[project\]", (folder / "pyproject.toml").read_text(), re.MULTILINE):
        # Where Poetry's projects had their dependencies before the standard was there.
        own = "poetry"
    if not own:
        raise Stop(
            f"{folder} has neither a Dockerfile nor one of {', '.join(OWN)}: nobody knows how to build the app.", 2
        )
    # From the app's folder on, as Compose reads it.
    path = os.path.relpath(HERE / f"runtime/dockerfiles/{own}.Dockerfile", folder)
    dotenv.write({"APP_DOCKERFILE": path}, "Your app has no Dockerfile: the stack's own. Written by ./stack.")
