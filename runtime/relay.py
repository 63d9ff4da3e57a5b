"""The program that takes connections to 127.0.0.1:5432 to Postgres's socket, for apps that speak TCP alone.

It runs as the app does, so that Postgres knows it by the same uid, which is one role's. The user that an app names is
often that of another server: that role takes its place. Without asyncio, whose streams cost three times the CPU for a
statement and its answer, and as much memory again.
"""

import contextlib
import os
import select
import socket
import struct

from .demand import LISTENER
from .settings import SOCKET_FOLDER

PORT = 5432
# Where apps look that know no socket.
ADDRESS = ("127.0.0.1", PORT)
SIZE = 1 << 16
# What a client says first: https://www.postgresql.org/docs/18/protocol-message-formats.html. A request for encryption
# comes before the startup message, and a request to cancel in its place.
HEAD = struct.Struct("!ii")
ENCRYPTION = (80877103, 80877104)
MAJOR = 3
# More is no startup message: Postgres's own limit.
LONGEST = 10_000


def as_role(message: bytes, role: bytes) -> bytes:
    """The startup message with that user. A database that isn't named is the user's namesake, and stays that."""
    words = message[HEAD.size :].split(b"\0")
    named = dict(zip(words[::2], words[1::2], strict=False))
    named.pop(b"", None)
    if b"user" in named:
        named.setdefault(b"database", named[b"user"])
    named[b"user"] = role
    changed = b"".join(b"%b\0%b\0" % pair for pair in named.items()) + b"\0"
    _, code = HEAD.unpack_from(message)
    return HEAD.pack(HEAD.size + len(changed), code) + changed


class End:
    """One end of a connection. What it can't take at once waits, and the other end is not heard meanwhile."""

    other: "End"

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket, self.number = connection, connection.fileno()
        self.unsent = b""
        # Whether it will say nothing more.
        self.ended = False
        # What the selector was told to wait for.
        self.awaited = 0
        # Of an app's end: what it has said so far, until Postgres knows by that who it is.
        self.opening: bytes | None = None

    def open(self, words: memoryview, role: bytes) -> memoryview:
        """What may be passed on of an opening that goes on with these words, with the role in the place of the user.

        A client that says something else is Postgres's to answer.
        """
        said, opening = b"", (self.opening or b"") + words
        self.opening = opening
        while self.opening is not None and len(opening) >= HEAD.size:
            length, code = HEAD.unpack_from(opening)
            is_whole = HEAD.size <= length <= LONGEST
            if is_whole and len(opening) < length:
                break
            message, opening = (opening[:length], opening[length:]) if is_whole else (opening, b"")
            said += as_role(message, role) if is_whole and code >> 16 == MAJOR else message
            self.opening = opening if is_whole and code in ENCRYPTION else None
        return memoryview(said + opening if self.opening is None else said)


class Relay:
    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self.listener, self.number = listener, listener.fileno()
        # Not of `selectors`, which costs as much as all the rest.
        self.epoll = select.epoll()
        self.epoll.register(listener, select.EPOLLIN)
        self.ends: dict[int, End] = {}
        self.buffer = memoryview(bytearray(SIZE))
        self.role = os.environ["STACK_ROLE"].encode()

    def run(self) -> None:
        while True:
            for number, events in self.epoll.poll():
                if number == self.number:
                    self.accept()
                # One that has ended is also told of as an error.
                if number in self.ends and events & ~select.EPOLLIN:
                    self.flush(self.ends[number])
                if number in self.ends and events & ~select.EPOLLOUT:
                    self.hear(self.ends[number])

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        there = socket.socket(socket.AF_UNIX)
        app, postgres = End(connection), End(there)
        app.other, postgres.other = postgres, app
        app.opening = b""
        # As if nobody listened, where nobody does.
        with contextlib.suppress(OSError):
            there.connect(f"{SOCKET_FOLDER}/.s.PGSQL.{PORT}")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ends |= {app.number: app, postgres.number: postgres}
            self.wait(app)
            return
        self.close(app)

    def hear(self, end: End) -> None:
        if not end.awaited & select.EPOLLIN:
            return
        try:
            size = end.socket.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        words = self.buffer[:size]
        if size and end.opening is not None:
            words = end.open(words, self.role)
        if words:
            self.say(end.other, words)
        elif not size:
            end.ended = True
            self.flush(end.other)

    def flush(self, end: End) -> None:
        self.say(end, memoryview(end.unsent))

    def say(self, end: End, words: memoryview) -> None:
        sent = 0
        if words:
            try:
                sent = end.socket.send(words)
            except BlockingIOError:
                pass
            except OSError:
                # It has gone. It may have said something before that: it is heard to its end.
                sent = len(words)
        before, end.unsent = end.unsent, bytes(words[sent:])
        if end.other.ended and not end.unsent:
            self.close(end)
        elif before or end.unsent:
            self.wait(end)

    def wait(self, end: End) -> None:
        """Wait for what either end may do now."""
        for one in (end, end.other):
            heard = not one.ended and not one.other.unsent
            awaited = select.EPOLLIN * heard | select.EPOLLOUT * bool(one.unsent)
            if awaited == one.awaited:
                continue
            if not awaited:
                # Without it, as an end that has gone is told of whatever is awaited.
                self.epoll.unregister(one.number)
            elif one.awaited:
                self.epoll.modify(one.number, awaited)
            else:
                self.epoll.register(one.number, awaited)
            one.awaited = awaited

    def close(self, end: End) -> None:
        for one in (end, end.other):
            self.ends.pop(one.number, None)
            # The selector forgets it with that.
            one.socket.close()


def main() -> int:
    Relay(socket.socket(fileno=LISTENER)).run()
    return 0
