"""Requests to an ASGI app as Uvicorn brings them, without a server."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.health import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Answer:
    """What the app sent, and what it raised."""

    sent: list[Message]
    error: Exception | None

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def ask(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    chunks: Sequence[bytes] = (),
    headers: Sequence[tuple[str, str]] = (),
    client: str = "::1",
) -> Answer:
    """The answer to a request with a body in these chunks. Whoever reads on after the body waits, as in Uvicorn."""
    sent: list[Message] = []
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": (client, 1234),
        "state": {},
    }

    async def request() -> Exception | None:
        try:
            await asyncio.wait_for(app(scope, receive, send), 20)
        except Exception as error:
            return error
        return None

    return Answer(sent, asyncio.run(request()))


def start(status: int) -> Message:
    return {"type": "http.response.start", "status": status, "headers": []}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def answering(status: int, *parts: bytes) -> ASGIApp:
    """An app that sends this and reads nothing."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(status))
        for one in parts[:-1]:
            await send(part(one, more=True))
        await send(part(parts[-1] if parts else b""))

    return app
