"""`./stack migrate --sql` and `./stack migration "message"`: what migrations would do, and a new one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ops import dotenv
from ops.config import Config, override, parse
from ops.database.contract import calls, calls_that_take_away, taken_away
from ops.lock import denied
from ops.machine.throwaway import throwaway
from ops.release import releases
from ops.release.build import prepared
from ops.release.releases import app_folder, image_name
from ops.run import HERE, ONE_SHOT, Stop, compose, docker, running, step

# The tag of this checkout's image, beside the one that runs.
TAG = "migration"
# Seconds that a rollback waits for what it only mentions.
AT_MOST = 20
ALEMBIC = (*ONE_SHOT, "migrate", "/opt/stack/bin/run", "alembic")
UNSEEN = (
    "What autogenerate doesn't see is written by hand, a new value of an enum for one: "
    """op.execute("ALTER TYPE mood ADD VALUE 'glad'")."""
)


def print_sql() -> None:
    """The statements that this checkout's migrations would run on the database as it is now."""
    config = prepared()
    if dotenv.own_postgres() and not running(config.project, "postgres"):
        raise Stop("Postgres isn't running, so there is no schema to start from: `./stack up` first.")
    override("RELEASE", TAG)
    image = image_name(config.project, TAG)
    try:
        with step("Build this checkout's image"):
            compose("build", "--quiet", "migrate")
        known = releases.known_revisions(image)
        if not known:
            raise Stop("The app has no Alembic configuration, so that nobody knows what its migrations would do.")
        with step("Look where the schema is"):
            current, found = pending()
    finally:
        docker("image", "rm", image, check=False)
    deadline = config.services["migrate"].environment["STACK_MIGRATE_DEADLINE"] or 300
    # As runtime/migrate.py has them run.
    timeouts = f"SET lock_timeout = '1s';\nSET statement_timeout = '{deadline}s';\n\n"
    if found:
        print(timeouts + found)
    else:
        print(f"-- Nothing to do: the schema is at {', '.join(current) or 'its base'}.")


def pending() -> tuple[list[str], str]:
    """Where the schema is, and what the migrations of the release in `override` would run on it. Raises Stop."""
    # Verbose, each revision begins a line, whatever an app prints at import.
    current = re.findall(r"^Rev: (\S+)", compose(*ALEMBIC, "current", "--verbose").stdout, re.MULTILINE)
    return current, statements(current[0] if current else "base")


def statements(start: str, seconds: float | None = None) -> str:
    """What the migrations of the release in `override` would run from there. Raises Stop, late TimeoutExpired."""
    printed = compose(*ALEMBIC, "upgrade", f"{start}:heads", "--sql", seconds=seconds).stdout
    found = re.search(r"(?:BEGIN;$|^-- Running upgrade).*", printed, re.MULTILINE | re.DOTALL)
    return found.group().strip() if found and "-- Running upgrade" in printed else ""


def refuse_to_take_away(config: Config, release: str, current: str | None) -> None:
    """Raises Stop with 2 when the release's migrations take away what the `current` one may use; nothing is touched.

    What isn't known before it runs is said, and goes on.
    """
    command = config.services["migrate"].environment["STACK_MIGRATE"]
    if command == "none":
        return
    known = releases.known_revisions(image_name(config.project, release))
    if not known:
        if command:
            print(f"What MIGRATE={command} takes away is not known before it runs.", file=sys.stderr)
        return
    before = releases.known_revisions(image_name(config.project, current or "latest")).get("graph", {})
    if set(known["heads"]) <= before.keys():
        return
    with step("Look what the migrations would take away"):
        try:
            taken = taken_away(pending()[1])
        except Stop as unknown:
            print(f"What the migrations take away is not known: {str(unknown).splitlines()[-1]}", file=sys.stderr)
            return
    if taken:
        raise Stop(
            "\n    ".join(["The migrations take away what the release that serves may use:", *taken])
            + "\nDeploy a release that doesn't use it, and then: ./stack deploy --contract (docs/database.md).",
            2,
        )


def mention_what_is_gone(project: str, release: str, current: str | None) -> None:
    """Say what migrations took away since this release, before it serves again: it may use that."""
    before, now = (releases.known_revisions(image_name(project, one or "latest")) for one in (release, current))
    if not before.get("heads") or set(now.get("heads", ())) <= before["graph"].keys():
        return
    with step("Look what the migrations since then have taken away"):
        override("RELEASE", current)
        try:
            taken = taken_away(statements(before["heads"][0], AT_MOST))
        except (Stop, subprocess.TimeoutExpired) as unknown:
            print(f"What they have taken away is not known: {str(unknown).splitlines()[-1]}", file=sys.stderr)
            return
    if taken:
        print("\n    ".join([f"{release} will not find what has been taken away since:", *taken]), file=sys.stderr)


def write_revision(message: str) -> None:
    """A revision of what the models have and the migrations' schema has not, found on a Postgres of its own."""
    config = prepared()
    with tempfile.TemporaryDirectory() as scratch, throwaway(config, "migration") as own:
        with step("Build your image"):
            own("build", "--quiet", "migrate", "postgres")
        image = parse(own("config", "--format", "json").stdout).services["migrate"].image
        found = releases.known_revisions(image)
        if not found:
            raise Stop("The app has no Alembic configuration to write a revision for.")
        versions = app_folder() / found["versions"]
        if not versions.exists():
            # git keeps no empty folder.
            versions.mkdir(parents=True)
            dotenv.give(versions, versions.parent)
        if not os.access(versions, os.W_OK | os.X_OK):
            raise denied(versions)
        with step("Start a Postgres of its own"):
            own("up", "--detach", "--wait", "postgres")
        folder = copy_for_all(versions, Path(scratch))
        inside = docker("image", "inspect", "--format", "{{.Config.WorkingDir}}", image).stdout.strip()
        mount = ("--volume", f"{folder}:{inside}/{found['versions']}")
        migrate = (*ONE_SHOT, *mount, "migrate")
        alembic = (*migrate, "/opt/stack/bin/run", "alembic")
        with step("Migrate it, and compare it with the models"):
            own(*alembic, "upgrade", "heads")
            own(*alembic, "revision", "--autogenerate", *next_number(versions), "--message", message)
        written = [path for path in folder.glob("*.py") if not (versions / path.name).exists()]
        if not written or not calls(written[0].read_text()):
            raise Stop(f"There is nothing to write: the migrations make what the models say. {UNSEEN}")
        target, text = versions / written[0].name, written[0].read_text()
        if taken := calls_that_take_away(text):
            print("\n    ".join(["THIS TAKES AWAY WHAT A RELEASE THAT SERVES MAY USE:", *taken]), file=sys.stderr)
            print("`./stack deploy` refuses it without --contract: docs/database.md.", file=sys.stderr)
        target.write_text(text)
        dotenv.give(target, versions)
    ruff = HERE / ".venv/bin/ruff"
    if ruff.exists():
        subprocess.run([str(ruff), "check", "--quiet", "--fix", str(target)], cwd=HERE)
        subprocess.run([str(ruff), "format", "--quiet", str(target)], cwd=HERE)
    print(f"Written: {os.path.relpath(target, HERE)}. Read it: autogenerate takes a rename for a drop and an add.")
    print(UNSEEN)


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
    texts = [path.read_text() for path in versions.glob("*.py")]
    names = [name for text in texts for name in re.findall(r"^revision\b[^=]*= *['\"](\w+)", text, re.MULTILINE)]
    if not all(re.fullmatch(r"\d{4}", name) for name in names):
        return ()
    return ("--rev-id", f"{max(map(int, names), default=0) + 1:04}")
