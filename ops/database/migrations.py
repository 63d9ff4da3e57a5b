"""`./stack migrate --sql` and `./stack migration "message"`: what migrations would do, and a new one."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ops.config import override, parse
from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.install import ensure_docker
from ops.machine.throwaway import throwaway
from ops.release import revisions
from ops.release.app import choose_dockerfile
from ops.release.releases import app_folder, image_name
from ops.run import HERE, ONE_SHOT, Stop, compose, docker, running, step

# The tag of this checkout's image, beside the one that runs.
TAG = "migration"


def print_sql() -> None:
    """The statements that this checkout's migrations would run on the database as it is now."""
    ensure_docker()
    config = configuration()
    base_images(config)
    choose_dockerfile()
    if not running("postgres"):
        raise Stop("Postgres isn't running, so there is no schema to start from: `./stack up` first.")
    override("RELEASE", TAG)
    image = image_name(config.project, TAG)
    alembic = (*ONE_SHOT, "migrate", "/opt/stack/bin/run", "alembic")
    try:
        with step("Build this checkout's image"):
            compose("build", "--quiet", "migrate")
        known = revisions.known(image)
        if not known:
            raise Stop("The app has no Alembic configuration, so that nobody knows what its migrations would do.")
        with step("Look where the schema is"):
            # An app may print at import, too.
            words = re.findall(r"^(\S+)(?: \(.*\))?$", compose(*alembic, "current").stdout, re.MULTILINE)
            current = [word for word in words if word in known["graph"]]
        span = f"{current[0]}:heads" if current else "heads"
        printed = compose(*alembic, "upgrade", span, "--sql").stdout
    finally:
        docker("image", "rm", image, check=False)
    deadline = config.services["migrate"].environment["STACK_MIGRATE_DEADLINE"] or 300
    # As runtime/migrate.py has them run.
    timeouts = f"SET lock_timeout = '1s';\nSET statement_timeout = '{deadline}s';\n\n"
    found = re.search(r"^(BEGIN;|-- Running upgrade).*", printed, re.MULTILINE | re.DOTALL)
    if found and "-- Running upgrade" in printed:
        print(timeouts + found.group().strip())
    else:
        print(f"-- Nothing to do: the schema is at {', '.join(current) or 'its base'}.")


def write_revision(message: str) -> None:
    """A revision of what the models have and the migrations' schema has not, found on a Postgres of its own."""
    ensure_docker()
    config = configuration()
    base_images(config)
    choose_dockerfile()
    with tempfile.TemporaryDirectory() as scratch, throwaway(config, "migration") as own:
        with step("Start a Postgres of its own"):
            own("build", "--quiet", "migrate", "postgres")
            own("up", "--detach", "--wait", "postgres")
        image = parse(own("config", "--format", "json").stdout).services["migrate"].image
        found = revisions.known(image)
        if not found:
            raise Stop("The app has no Alembic configuration to write a revision for.")
        versions = app_folder() / found["versions"]
        folder = copy_for_all(versions, Path(scratch))
        inside = docker("image", "inspect", "--format", "{{.Config.WorkingDir}}", image).stdout.strip()
        mount = ("--volume", f"{folder}:{inside}/{found['versions']}")
        migrate = (*ONE_SHOT, *mount, "migrate")
        alembic = (*migrate, "/opt/stack/bin/run", "alembic")
        with step("Migrate it, and compare it with the models"):
            own(*alembic, "upgrade", "heads")
            own(*alembic, "revision", "--autogenerate", *next_number(versions), "--message", message)
        written = [path for path in folder.glob("*.py") if not (versions / path.name).exists()]
        if not written or is_empty(written[0].read_text()):
            raise Stop("There is nothing to write: the migrations make what the models say.")
        target = versions / written[0].name
        target.write_text(written[0].read_text())
    ruff = HERE / ".venv/bin/ruff"
    if ruff.exists():
        subprocess.run([str(ruff), "check", "--quiet", "--fix", str(target)], cwd=HERE)
        subprocess.run([str(ruff), "format", "--quiet", str(target)], cwd=HERE)
    print(f"Written: {os.path.relpath(target, HERE)}. Read it: autogenerate takes a rename for a drop and an add.")


def copy_for_all(versions: Path, scratch: Path) -> Path:
    """A copy of the revisions in which the migration's user reads and writes, whatever the rights of the checkout."""
    scratch.chmod(0o755)
    folder = scratch / "versions"
    folder.mkdir()
    folder.chmod(0o777)
    for old in versions.glob("*.py"):
        (folder / old.name).write_text(old.read_text())
        (folder / old.name).chmod(0o644)
    return folder


def next_number(versions: Path) -> tuple[str, ...]:
    """The option for a revision's name, where they are numbered: 0001, 0002."""
    names = [path.name.split("_")[0] for path in versions.glob("[!_]*.py")]
    if not all(re.fullmatch(r"\d{4}", name) for name in names):
        return ()
    return ("--rev-id", f"{max(map(int, names), default=0) + 1:04}")


def is_empty(revision: str) -> bool:
    """Whether its upgrade() does nothing."""
    functions = [one for one in ast.parse(revision).body if isinstance(one, ast.FunctionDef) and one.name == "upgrade"]
    statements = [one for function in functions for one in function.body]
    return all(isinstance(one, (ast.Pass, ast.Expr)) and not is_call(one) for one in statements)


def is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
