"""The largest request body, counted as it arrives, whatever Content-Length says of it; of JSON what it would become.

Here and not in Traefik, which could only count a body by keeping all of it first, in memory and on a disk that it has
not got: a hundred of them would be the end of it.
"""

import logging
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from ipaddress import ip_network
from typing import Any

from . import lines
from .health import ASGIApp, Message, Receive, Scope, Send, answer

# Bodies of the largest size that one worker holds at a time. An app needs several times a body's size to read it. One
# client has half of that, so that it can't keep the others out by sending slowly.
HELD = 3
SHARE = HELD / 2
# Bytes of a body that is never refused for what others hold.
SMALL = 65536
# Bytes that must be left where Starlette keeps an upload: parts that are about to be written, and a first MB, which it
# keeps in memory until there is more. Where the largest body is smaller, as many as that.
ROOM = 2 * 2**20
# Seconds between two lines in the log about that.
QUIET = 5
# Bytes of memory that a value of JSON may take: `{}` and its place in a list 72, what pydantic notes of a wrong one 280
# (https://docs.python.org/3/library/sys.html#sys.getsizeof).
VALUE = 128
# What an object counts: it may be a model with as many fields, or lack them all.
OBJECT = 8
# What may stand before a text of JSON: blanks, and what says that it is UTF-8, 16 or 32 (with the zeros of both).
BEFORE = b" \t\r\n\0\xef\xbb\xbf\xff\xfe"
# The part of a worker's memory that one body's values may take.
PART = 3


class Refused(Exception):
    """What Starlette's HTTPException is, for an app without Starlette."""

    def __init__(self, status_code: int, detail: str, headers: "dict[str, str] | None" = None) -> None:
        super().__init__(status_code, detail)
        self.status_code, self.detail, self.headers = status_code, detail, headers


def refusal() -> Any:
    """What is raised where the app reads the body: Starlette's own, which FastAPI answers with.

    Looked up late: it must be the app's Starlette.
    """
    return getattr(sys.modules.get("starlette.exceptions"), "HTTPException", Refused)


def network(address: str) -> str:
    """Whom an address stands for: of IPv6 the /64, in which one client has all addresses."""
    try:
        return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address
    except ValueError:
        return address


def is_full(limit: int) -> bool:
    """Whether the next part of an upload may have no place: whatever other workers and the app itself keep there."""
    there = os.statvfs(tempfile.gettempdir())
    return there.f_bavail * there.f_frsize < min(ROOM, limit)


class BodyLimit:
    """Answers 413 for a body of more than `limit` bytes, and 503 while a worker's requests hold too many of them.

    413, too, for JSON or a form that would not fit into its part of `memory`, the bytes of a worker: 10 MB of
    `[{},{},…]` become 200 MB of objects. JSON is what begins so, for not every app asks what a body says that it is.
    A body holds the larger of its parts: of the bytes, and of the values.
    """

    def __init__(self, app: ASGIApp, limit: int, memory: int) -> None:
        self.app = app
        self.limit = limit
        self.values = memory // PART // VALUE
        self.held = 0
        self.said = -math.inf
        self.of: Counter[str] = Counter()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            # Without either of them a request has no body: https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            if b"content-length" in headers or b"transfer-encoding" in headers:
                return self.counted(scope, receive, send, headers)
        return self.app(scope, receive, send)

    async def counted(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        taken, values, holds, begun = 0, 0, 0, False
        first = b""
        client = network((scope.get("client") or ("", 0))[0])
        # Of several such headers an app may read any.
        kinds = b" ".join(value.lower() for name, value in scope["headers"] if name == b"content-type")
        is_form, is_upload = b"urlencoded" in kinds, b"multipart" in kinds

        async def counting() -> Message:
            nonlocal taken, values, holds, first
            message = await receive()
            part = message.get("body", b"")
            taken += len(part)
            first = first or part.lstrip(BEFORE)[:1]
            # Too many where text has such signs, never too few.
            if first in (b"[", b"{"):
                values += part.count(b",") + part.count(b"[") + OBJECT * part.count(b"{")
            if is_form:
                # An older python-multipart splits at both.
                values += part.count(b"&") + part.count(b";")
            more = max(taken, values * self.limit // self.values) - holds
            holds += more
            self.held += more
            self.of[client] += more
            if taken > self.limit:
                raise self.too_large()
            if values > self.values:
                said = f"A request's JSON or form may have {self.values} values. An object counts as {OBJECT}."
                raise refusal()(413, said)
            full = self.held > HELD * self.limit or self.of[client] > SHARE * self.limit
            is_large = holds > min(SMALL, self.limit / 2)
            # Starlette would say 400 there, and nothing in a log.
            if is_large and is_upload and is_full(self.limit):
                full = True
                self.say_full()
            if full and is_large:
                raise refusal()(503, "Too many large requests at once.", {"Retry-After": "1"})
            return message

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if int(headers.get(b"content-length", 0)) > self.limit:
                raise self.too_large()
            await self.app(scope, counting, noting)
        except refusal() as refused:
            if begun:
                raise
            await answer(send, refused.status_code, {"detail": refused.detail}, **(refused.headers or {}))
        finally:
            self.held -= holds
            self.of[client] -= holds
            if not self.of[client]:
                del self.of[client]

    def say_full(self) -> None:
        if time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            lines.say(f"503, for {tempfile.gettempdir()} has no room for an upload.", logging.WARNING)

    def too_large(self) -> Any:
        return refusal()(413, f"A request's body may have {self.limit} bytes.")
