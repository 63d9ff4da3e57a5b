"""What PID 1 of a slot tells: in files, for the health check and `./stack`; and to systemd, if that waits.

Where the app has filled the tmpfs that they are in, a new line about a worker may be lost, and nothing else is.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from . import limits

# One of its own: an app may keep an upload in /tmp under the name that its client gave. It is the same user's, so this
# is for accidents alone.
FOLDER = Path(os.environ.get("SLOT_FOLDER", "/tmp/.stack"))  # noqa: S108 - a tmpfs of the container
# A first line with a letter for each worker, then a line for each that ended without being asked to, with the reason,
# `routed` once the proxy was told that it may send requests, and `draining` once the slot is.
WORKERS = FOLDER / "workers"


def make_folder() -> None:
    FOLDER.mkdir(mode=0o700, exist_ok=True)


def write_line(line: str, most: int = sys.maxsize) -> None:
    """Add it, unless there are `most` bytes already."""
    with contextlib.suppress(OSError), WORKERS.open("a") as file:
        if file.tell() < most:
            file.write(f"{line}\n")


def reason(code: int, out_of_memory: bool, count: int) -> str:
    """Why one of `count` workers ended, from its exit code, and whether the kernel has killed one for memory."""
    if code == -signal.SIGKILL and out_of_memory:
        size = f"APP_MEMORY={limit // limits.MIB}m" if (limit := limits.memory_limit()) else "the machine's memory"
        return f"out of memory: {size} for {count} workers"
    names = {one.value: one.name for one in signal.Signals}
    return names.get(-code, f"signal {-code}") if code < 0 else f"exit code {code}"


def write_readiness(is_ready: bool) -> None:
    """For the container's health check (runtime/probe): seconds since the machine's start, and what is so."""
    file, uptime = FOLDER / "ready", Path("/proc/uptime").read_text().partition(".")[0]
    line = f"{uptime} {'ready' if is_ready else 'not ready'}".ljust(40) + "\n"
    try:
        file.with_suffix(".new").write_text(line)
        file.with_suffix(".new").rename(file)
    except OSError:
        # No room for another file: over the line that is there, which is as long.
        with contextlib.suppress(OSError), file.open("r+") as there:
            there.write(line)


def tell_systemd() -> None:
    """Say that the slot is ready, where a unit of `Type=notify` waits for it: sd_notify(3)."""
    if place := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(b"READY=1", place.replace("@", "\0", 1) if place.startswith("@") else place)
