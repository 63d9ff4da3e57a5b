"""Whether a slot should get requests, and the door of the probes: PID 1's, for in a worker's queue they would wait."""

import math
import mmap
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

from .notes import WORKERS

# Seconds without a turn of any worker's loop after which the slot gets no new requests: busy is not stuck.
STUCK_SECONDS = 3
# Seconds after the first that serves, for which it waits for the others; then some are better than none.
COMPLETE_SECONDS = 30
STARTING, SERVING, ENDED = b".+-"
# Seconds for a request's one packet; it is there already, where the kernel knows TCP_DEFER_ACCEPT.
PATIENCE = 0.05


def plain(host: str) -> str:
    """A peer's address as IPv4 has it, where a socket for both says ::ffff:192.0.2.1."""
    return host.removeprefix("::ffff:") if "." in host else host


def open_door(listener: socket.socket) -> None:
    """Have the kernel keep back who has connected and said nothing."""
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)


def answer(listener: socket.socket, answers: dict[str, Callable[[], bool]]) -> bool:
    """Answer one GET or HEAD by what `answers` says of each path; no path, no method is 404.

    Returns whether the proxy, or whoever else isn't in this container, was told 200.
    """
    try:
        connection, (peer, *_) = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            method, path, *_ = (connection.recv(4096).decode("latin-1") + "  ").split(" ", 2)
            tell = answers.get(path.partition("?")[0])
            status = "404 Not Found"
            if tell and method in ("GET", "HEAD"):
                status = "200 OK" if tell() else "503 Service Unavailable"
            connection.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return status == "200 OK" and not ip_address(plain(peer)).is_loopback
    except OSError:
        return False


class State:
    """What each of `count` workers says of itself, in memory that they share with PID 1, and what follows for the slot.

    `lost_seconds` without a turn of any worker's loop are more than its watchdog allows.
    """

    def __init__(self, count: int, lost_seconds: float) -> None:
        self.lost_seconds = lost_seconds
        WORKERS.write_bytes(bytes([STARTING]) * count + b"\n")
        with WORKERS.open("r+b") as file:
            # Each sets its own letter once it serves.
            self.states = mmap.mmap(file.fileno(), count)
        # When each worker's loop last turned, in seconds of time.monotonic(), which all processes share.
        self.turned = memoryview(mmap.mmap(-1, 8 * count)).cast("d")
        # A byte, which PID 1 sets.
        self.draining = mmap.mmap(-1, 1)
        # When the slot is complete at the latest.
        self.complete_at = math.inf

    def is_ready(self) -> bool:
        """Whether the slot should get requests: complete, not draining, and some worker's loop has turned lately."""
        return self.is_complete() and self.may_serve() and time.monotonic() - max(self.turned) < STUCK_SECONDS

    def is_complete(self) -> bool:
        """Whether all workers have served at one time: before that it isn't known whether the slot holds them."""
        states, now = set(self.states[:]), time.monotonic()
        if SERVING in states:
            self.complete_at = min(self.complete_at, now if states == {SERVING} else now + COMPLETE_SECONDS)
        return now >= self.complete_at

    def may_serve(self) -> bool:
        """Whether it could take a request, however busy."""
        return self.serves() and not self.draining[0]

    def is_live(self) -> bool:
        """Whether what is wrong, if anything, mends itself: not once every loop stands still past its watchdog."""
        mends = self.draining[0] > 0 or set(self.states[:]) != {SERVING}
        return mends or time.monotonic() - max(self.turned) < self.lost_seconds

    def serves(self) -> bool:
        return SERVING in self.states[:]
