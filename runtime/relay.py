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
from threading import Thread

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


def introduce(app: socket.socket, postgres: socket.socket, role: bytes) -> None:
    """Pass on what the app says until Postgres knows who it is. Something else is Postgres's to answer."""
    while True:
        message = app.recv(HEAD.size, socket.MSG_WAITALL)
        length, code = HEAD.unpack(message) if len(message) == HEAD.size else (0, 0)
        if not HEAD.size <= length <= LONGEST:
            return postgres.sendall(message)
        message += app.recv(length - HEAD.size, socket.MSG_WAITALL)
        postgres.sendall(as_role(message, role) if code >> 16 == MAJOR else message)
        # To a request for encryption it answers with one letter.
        if code not in ENCRYPTION or not (refused := postgres.recv(1)):
            return
        app.sendall(refused)


class End:
    """One end of a connection. `kept` is what it can't take at once; the other end is not heard meanwhile."""

    other: "End"

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket, self.number = connection, connection.fileno()
        self.kept = b""
        # What the kernel was told to wait for.
        self.awaited = select.EPOLLIN


class Relay:
    def __init__(self, listener: socket.socket, role: bytes) -> None:
        self.listener, self.role = listener, role
        # Not of `selectors`, which costs as much as all the rest.
        self.epoll = select.epoll()
        self.epoll.register(listener, select.EPOLLIN)
        self.ends: dict[int, End] = {}

    def run(self) -> None:
        while True:
            for number, events in self.epoll.poll():
                if number == self.listener.fileno():
                    # Where there may be no file or thread more, whoever connected is told.
                    with contextlib.suppress(OSError, RuntimeError):
                        Thread(target=self.begin, args=self.listener.accept()[:1], daemon=True).start()
                # One that has ended is also told of as an error.
                if number in self.ends and events & ~select.EPOLLIN:
                    self.say(self.ends[number])
                if number in self.ends and events & ~select.EPOLLOUT:
                    self.hear(self.ends[number])

    def begin(self, connection: socket.socket) -> None:
        """In a thread, for it waits for the app's words."""
        there = socket.socket(socket.AF_UNIX)
        try:
            there.connect(f"{SOCKET_FOLDER}/.s.PGSQL.{PORT}")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            introduce(connection, there, self.role)
        except OSError:
            # As if nobody listened, where nobody does.
            connection.close()
            return there.close()
        app, postgres = End(connection), End(there)
        app.other, postgres.other = postgres, app
        for end in (app, postgres):
            self.epoll.register(end.number, end.awaited)
        # At one moment, and nothing of either is looked at before it.
        self.ends.update({app.number: app, postgres.number: postgres})

    def hear(self, end: End) -> None:
        if end.other.kept:
            return
        try:
            words = end.socket.recv(SIZE)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:
            return self.close(end)
        end.other.kept = words
        self.say(end.other)

    def say(self, end: End) -> None:
        try:
            sent = end.socket.send(end.kept)
        except BlockingIOError:
            sent = 0
        except OSError:
            # It has gone. It may have said something before that: it is heard to its end.
            sent = len(end.kept)
        end.kept = end.kept[sent:]
        # What either end may do now.
        for one in (end, end.other):
            awaited = select.EPOLLIN * (not one.other.kept) | select.EPOLLOUT * bool(one.kept)
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
            del self.ends[one.number]
            # The kernel forgets it with that.
            one.socket.close()


def main() -> int:
    Relay(socket.socket(fileno=LISTENER), os.environ["STACK_ROLE"].encode()).run()
    return 0
