"""The program that takes connections to 127.0.0.1:5432 to Postgres's socket, for apps that speak TCP alone.

It runs as the app does, so that Postgres knows it by the same uid, which is one role's. The user that an app names is
often that of another server: that role takes its place.
"""

import asyncio
import contextlib
import os
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


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(SIZE):
            writer.write(part)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def begin(reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
    """Pass on what the client says before Postgres knows who it is, with the role in the place of its user."""
    # A client that ends before, or says something else, is Postgres's to answer.
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            head = await reader.readexactly(HEAD.size)
            length, code = HEAD.unpack(head)
            rest = b""
            if HEAD.size <= length <= LONGEST:
                rest = await reader.readexactly(length - HEAD.size)
            if code >> 16 == MAJOR:
                head, rest = as_role(code, rest, os.environ["STACK_ROLE"].encode())
            there.write(head + rest)
            if code not in ENCRYPTION:
                return


def as_role(code: int, rest: bytes, role: bytes) -> tuple[bytes, bytes]:
    """The startup message with that user. A database that isn't named is the user's namesake, and stays that."""
    words = rest.split(b"\0")
    named = dict(zip(words[::2], words[1::2], strict=False))
    named.pop(b"", None)
    if b"user" in named:
        named.setdefault(b"database", named[b"user"])
    named[b"user"] = role
    changed = b"".join(b"%b\0%b\0" % pair for pair in named.items()) + b"\0"
    return HEAD.pack(HEAD.size + len(changed), code), changed


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there, back = await asyncio.open_unix_connection(f"{SOCKET_FOLDER}/.s.PGSQL.{PORT}")
    except OSError:
        # As if nobody listened.
        return writer.close()
    try:
        await asyncio.gather(pass_on(reader, back), carry(there, writer))
    finally:
        back.close()
        writer.close()


async def pass_on(reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await begin(reader, there)
    await carry(reader, there)


async def serve() -> None:
    server = await asyncio.start_server(relay, sock=socket.socket(fileno=LISTENER))
    await server.serve_forever()


def main() -> int:
    asyncio.run(serve())
    return 0
