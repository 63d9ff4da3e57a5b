"""The program that takes connections to 127.0.0.1:5432 to Postgres's socket, for apps that speak TCP alone.

It runs as the app does, so that Postgres knows it by the same uid.
"""

import asyncio
import contextlib
import socket

from .demand import LISTENER
from .settings import SOCKET_FOLDER

PORT = 5432
# Where apps look that know no socket.
ADDRESS = ("127.0.0.1", PORT)
SIZE = 1 << 16


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(SIZE):
            writer.write(part)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there, back = await asyncio.open_unix_connection(f"{SOCKET_FOLDER}/.s.PGSQL.{PORT}")
    except OSError:
        # As if nobody listened.
        return writer.close()
    try:
        await asyncio.gather(carry(reader, back), carry(there, writer))
    finally:
        back.close()
        writer.close()


async def serve() -> None:
    server = await asyncio.start_server(relay, sock=socket.socket(fileno=LISTENER))
    await server.serve_forever()


def main() -> int:
    asyncio.run(serve())
    return 0
