""".env: what its user wrote, and the few lines that `./stack` writes."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ops.run import HERE

FILE = HERE / ".env"


def text() -> str:
    return FILE.read_text("utf-8", "surrogateescape") if FILE.exists() else ""


def read(name: str) -> str | None:
    """The setting's value as Compose reads it, but for what a `$` stands for; None when it isn't there or is empty."""
    found = re.findall(rf"^\s*(?:export\s+)?{name}\s*=[ \t]*(.*)$", text(), re.MULTILINE)
    if not found:
        return None
    value = found[-1].strip()
    quoted = re.match(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", value)
    if quoted:
        return re.sub(r"\\(['\"\\])", r"\1", quoted[1] if quoted[2] is None else quoted[2]) or None
    return re.sub(r"(^|\s+)#.*", "", value) or None


def quoted(value: str) -> str:
    """The value so that Compose takes it as it stands, a `$` and spaces too."""
    return "'" + value.replace("'", "\\'") + "'"


def chosen(name: str) -> str | None:
    """What the user sets it to: in the shell, where an empty one wins for Compose as well, or here."""
    return os.environ[name] or None if name in os.environ else read(name)


def own_postgres() -> bool:
    """Whether the app's database is the stack's own: DATABASE_URL names no other."""
    return not chosen("DATABASE_URL")


def write(values: dict[str, str], reason: str) -> None:
    """Set these, where they stand or, below `reason`, at the end. All else stays; a reader sees the old or the new."""
    new, added = text(), []
    for name, value in values.items():
        new, replaced = re.subn(rf"^[ \t]*{name}=.*$", f"{name}={value}", new, flags=re.MULTILINE)
        if not replaced:
            added.append(f"{name}={value}")
    if added:
        new = "\n".join([new.rstrip("\n"), "", f"# {reason}", *added, ""]).lstrip("\n")
    replace_file(FILE, new)


def give(path: Path, like: Path) -> None:
    """Make the path theirs whose `like` is, where we may: what root makes in somebody's folder they go on with."""
    whose = like.stat()
    for user in (whose.st_uid, -1):
        with contextlib.suppress(PermissionError):
            return os.chown(path, user, whose.st_gid)


def replace_file(path: Path, content: str, mode: int | None = None) -> None:
    """Put `content` in the place of the file, with the same owner and rights where we may; whole, and on the disk.

    `mode`: the rights instead.
    """
    # A link stays one, to what is written.
    path = path.resolve()
    draft = path.with_name(f"{path.name}.new")
    private = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    # What is no UTF-8 stays as it is, too.
    with open(private, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
    to_disk(draft)
    if mode is not None or path.exists():
        os.chmod(draft, path.stat().st_mode if mode is None else mode)
    give(draft, path if path.exists() else path.parent)
    os.replace(draft, path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Have the file, or the folder's names, survive a power failure."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
