"""What PID 1 of a slot writes down, in files of the container's tmpfs: for workers, the health check and `./stack`."""

import contextlib
import os
import time
from pathlib import Path

FOLDER = Path(os.environ.get("SLOT_FOLDER", "/tmp"))  # noqa: S108 - a tmpfs of the container
# Workers look for it at each `/ready`.
DRAINING = FOLDER / "draining"
# There until all workers serve at one time: before that it isn't known whether the slot holds them.
INCOMPLETE = FOLDER / "incomplete"
# Seconds after the first that serves, for which it waits for the others; then some are better than none.
COMPLETE_SECONDS = 30
# A first line with a letter for each worker, then a line for each that ended without being asked to, with the reason,
# `routed` once the proxy was told that it may send requests, and `draining` once the slot is.
WORKERS = FOLDER / "workers"


def ready() -> bool:
    """Whether the slot is complete and doesn't drain: what a worker, too, can tell."""
    if DRAINING.exists():
        return False
    try:
        return time.time() - INCOMPLETE.stat().st_mtime > COMPLETE_SECONDS
    except FileNotFoundError:
        return True


def without_room() -> "contextlib.AbstractContextManager[None]":
    """What is written down is lost where the app has filled the tmpfs, and nothing else is."""
    return contextlib.suppress(OSError)


def write_readiness(is_ready: bool) -> None:
    """For the container's health check (runtime/probe): seconds since the machine's start, and what is so; whole."""
    draft, uptime = FOLDER / "ready.new", Path("/proc/uptime").read_text().partition(".")[0]
    draft.write_text(f"{uptime} {'ready' if is_ready else 'not ready'}\n")
    draft.rename(FOLDER / "ready")
