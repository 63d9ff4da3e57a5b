"""Routes that do what an app should not, and say who answered."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import StreamingResponse

# Requests made up from the document must not call these.
router = APIRouter(include_in_schema=False)
kept: list[bytearray] = []


@router.get("/slow")
async def slow() -> dict[str, Any]:
    await asyncio.sleep(2)
    return {"slow": True}


@router.get("/who")
async def who() -> dict[str, Any]:
    return {"release": os.environ["STACK_RELEASE"], "slot": socket.gethostname(), "worker": os.getpid()}


@router.get("/live")
@router.get("/ready")
async def inside() -> dict[str, Any]:
    """Named like the probes: no front door may ask for it."""
    return {"from": "the app"}


@router.get("/seen")
async def seen(request: Request) -> dict[str, Any]:
    """What reached it."""
    client = request.client.host if request.client else None
    return {"client": client, "scheme": request.url.scheme, "headers": request.headers.items()}


@router.get("/block")
async def block() -> None:
    """Stands still, and with it the event loop."""
    time.sleep(600)  # noqa: ASYNC251 - that is the point


@router.get("/busy")
async def busy(seconds: float) -> dict[str, float]:
    """Blocks the event loop for a while, as a long computation does."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    return {"busy": seconds}


@router.get("/compute")
async def compute(seconds: float) -> dict[str, float]:
    """Takes so much of a CPU's time, however long that lasts."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return {"computed": seconds}


@router.get("/hog")
async def hog() -> None:
    """Takes memory until somebody ends it."""
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 32)


@router.get("/stream")
async def stream(seconds: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for second in range(seconds):
            yield f"{second}\n"
            await asyncio.sleep(1)
        yield "whole\n"

    return StreamingResponse(lines(), media_type="text/plain")


@router.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
