"""`/health`, in front of whatever app: outside it, so that every ASGI app has it.

`/live` and `/ready` are PID 1's, on a port of its own (readiness.py): what is on the app's port any proxy would serve.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import environment, schema, settings

# As ASGI has them: https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Seconds for the program that asks the database to start, on a busy machine, and for the answer, of which it has two at
# most: a database that says nothing is told sooner. Fewer than ops/door waits for an answer, so as to be heard.
PATIENCE = 8


async def answer(send: Send, status: int, body: dict[str, Any], **headers: str) -> None:
    """Send a whole response of JSON."""
    text = json.dumps(body, separators=(",", ":")).encode()
    named = {"content-type": "application/json", "content-length": str(len(text)), **headers}
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": text})


async def health() -> tuple[int, dict[str, Any]]:
    """200 when the database answers in time and, with Alembic, its schema is at the head of this code's migrations.

    The answer also says who gives it: the release, and the slot by the container's host name.
    """
    who = {"release": settings.load().release, "slot": socket.gethostname()}
    heads = sorted(environment.migrations().get("heads", []))
    expected = {"head": heads} if heads else {}
    try:
        found = await asyncio.wait_for(ask(), PATIENCE)
    except (OSError, ValueError, asyncio.TimeoutError):
        found = {"database": "away"}
    if found["database"] != "ok":
        return 503, {"database": "away", **expected, **who}
    if not heads:
        return 200, {"database": "ok", **who}
    at_head = found["schema"] == heads
    said = {"database": "ok", "at_head": at_head, "schema": found["schema"]}
    return (200 if at_head else 503), {**said, **expected, **who}


async def ask() -> dict[str, Any]:
    """What schema.py says."""
    reader, writer = await asyncio.open_unix_connection(schema.SOCKET)
    try:
        said: dict[str, Any] = json.loads(await reader.readline())
        return said
    finally:
        writer.close()


class Health:
    """Answers that itself, and leaves all else to the app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/health":
            await answer(send, *await health())
        else:
            await self.app(scope, receive, send)
