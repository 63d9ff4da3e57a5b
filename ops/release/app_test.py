"""`./stack test --app`: the app's own tests, in its image, against a Postgres of their own."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ops.machine.throwaway import throwaway
from ops.release.build import prepared
from ops.release.releases import app_folder, git_says
from ops.run import HERE, ONE_SHOT, Stop, docker, last_line, step

# What a test may do that the app may not: write beside the code, load packages, take memory, make databases. Root in
# the container gives the folders away, for which it needs the capabilities; the tests themselves have none.
OVERRIDE = """\
services:
  migrate:
    read_only: false
    tmpfs: !reset []
    mem_limit: !reset 0
    pids_limit: 4096
    cap_add: [CHOWN, DAC_OVERRIDE]
  postgres:
    volumes: ["./pg_hba.conf:/etc/postgresql/pg_hba.conf:ro"]
"""
ACCESS = "local all owner peer\nlocal all app peer\n"
# Nor is there anybody whom its waits for a lock would hold up.
AS_IN_TESTS = ("psql", "-XqAt", "-c", "ALTER ROLE owner CREATEDB; ALTER ROLE owner RESET lock_timeout", "postgres")
# Beside app.env, and over it: what must be another in tests.
VARIABLES = HERE / "app.test.env"
OWNER = "10002"
# Of the packages' folders the folders alone, in which files are made and replaced: a copy of each file would take long.
GIVE = f"""
import os, sys, sysconfig
whole = [sys.argv[1]] if sys.argv[1] != "/" else []
for top in [*whole, *(sysconfig.get_path(name) for name in ("purelib", "platlib", "scripts"))]:
    for parent, folders, files in os.walk(top):
        for name in [".", *(files if top in whole else [])]:
            os.lchown(os.path.join(parent, name), {OWNER}, {OWNER})
"""
# By the app's Python, which is there. No filter, which newer ones have: links may lead anywhere.
UNPACK = """
import sys, tarfile
tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)
tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall(sys.argv[1])
"""
# The shell's own codes: the program can't be run, or isn't there.
NO_PROGRAM = (126, 127)


def test_app(arguments: list[str]) -> None:
    """Run APP_TEST as the schema's owner on a migrated database. Raises Stop unless its exit code is 0.

    Both it and the database are gone afterwards; what runs on this machine is not touched.
    """
    config = prepared()
    command = f'{config.app_test} "$@"'
    with tempfile.TemporaryDirectory() as scratch, throwaway(config, "test") as own:
        override, access = Path(scratch, "compose.yaml"), Path(scratch, "pg_hba.conf")
        access.write_text((HERE / "postgres/pg_hba.conf").read_text() + ACCESS)
        override.write_text(OVERRIDE.replace("./pg_hba.conf", str(access)))
        for path in (Path(scratch), access):
            # Postgres's own user reads it.
            path.chmod(0o755)

        def writable(*argv: str) -> Any:
            return own("--file", str(override), *argv)

        with step("Build your image, start a Postgres of its own"):
            own("build", "--quiet", "migrate", "postgres")
            writable("up", "--detach", "--wait", "postgres")
            writable("exec", "-T", "--user", "postgres", "postgres", *AS_IN_TESTS)
        with step("Migrate"):
            own(*ONE_SHOT, "migrate")
        sleep = ("run", "--detach", "--no-deps", *variables(), "--entrypoint", "sleep", "migrate", "infinity")
        container = writable(*sleep).stdout.split()[-1]
        folder = docker("inspect", "--format", "{{.Config.WorkingDir}}", container).stdout.strip() or "/"
        python = docker("exec", container, "head", "-n", "1", "/opt/stack/bin/run").stdout.strip()[2:]
        docker("exec", "--user", "0", container, python, "-c", GIVE, folder)
        copy(Path(scratch, "app.tar"), container, python, folder)
        inside = ("docker", "exec", "--user", OWNER, container, "/opt/stack/bin/run", "sh", "-c", command, "sh")
        code = subprocess.run([*inside, *arguments], cwd=HERE, stdin=subprocess.DEVNULL).returncode
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


def copy(archive: Path, container: str, python: str, folder: str) -> None:
    """Put the app's files over those in the image: it may lack the tests. What git ignores stays away."""
    app = app_folder()
    with tarfile.open(archive, "w") as tar:
        for name in listed(app):
            tar.add(app / name, name, recursive=False)
    unpack = ("docker", "exec", "--interactive", "--user", OWNER, container, python, "-c", UNPACK, folder)
    with archive.open("rb") as file:
        done = subprocess.run(unpack, stdin=file, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise Stop(f"Your files can't be put into {folder} of the image: {last_line(done.stderr)}")


def listed(folder: Path) -> list[str]:
    """The files of the folder that git knows, or would; all but hidden ones where there is no git."""
    found = git_says(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", ".")
    if found is None:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]
    return [name for name in found.split("\0") if name and os.path.lexists(folder / name)]
