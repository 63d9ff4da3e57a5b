"""The largest request body, counted as it arrives, whatever Content-Length says of it; of JSON what it would become.

Here and not in Traefik, which could only count a body by keeping all of it first, in memory and on a disk that it has
not got: a hundred of them would be the end of it.
"""

import sys
from collections import Counter
from collections.abc import Awaitable
from ipaddress import ip_network
from typing import Any

from .health import ASGIApp, Message, Receive, Scope, Send, answer

# Bodies of the largest size that one worker holds at a time. An app needs several times a body's size to read it. One
# client has half of that, so that it can't keep the others out by sending slowly.
HELD = 3
SHARE = HELD / 2
# Bytes of a body that is never refused for what others hold.
SMALL = 65536
# Bytes of memory that Python takes for the smallest value of JSON worth an attack: `{}`, and its place in a list.
# https://docs.python.org/3/library/sys.html#sys.getsizeof
VALUE = 64
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


class BodyLimit:
    """Answers 413 for a body of more than `limit` bytes, and 503 while a worker's requests hold too many of them.

    413, too, for JSON that would not fit into its part of `memory`, the bytes of a worker: 10 MB of `[{},{},…]` become
    200 MB of objects.
    """

    def __init__(self, app: ASGIApp, limit: int, memory: int) -> None:
        self.app = app
        self.limit = limit
        self.values = memory // PART // VALUE
        self.held = 0
        self.of: Counter[str] = Counter()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            # Without either of them a request has no body: https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            if b"content-length" in headers or b"transfer-encoding" in headers:
                return self.counted(scope, receive, send, headers)
        return self.app(scope, receive, send)

    async def counted(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        taken, values, begun = 0, 0, False
        client = network((scope.get("client") or ("", 0))[0])
        is_json = b"json" in headers.get(b"content-type", b"").lower()

        async def counting() -> Message:
            nonlocal taken, values
            message = await receive()
            part = message.get("body", b"")
            taken += len(part)
            self.held += len(part)
            self.of[client] += len(part)
            if taken > self.limit:
                raise self.too_large()
            if is_json:
                # Too many where text has such signs, never too few.
                values += part.count(b",") + part.count(b"[") + part.count(b"{")
                if values > self.values:
                    raise refusal()(413, f"A request's JSON may have {self.values} values.")
            full = self.held > HELD * self.limit or self.of[client] > SHARE * self.limit
            if full and taken > min(SMALL, self.limit / 2):
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
            self.held -= taken
            self.of[client] -= taken
            if not self.of[client]:
                del self.of[client]

    def too_large(self) -> Any:
        return refusal()(413, f"A request's body may have {self.limit} bytes.")
