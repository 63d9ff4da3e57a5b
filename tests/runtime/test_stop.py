"""How an app's own work ends with its slot, without an engine. Needs root."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.slots import Slot

# It writes down what it has come to the end of.
APP = """
import asyncio, atexit, multiprocessing, os, time
from contextlib import asynccontextmanager
from pathlib import Path
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

def done(what: str, seconds: float = 0) -> None:
    time.sleep(seconds)
    Path(what).touch()

@asynccontextmanager
async def lifespan(app: FastAPI):
    yield
    await asyncio.sleep(1.5)
    done("lifespan")

app = FastAPI(lifespan=lifespan)
atexit.register(done, "atexit")
# At its own end multiprocessing ends it by SIGTERM, and waits for that.
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True).start()

@app.get("/job")
async def job() -> str:
    asyncio.get_running_loop().run_in_executor(None, done, "job", 3)
    return "begun"

@app.get("/stream")
async def stream() -> StreamingResponse:
    async def never():
        while True:
            yield "x"
            await asyncio.sleep(0.1)
    return StreamingResponse(never())
"""


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    slot = Slot(tmp_path, app=APP, WORKERS="1", STOP_GRACE_SECONDS="19")
    slot.starts()
    yield slot
    slot.stop()


def test_lifespan_has_time_beside_a_stream(slot: Slot, tmp_path: Path) -> None:
    """A client that never goes takes three quarters of the time, and the rest is for what the app does at its end."""
    with socket.create_connection(("127.0.0.1", slot.port)) as client:
        client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        said = slot.stop()
    assert (tmp_path / "lifespan").exists(), said
    assert "Killed" not in said


def test_threads_and_atexit(slot: Slot, tmp_path: Path) -> None:
    """A job in a thread is done, and what the app has registered for its end is called."""
    assert slot.ask("/job")[1] == '"begun"'
    said = slot.stop()
    assert {"lifespan", "job", "atexit"} <= {path.name for path in tmp_path.iterdir()}, said
    assert "Killed" not in said
    assert "Traceback" not in said
    assert slot.process.returncode == 0
