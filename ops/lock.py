"""One `./stack` at a time."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops import dotenv, run
from ops.run import HERE, Stop, step

# What `./stack` remembers: the lock, the releases, the configuration that serves.
STATE = HERE / ".stack"
LOCK = STATE / "lock"
# Seconds that the docker command of a `./stack` that was killed may take to end: a job in flight has ten minutes
# (process.yaml).
ORPHAN_SECONDS = 900


@contextlib.contextmanager
def lock(verb: str) -> Iterator[str]:
    """Hold the project's lock; give the verb of the last one to hold it, if it was killed, or "".

    Raises Stop, saying who holds it.
    """
    check_rights(os.R_OK | os.W_OK)
    STATE.mkdir(mode=0o700, exist_ok=True)
    file = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    for path in [STATE, *STATE.iterdir()]:
        dotenv.give(path, HERE)
    try:
        if not taken(file):
            wait_for_orphan(file)
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        holder = {"verb": verb, "pid": os.getpid(), "user": user_name(os.geteuid()), "since": now}
        last: dict[str, Any] = json.loads(os.pread(file, 4096, 0) or b"{}")
        killed = "" if last.get("done") else last.get("verb", "")
        os.truncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
        run.inherited.append(file)
        try:
            yield killed
        finally:
            os.truncate(file, 0)
            run.inherited.remove(file)
    finally:
        os.close(file)


def note_end() -> None:
    """Write down that the verb that holds the lock has done what it was to do: a kill from here on leaves nothing."""
    holder = json.loads(LOCK.read_text() or "{}")
    LOCK.write_text(json.dumps({**holder, "done": True}))


def check_rights(wanted: int) -> None:
    """Raises Stop where a file that `./stack` reads, or writes, is somebody else's: before anything is begun."""
    made = STATE.iterdir() if os.access(STATE, os.R_OK | os.X_OK) else ()
    for path in (HERE, dotenv.FILE, HERE / "app.env", STATE, *made):
        if path.exists() and not os.access(path, wanted | (os.X_OK if path.is_dir() else 0)):
            raise denied(path)


def denied(path: Path) -> Stop:
    """That the file is not for who runs this, or the folder where it would be."""
    while not os.path.lexists(path):
        path = path.parent
    owner, me = user_name(path.stat().st_uid), user_name(os.geteuid())
    return Stop(f"{path} belongs to {owner}, and {me} may not read or write it. Run this as {owner}.")


def user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_orphan(file: int) -> None:
    """Wait for the lock where its holder was killed and only a docker command of its is left; else raise Stop."""
    holder: dict[str, Any] = json.loads(os.pread(file, 4096, 0) or b"{}")
    who = "`./stack {verb}` of {user}, process {pid}, since {since}".format_map(
        {"verb": "?", "user": "?", "pid": "?", "since": "?", **holder}
    )
    if not holder or alive(holder["pid"]):
        raise Stop(f"Another one is at work: {who}.")
    with step(f"Wait for what is left of {who}"):
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not taken(file):
            if time.monotonic() > deadline:
                raise Stop(f"{LOCK} is still locked after {ORPHAN_SECONDS} s: `fuser -v {LOCK}` shows by whom.")
            time.sleep(0.2)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
