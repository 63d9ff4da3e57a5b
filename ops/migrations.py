"""`./stack migrate --sql` and `./stack migration "message"`: what migrations would do, and a new one."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from ops.checks import configuration
from ops.images import base_images
from ops.install import ensure_docker
from ops.run import HERE, Stop, compose, docker, running, step
from ops.throwaway import throwaway

VERSIONS = HERE / "migrations/versions"
# The tag of this checkout's image, beside the one that runs.
TAG = "migration"


def print_sql() -> None:
    """The statements that this checkout's migrations would run on the database as it is now."""
    ensure_docker()
    config = configuration()
    base_images(config)
    if not running("postgres"):
        raise Stop("Postgres isn't running, so there is no schema to start from: `./stack up` first.")
    os.environ["RELEASE"] = TAG
    alembic = ("run", "--rm", "--no-deps", "-T", "migrate", "alembic")
    try:
        with step("Build this checkout's image"):
            compose("build", "--quiet", "migrate")
        with step("Look where the schema is"):
            current = re.findall(r"^(\w+)(?: \(.*\))?$", compose(*alembic, "current").stdout, re.MULTILINE)
        span = f"{current[0]}:head" if current else "head"
        printed = compose(*alembic, "upgrade", span, "--sql").stdout
    finally:
        docker("image", "rm", f"{config['name']}-app:{TAG}", check=False)
    print(printed.strip() if "-- Running upgrade" in printed else f"-- Nothing to do: the schema is at {current[0]}.")


def write_revision(message: str) -> None:
    """A revision of what the models have and the migrations' schema has not, found on a Postgres of its own."""
    ensure_docker()
    config = configuration()
    base_images(config)
    numbers = [int(path.name.split("_")[0]) for path in VERSIONS.glob("[0-9]*_*.py")]
    with tempfile.TemporaryDirectory() as scratch, throwaway(config, "migration") as own:
        # The migration's user reads and writes here, whatever the rights of the checkout.
        Path(scratch).chmod(0o755)
        folder = Path(scratch, "versions")
        folder.mkdir()
        folder.chmod(0o777)
        for old in VERSIONS.glob("*.py"):
            (folder / old.name).write_text(old.read_text())
            (folder / old.name).chmod(0o644)
        mount = ("--volume", f"{folder}:/code/migrations/versions")
        alembic = ("run", "--rm", "--no-deps", "-T", *mount, "migrate", "alembic")
        with step("Start a Postgres of its own"):
            own("build", "--quiet", "migrate", "postgres")
            own("up", "--detach", "--wait", "postgres")
        with step("Migrate it, and compare it with the models"):
            own(*alembic, "upgrade", "head")
            revision = ("revision", "--autogenerate", "--rev-id", f"{max(numbers, default=0) + 1:04}")
            own(*alembic, *revision, "--message", message)
        written = [path for path in folder.glob("*.py") if not (VERSIONS / path.name).exists()]
        if not written:
            raise Stop("There is nothing to write: the migrations make what the models say.")
        target = VERSIONS / written[0].name
        target.write_text(written[0].read_text())
    ruff = HERE / ".venv/bin/ruff"
    if ruff.exists():
        subprocess.run([str(ruff), "check", "--quiet", "--fix", str(target)], cwd=HERE)
        subprocess.run([str(ruff), "format", "--quiet", str(target)], cwd=HERE)
    print(f"Written: {target.relative_to(HERE)}. Read it: autogenerate takes a rename for a drop and an add.")
