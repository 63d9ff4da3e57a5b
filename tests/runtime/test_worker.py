import asyncio
import contextlib
import faulthandler
import io
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from runtime import worker
from runtime.find import Found
from runtime.health import ASGIApp, Receive, Scope, Send
from runtime.settings import Settings
from runtime.supervisor import AT_ONCE
from tests.conftest import REPO
from tests.runtime.asgi import answering, ask
from tests.stack.stacks import free_ports, wait_until

APP = """
from fastapi import FastAPI, Request
app = FastAPI()

@app.post("/")
async def upload(request: Request) -> int:
    return len(await request.body())
"""


# As FastAPI's documentation has it: a session, and in two more steps what uses it; each step is a thread's.
SYNC = """
import threading
from typing import Annotated
from fastapi import Depends, FastAPI
app = FastAPI()
pool = threading.BoundedSemaphore(5)

def session():
    yield 1

def user(one: Annotated[int, Depends(session)]) -> int:
    assert pool.acquire(timeout=5)
    return one

@app.get("/")
def read(one: Annotated[int, Depends(user)]) -> int:
    pool.release()
    return one
"""


def test_threads_for_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than AnyIO's own 40 threads: those who have a connection get one, and so everybody goes on."""
    app = make("sync_app_of_a_test", SYNC, tmp_path, monkeypatch)

    async def many() -> set[int]:
        worker.more_threads()
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
            return {answer.status_code for answer in await asyncio.gather(*(client.get("/") for _ in range(100)))}

    assert asyncio.run(many()) == {200}


def test_uvicorn_stops_before_docker_kills() -> None:
    """Drain, graceful shutdown and the supervisor's last second end before the grace period does."""
    chosen = Settings(drain_seconds=5, stop_grace_seconds=30)
    graceful = worker.config(lambda: answering(200), chosen).timeout_graceful_shutdown
    assert graceful == 16
    assert graceful + 6 == chosen.graceful_seconds
    assert chosen.drain_seconds + chosen.graceful_seconds + AT_ONCE < 30
    assert Settings(drain_seconds=5, stop_grace_seconds=9).answer_seconds == 1


def test_idle_connections_are_traefiks_to_close() -> None:
    """Uvicorn keeps them longer, by as long as a loop may stand still, or a request would meet one that just closes."""
    line = next(line for line in (REPO / "traefik/dynamic/app.yaml").read_text().splitlines() if "idleConn" in line)
    traefik = int(line.split(":")[1].strip().rstrip("s"))
    for watchdog in (1, 30, 300):
        made = worker.config(lambda: answering(200), Settings(watchdog_seconds=watchdog))
        assert made.timeout_keep_alive > traefik + watchdog


def make(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ASGIApp:
    """The app of that module, with all that stands around it."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return worker.application(Found(name, None), Settings(body_limit=1000))


def test_what_stands_around_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/health` is answered, large bodies refused, and all else is the app's."""
    app = make("app_of_a_test", APP, tmp_path, monkeypatch)
    assert ask(app, path="/health").body.startswith(b'{"database":')
    assert ask(app, "POST", chunks=[b"x"], headers=[("content-length", "1")]).body == b"1"
    assert ask(app, "POST", chunks=[b"x" * 1001], headers=[("content-length", "1001")]).status == 413
    assert ask(app, path="/nowhere").body == b'{"detail":"Not Found"}'


def test_app_below_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proxy has taken off is said as Uvicorn says it; what stands around the app is where it was."""
    monkeypatch.setenv("UVICORN_ROOT_PATH", "/api/")
    app = make("app_below_a_path", APP, tmp_path, monkeypatch)
    assert ask(app, "POST", chunks=[b"x"], headers=[("content-length", "1")]).body == b"1"
    page = ask(app, path="/docs")
    assert b"'/api/openapi.json'" in page.body
    assert "https://cdn.jsdelivr.net" in page.headers["content-security-policy"]
    assert b'"servers":[{"url":"/api"}]' in ask(app, path="/openapi.json").body
    assert ask(app, path="/health").body.startswith(b'{"database":')
    assert ask(app, path="/api/docs").status == 404


def test_message_of_a_websocket() -> None:
    """It may be as large as a body, and no compressed one is larger than what the client sent."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})

    [port] = free_ports(1)
    server = uvicorn.Server(worker.config(lambda: echo, Settings(host="127.0.0.1", port=port, body_limit=1000)))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 20)
        with connect(f"ws://127.0.0.1:{port}", compression="deflate") as socket:
            assert not socket.protocol.extensions
            socket.send(b"x" * 1000)
            assert socket.recv() == b"x" * 1000
            socket.send(b"x" * 1001)
            with pytest.raises(ConnectionClosedError, match="1009"):
                socket.recv()
    finally:
        server.should_exit = True
        thread.join()
    assert worker.config(lambda: echo, Settings(body_limit=1 << 30)).ws_max_size == 16 << 20


@contextlib.contextmanager
def running(serving: Callable[[], bool]) -> Iterator[threading.Thread]:
    """A worker in a thread, which is told to end."""
    made = worker.config(lambda: answering(200), Settings(host="127.0.0.1", port=0))
    server = worker.Worker(made, 30, serving)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join()
        # It watches over the end of the worker's process, which this one is not.
        faulthandler.cancel_dump_traceback_later()


def test_app_with_a_standard_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is no file, as where what is printed becomes lines of a log: its worker goes on to say that it turns."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    # The first is before it is watched.
    turns = iter(range(3))
    with running(lambda: next(turns, 0) > 2):
        wait_until(lambda: operator.length_hint(turns) == 0, 20)


def test_worker_without_a_watchdog_ends(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where no thread can be had for it: another worker takes its place, and it says why."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", refuse)
    with running(lambda: False) as thread:
        thread.join(20)
        assert not thread.is_alive()
    assert "The worker's watchdog failed: RuntimeError('unable to start watchdog thread')" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("broken_app", "raise RuntimeError('as planned')", 1, "RuntimeError: as planned\n"),
        ("empty_app", "app = 5", 2, "APP names it: APP=empty_app:name.\n"),
    ],
)
def test_app_that_cannot_be_imported_ends_the_slot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    code: int,
    said: str,
) -> None:
    """After its traceback, or a sentence: trying again at once would help nobody."""
    with pytest.raises(SystemExit) as end:
        make(name, text, tmp_path, monkeypatch)
    assert end.value.code == code
    assert capsys.readouterr().err.endswith(said)


def test_what_is_shared_may_be_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app's environment has not is no error, and what is broken there is the app's to tell."""
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('as planned')")
    (tmp_path / "good_library.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(worker, "SHARED", ("no_such_library.orm", "broken_library", "good_library"))
    worker.share()
    assert "good_library" in sys.modules
    del sys.modules["good_library"]
