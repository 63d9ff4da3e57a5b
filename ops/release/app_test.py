"""`./stack test --app`: the app's own tests, in its image, against a Postgres of their own."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.install import ensure_docker
from ops.machine.throwaway import throwaway
from ops.release.app import choose_dockerfile
from ops.release.releases import app_folder
from ops.run import HERE, ONE_SHOT, Stop, docker, step

# What a test may do that the app may not: write beside the code, load packages, take memory.
OVERRIDE = """\
services:
  migrate:
    read_only: false
    cap_add: [CHOWN, DAC_OVERRIDE, FOWNER]
    tmpfs: !reset []
    mem_limit: !reset 0
    pids_limit: 4096
"""
# Beside app.env, and over it: what must be another in tests.
VARIABLES = HERE / "app.test.env"
OWNER = "10002"
# By the app's Python, as the stack's programs are run: the image may have no tar, and not all engines can copy to a
# container that runs.
UNPACK = """
read -r line < /opt/stack/bin/run
exec "${line#??}" -c "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall()"
"""
# The shell's own codes: the program can't be run, or isn't there.
NO_PROGRAM = (126, 127)


def test_app(arguments: list[str]) -> None:
    """Run APP_TEST as the schema's owner on a migrated database. Raises Stop unless its exit code is 0.

    Both it and the database are gone afterwards; what runs on this machine is not touched.
    """
    ensure_docker()
    config = configuration()
    base_images(config)
    choose_dockerfile()
    command = f'{config.app_test} "$@"'
    with tempfile.TemporaryDirectory() as scratch, throwaway(config, "test") as own:
        override = Path(scratch, "compose.yaml")
        override.write_text(OVERRIDE)

        def writable(*argv: str) -> Any:
            return own("--file", str(override), *argv)

        with step("Build your image, start a Postgres of its own"):
            own("build", "--quiet", "migrate", "postgres")
            own("up", "--detach", "--wait", "postgres")
        with step("Migrate"):
            own(*ONE_SHOT, "migrate")
        sleep = ("run", "--detach", "--no-deps", *variables(), "--entrypoint", "sleep", "migrate", "infinity")
        container = writable(*sleep).stdout.split()[-1]
        try:
            folder = docker("inspect", "--format", "{{.Config.WorkingDir}}", container).stdout.strip() or "/"
            copy(Path(scratch), container, folder)
            inside = ("docker", "exec", "--user", OWNER, container, "/opt/stack/bin/run", "sh", "-c", command, "sh")
            code = subprocess.run([*inside, *arguments], cwd=HERE, stdin=subprocess.DEVNULL).returncode
        finally:
            # `down` leaves what `run` started.
            docker("rm", "--force", container, check=False)
    if code in NO_PROGRAM:
        raise Stop(
            "Your image can't run its tests: set APP_TEST to a command that can. "
            "For one without pytest: APP_TEST=pip install pytest && python -m pytest"
        )
    if code:
        raise Stop(f"Your tests failed, with exit code {code}.")
    print("Your tests passed.")


def variables() -> list[str]:
    """Options for what app.test.env sets."""
    lines = VARIABLES.read_text().splitlines() if VARIABLES.exists() else []
    return [word for line in lines if line.strip() and not line.startswith("#") for word in ("--env", line)]


def copy(scratch: Path, container: str, folder: str) -> None:
    """Put the app's files over those in the image: it may lack the tests. What git ignores stays away."""
    app, archive = app_folder(), scratch / "app.tar"
    with tarfile.open(archive, "w") as tar:
        for name in listed(app):
            tar.add(app / name, name, recursive=False)
    with archive.open("rb") as file:
        unpack = ("docker", "exec", "--interactive", "--user", "0", "--workdir", folder, container)
        subprocess.run([*unpack, "sh", "-c", UNPACK], stdin=file, check=True)
    if folder != "/":
        docker("exec", "--user", "0", container, "chown", "-R", OWNER, folder)


def listed(folder: Path) -> list[str]:
    """The files of the folder that git knows, or would; all but hidden ones where there is no git."""
    argv = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
    found = subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if found.returncode:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]
    return [name for name in found.stdout.split("\0") if name and os.path.lexists(folder / name)]
