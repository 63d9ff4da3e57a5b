"""What changed in the stack's files elsewhere, put together with what is here, before any file is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Optional

from ops.dotenv import to_disk
from ops.lock import STATE
from ops.run import HERE, Stop
from ops.update import apply

# What the user owns, and no update ever touches: files, and folders with all that is in them. All else is the stack's.
YOURS = (
    "app/",
    "migrations/",
    "tests/app/",
    "Dockerfile",
    ".dockerignore",
    "requirements.in",
    "requirements.txt",
    "alembic.ini",
    ".env",
    "app.env",
    "traefik.env",
    "compose.override.yaml",
    "hooks/",
    "maintenance.html",
)
# The user's from the first edit on: a fork has a page of its own there.
ONCE_EDITED = ("README.md",)


@dataclass(frozen=True)
class File:
    """What git stores of one: its mode, 100644 or 100755, and its content's id."""

    mode: str
    blob: str


Tree = dict[str, File]
# By path; None where the file goes.
Changes = dict[str, Optional[File]]


def is_yours(path: str) -> bool:
    return any(path == one or (one.endswith("/") and path.startswith(one)) for one in YOURS)


def git(*argv: str, given: bytes = b"", environment: dict[str, str] | None = None) -> str:
    """What git prints. Raises Stop with what it says when it fails."""
    done = apply.run_git(HERE, *argv, given=given, environment=environment)
    if done.returncode:
        raise Stop(f"`git {argv[0]}` failed:\n{done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="surrogateescape").strip("\n")


def git_or_none(*argv: str) -> str | None:
    """What git prints, None when it fails: there is no such thing then."""
    done = apply.run_git(HERE, *argv)
    return None if done.returncode else done.stdout.decode().strip()


def content(file: File) -> bytes:
    done = apply.run_git(HERE, "cat-file", "blob", file.blob)
    if done.returncode:
        raise Stop(f"git has no content {file.blob}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def tree(commit: str) -> Tree:
    lines = (line.split("\t", 1) for line in git("ls-tree", "-r", "-z", commit).split("\0") if line)
    return {path: File(facts.split()[0], facts.split()[2]) for facts, path in lines}


def merge(base: str, theirs: str) -> tuple[Changes, list[str]]:
    """What has to change here to have what changed from `base` to `theirs`, and the paths where that can't be told.

    All three are commits; what is here is HEAD.
    """
    old, new, ours = tree(base), tree(theirs), tree("HEAD")
    changes: Changes = {}
    conflicts = []
    edited_and_gone = []
    for path in sorted(old.keys() | new.keys()):
        before, after, here = old.get(path), new.get(path), ours.get(path)
        if is_yours(path) or after in (before, here):
            continue
        if here == before:
            changes[path] = after
        elif before and not here:
            pass  # Whoever removed it wants it no more.
        elif path in ONCE_EDITED:
            pass
        elif before and here and after:
            changes[path] = both = merge_file(before, here, after)
            conflicts += [] if both else [path]
        elif before and here:
            edited_and_gone.append((path, before, here))
        else:
            conflicts.append(path)
    moved = renames(base, theirs) if edited_and_gone else {}
    for path, before, here in edited_and_gone:
        place = moved.get(path)
        both = merge_file(before, here, new[place]) if place and changes.get(place) == new[place] else None
        if place and both:
            changes |= {path: None, place: both}
        else:
            conflicts.append(path)
    return changes, sorted(conflicts)


def renames(base: str, theirs: str) -> dict[str, str]:
    words = git("diff-tree", "-r", "-z", "-M", "--diff-filter=R", "--name-status", base, theirs).split("\0")
    return dict(zip(words[1::3], words[2::3]))


def merge_file(before: File, here: File, after: File) -> File | None:
    """Both changes in one file; None when they are of the same lines."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (here, before, after):
            Path(folder, file.blob).write_bytes(content(file))
        argv = ["git", "merge-file", "-p", "-q", here.blob, before.blob, after.blob]
        done = subprocess.run(argv, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True)
    if done.returncode:
        return None
    mode = after.mode if here.mode == before.mode else here.mode
    return File(mode, git("hash-object", "-w", "--stdin", given=done.stdout))


def not_committed(changes: Changes) -> list[str]:
    """Those that are not as HEAD has them, in the folder or in the index, whatever git was told not to see."""
    ours = {path: file for path, file in tree("HEAD").items() if path in changes}
    there = [path for path in ours if (HERE / path).is_file() and not (HERE / path).is_symlink()]
    blobs = git("hash-object", "--stdin-paths", given="\n".join(there).encode()).split()
    contents, staged = dict(zip(there, blobs)), index()
    return [
        path for path, file in sorted(ours.items()) if contents.get(path) != file.blob or staged.get(path) != {file}
    ]


def index() -> dict[str, set[File]]:
    """What the index has by path: more than one file where a merge is under way."""
    found: dict[str, set[File]] = {}
    for line in git("ls-files", "--stage", "-z").split("\0"):
        if line:
            facts, path = line.split("\t", 1)
            found.setdefault(path, set()).add(File(*facts.split()[:2]))
    return found


def in_the_way(changes: Changes) -> list[str]:
    """What is not the stack's, and stands where a file of the stack's has to be."""
    ours, staged = tree("HEAD"), index()
    gone = {path for path, file in changes.items() if not file}
    found: set[str] = set()
    for path in changes.keys() - gone - ours.keys():
        place = HERE / path
        if place.is_dir() and not place.is_symlink():
            inside = (str(one.relative_to(HERE)) for one in place.rglob("*") if not one.is_dir())
            found.update(one for one in inside if one not in gone)
        elif os.path.lexists(place) or path in staged:
            found.add(path)
        for parent in map(str, list(PurePosixPath(path).parents)[:-1]):
            place = HERE / parent
            if parent not in gone and (place.is_symlink() or (place.exists() and not place.is_dir())):
                found.add(parent)
    return sorted(found)


def not_writable(paths: Iterable[str]) -> list[str]:
    """The folders of these files in which this user may change nothing."""
    folders = {next(folder for folder in (HERE / path).parents if folder.is_dir()) for path in paths}
    return sorted(str(folder) for folder in folders if not os.access(folder, os.W_OK | os.X_OK))


def commit(changes: Changes, message: str) -> str:
    """HEAD with these changes, as a commit that is on no branch yet."""
    who = {} if git_or_none("var", "GIT_AUTHOR_IDENT") and git_or_none("var", "GIT_COMMITTER_IDENT") else IDENTITY
    draft = Path(git("rev-parse", "--absolute-git-dir"), "stack-update-index")
    for left in (draft, draft.with_suffix(".lock")):
        left.unlink(missing_ok=True)
    temporary = {"GIT_INDEX_FILE": str(draft)}
    git("read-tree", "HEAD", environment=temporary)
    git("update-index", "-z", "--index-info", given=for_index(changes).encode(), environment=temporary)
    new = git(
        "commit-tree", git("write-tree", environment=temporary), "-p", "HEAD", given=message.encode(), environment=who
    )
    draft.unlink()
    return new


# On a server git often knows nobody.
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "./stack update"), ("EMAIL", "stack@localhost"))
}


def for_index(changes: Changes) -> str:
    """The changes as `git update-index -z --index-info` takes them: what goes first, for a folder may become a file."""
    nothing = File("0", "0" * 40)
    ordered = sorted(changes.items(), key=lambda one: one[1] is not None)
    return "".join(f"{(file or nothing).mode} {(file or nothing).blob}\t{path}\0" for path, file in ordered)


def stage(changes: Changes, new: str) -> None:
    """Put the files in their new form aside, and what is to be done with them; from here on it goes forward."""
    draft, final = STATE / "update.new", HERE / apply.STAGED
    for left in (draft, final.with_suffix(".done")):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(mode=0o700)
    files = dict[str, str]()
    for path, file in changes.items():
        if not file:
            continue
        files[path] = name = str(len(files))
        like = model(path)
        open_to = like.st_mode & 0o666
        with (draft / name).open("wb") as staged:
            staged.write(content(file))
            os.fchmod(staged.fileno(), open_to | (open_to & 0o444) >> 2 if file.mode == "100755" else open_to)
            if os.geteuid() == 0:
                os.fchown(staged.fileno(), like.st_uid, like.st_gid)
        to_disk(draft / name)
    plan = {
        "old": git("rev-parse", "HEAD"),
        "new": new,
        "index": for_index(changes),
        "removed": [path for path, file in changes.items() if not file],
        "files": files,
    }
    (draft / "plan.json").write_text(json.dumps(plan))
    shutil.copyfile(apply.__file__, draft / "finish.py")
    for one in (draft / "plan.json", draft / "finish.py", draft):
        to_disk(one)
    os.replace(draft, final)
    to_disk(STATE)


def model(path: str) -> os.stat_result:
    """Whose permissions and owner the file gets: its own, or its folder's, because containers read some of them."""
    place = HERE / path
    return next(one for one in (place, *place.parents) if one.is_file() or (one.is_dir() and one != place)).stat()
