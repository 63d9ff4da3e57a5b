"""The largest request body, counted as it arrives, whatever Content-Length says of it.

Here and not in Traefik, which could only count a body by keeping all of it first, in memory and on a disk that it has
not got: a hundred of them would be the end of it.
"""

import sys
from collections.abc import Awaitable
from functools import lru_cache
from typing import Any

from .health import ASGIApp, Message, Receive, Scope, Send, answer

# Bodies of the largest size that one worker holds at a time. An app needs several times a body's size to read it.
HELD = 3


@lru_cache
def refusal() -> Any:
    """An exception that reaches the app where it reads the body.

    Where the app has Starlette it is Starlette's own, so that FastAPI answers with it; others leave it to BodyLimit.
    Looked up late: it must be the app's Starlette.
    """
    module = sys.modules.get("starlette.exceptions")
    base = module.HTTPException if module else Exception

    class Refused(base):  # type: ignore[misc, valid-type]  # known only when it runs
        def __init__(self, status_code: int, detail: str, headers: dict[str, str]) -> None:
            super().__init__(*((status_code, detail, headers) if module else ()))
            self.status_code, self.detail, self.headers = status_code, detail, headers

    return Refused


class BodyLimit:
    """Answers 413 for a body of more than `limit` bytes, and 503 while a worker's requests hold too many of them."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.held = 0

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            # Without either of them a request has no body: https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            if b"content-length" in headers or b"transfer-encoding" in headers:
                return self.counted(scope, receive, send, headers)
        return self.app(scope, receive, send)

    async def counted(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        taken, begun = 0, False

        async def counting() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken += size
            self.held += size
            if taken > self.limit:
                raise self.too_large()
            if self.held > HELD * self.limit:
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
            await answer(send, refused.status_code, {"detail": refused.detail}, **refused.headers)
        finally:
            self.held -= taken

    def too_large(self) -> Any:
        return refusal()(413, f"A request's body may have {self.limit} bytes.", {})
