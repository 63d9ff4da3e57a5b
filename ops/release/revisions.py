"""What the app's Alembic knew when its image was built, and whether that is the schema of a database."""

from __future__ import annotations

import json
from typing import Any

from ops.release import releases
from ops.run import docker


def known(image: str) -> dict[str, Any]:
    """`heads`, `graph` and `versions` as runtime/environment.py has them; {} without Alembic, or without the image."""
    argv = ("run", "--rm", "--network", "none", "--entrypoint", "/opt/stack/bin/revisions", image)
    done = docker(*argv, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def unknown(project: str, revision: str | None) -> list[str]:
    """A warning when the release that serves doesn't know the schema's revision; none when there is nothing to know."""
    release = releases.current()
    graph = known(releases.image_name(project, release)).get("graph") if release and revision else None
    if not graph or set(str(revision).split()) <= graph.keys():
        return []
    return [
        f"The schema is at revision {revision}, which the release {release} doesn't know: deploy the release that it "
        "is of, or a newer one."
    ]
