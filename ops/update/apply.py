"""Bring the files of an update into place, whole.

This runs within `./stack update`. When that was killed it runs by itself, from a copy in .stack/update, before the next
`./stack` does anything. So it imports nothing of ops/, which may be half of one version and half of another by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# In the folder: what is to be done, the files in their new form, and a copy of this program.
STAGED = ".stack/update"
# Of a git hook, say, from which this may run: they would lead git elsewhere.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")


def run_git(
    folder: Path, *argv: str, given: bytes = b"", terminal: bool = False, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git in the folder, as whoever owns the repository: what root wrote there the owner could not change.

    `terminal`: git may ask there for a password, and Ctrl-C ends it. `environment`: besides this process's. Raises
    FileNotFoundError without git.
    """
    owner = (folder / ".git").stat()
    told = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    told |= environment or {}
    options: dict[str, Any] = {}
    if os.geteuid() == 0 and owner.st_uid:
        options = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        told["HOME"] = "/"
        with contextlib.suppress(KeyError):
            told["HOME"] = pwd.getpwuid(owner.st_uid).pw_dir
    command = ["git", "-c", "safe.directory=*", "--literal-pathspecs", *argv]
    return subprocess.run(
        command, cwd=folder, input=given, capture_output=True, env=told, start_new_session=not terminal, **options
    )


def apply(folder: Path) -> None:
    """Take the steps that are written down in STAGED; each may have been taken before. Raises OSError."""
    staged = folder / STAGED
    plan: dict[str, Any] = json.loads((staged / "plan.json").read_text())
    change_index(folder)
    removed: list[str] = plan["removed"]
    files: dict[str, str] = plan["files"]
    # A file where a folder was, or the other way round.
    first = [
        one for one in removed if any(f"{one}/".startswith(f"{path}/") or path.startswith(f"{one}/") for path in files)
    ]
    remove(folder, first)
    # New ones first, and last what goes: Traefik reads its routes at each of these steps.
    for path in sorted(files, key=lambda one: (folder / one).exists()):
        if (staged / files[path]).exists():
            make_folder((folder / path).parent)
            os.replace(staged / files[path], folder / path)
    remove(folder, removed)
    run_git(folder, "update-index", "-q", "--refresh")
    head = run(folder, "rev-parse", "HEAD")
    if head == plan["old"]:
        run(folder, "update-ref", "-m", "./stack update", "HEAD", plan["new"], plan["old"])
    elif head != plan["new"]:
        print("There is a new commit since it began: the stack's files are staged, for you to commit.", file=sys.stderr)
    discard(folder)


def change_index(folder: Path) -> None:
    """The first step, which fails where git is at work: no file has changed by then. Raises OSError."""
    plan = json.loads((folder / STAGED / "plan.json").read_text())
    run(folder, "update-index", "-z", "--index-info", given=plan["index"].encode())


def discard(folder: Path) -> None:
    """Forget what is staged. By another name at once: what is half removed is no update that was killed."""
    staged = folder / STAGED
    if staged.exists():
        os.replace(staged, staged.with_suffix(".done"))
    shutil.rmtree(staged.with_suffix(".done"), ignore_errors=True)


def remove(folder: Path, paths: list[str]) -> None:
    """Remove the files, and the folders that this leaves empty."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            (folder / path).unlink()
        with contextlib.suppress(OSError):
            for parent in list((folder / path).parents)[: path.count("/")]:
                parent.rmdir()


def make_folder(folder: Path) -> None:
    """Make the folder and those above it, as open as the one that is there, and with its owner."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    above = folder.parent.stat()
    folder.mkdir()
    folder.chmod(above.st_mode & 0o777)
    with contextlib.suppress(PermissionError):
        os.chown(folder, above.st_uid, above.st_gid)


def run(folder: Path, *argv: str, given: bytes = b"") -> str:
    """What git prints. Raises OSError with what it says when it fails."""
    done = run_git(folder, *argv, given=given)
    if done.returncode:
        raise OSError(f"git {argv[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode().strip()


def finish() -> int:
    """Bring an update that was killed to its end; return the exit code."""
    folder = Path(__file__).resolve().parents[2]
    with (folder / ".stack/lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another one is at work: `./stack update` is putting files into place.", file=sys.stderr)
            return 1
        if (folder / STAGED / "plan.json").exists():
            try:
                apply(folder)
            except OSError as error:
                print(f"An update of the stack's files was killed, and can't be finished: {error}", file=sys.stderr)
                return 1
            print(
                "An update of the stack's files was killed, and is finished now. `./stack update --serve` puts it into "
                "service, `./stack update --back` takes it back.",
                file=sys.stderr,
            )
        discard(folder)
        # Nobody was killed, as far as the next one is concerned.
        lock.truncate(0)
    return 0


if __name__ == "__main__":
    sys.exit(finish())
