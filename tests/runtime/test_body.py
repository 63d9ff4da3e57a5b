import asyncio
import json

import pytest
from app.body import HELD, BodyLimit
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMIT = 100


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that knows nothing of FastAPI's exceptions."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def ask(app: ASGIApp, chunks: list[bytes], length: str | None = None) -> tuple[int, bytes]:
    """Status and body of the app's answer to a body in these chunks."""
    sent: list[Message] = []
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", length.encode())] if length else [(b"transfer-encoding", b"chunked")] * bool(chunks)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}

    async def request() -> None:
        await app(scope, receive, send)

    asyncio.run(request())
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("chunks", "length", "status"),
    [
        ([b"x" * 100], "100", 200),
        ([b"x" * 50, b"x" * 50], None, 200),
        ([], "101", 413),
        ([b"x" * 50, b"x" * 51], None, 413),
        ([b"x" * 101], "5", 413),
        ([], None, 200),
    ],
)
def test_limit(chunks: list[bytes], length: str | None, status: int) -> None:
    """One byte over is 413, by Content-Length before anything is read, and by count where there is none or a lie."""
    found, body = ask(BodyLimit(reading, LIMIT), chunks, length)
    assert found == status
    if status == 413:
        assert json.loads(body) == {"detail": "A request's body may have 100 bytes."}


def test_bodies_of_all_requests_together() -> None:
    """What a worker's requests hold together is bounded: one more is 503, and is forgotten when it ends."""
    limit = BodyLimit(reading, LIMIT)
    limit.held = HELD * LIMIT - 10
    assert ask(limit, [b"x" * 10])[0] == 200
    assert ask(limit, [b"x" * 11])[0] == 503
    assert limit.held == HELD * LIMIT - 10
