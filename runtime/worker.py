"""One Uvicorn worker of a slot, forked from a parent that has imported all of this but not the app."""

import asyncio
import contextlib
import faulthandler
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import uvicorn

from . import find, hints, invalid, lines, settings
from .away import Away
from .body import BodyLimit
from .headers import Headers, documentation
from .health import ASGIApp, Health, Receive, Scope, Send
from .limits import MIB
from .peer import believing

# What most apps import, and what survives a fork: memory that all workers share, where the app has it. Never the app's
# own code: what it does at import, threads or a model on a GPU, may not survive one.
SHARED = (
    "fastapi",
    "pydantic",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "asyncpg",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
# Seconds. Traefik closes a connection that was idle for 60 (idleConnTimeout in traefik/dynamic/app.yaml). Uvicorn must
# wait longer: a POST on a connection that is just being closed gets 502, because it may not be sent again. A worker
# whose loop stood still closes old connections before it reads them: as long as its watchdog lets it, more are added.
KEEP_ALIVE = 70
# Bytes of the largest message of a WebSocket where BODY_LIMIT allows more: Uvicorn's own limit.
MESSAGE = 16 * MIB
# What a worker returns that did not get as far as serving, as Uvicorn has it.
STARTUP_FAILURE = 3
# A worker grows where PID 1 doesn't: of the two the kernel, out of memory, takes the one with the higher number.
OOM_SCORE = "500"
# Threads for the app's routes without `async`, in place of AnyIO's 40. Such a route takes a thread more than once, and
# may hold a connection of its pool between two. When all threads wait for a connection, those who have one wait for a
# thread, and nobody goes on until the pool's time is over. So there is one for each request: half of IN_FLIGHT_LIMIT.
THREADS = 250


def more_threads() -> None:
    """Let AnyIO have THREADS in this loop, where the app has AnyIO; it makes them as they are needed."""
    with contextlib.suppress(ImportError):
        # The app's own, which the stack does not need.
        import_module("anyio.to_thread").current_default_thread_limiter().total_tokens = THREADS


class Worker(uvicorn.Server):
    """Uvicorn's server under a watchdog: a loop that stands still for `watchdog_seconds` ends the worker.

    It first prints where every thread is. The timer is a thread in C, which needs neither the loop nor the GIL.
    """

    def __init__(self, config: uvicorn.Config, watchdog_seconds: float, serving: Callable[[], bool]) -> None:
        super().__init__(config)
        self.watchdog_seconds = watchdog_seconds
        self.serving = serving

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        # Before the app's own start, which may want another number.
        more_threads()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        self.serving()
        alive = asyncio.create_task(self.say_alive())
        alive.add_done_callback(self.unwatched)
        try:
            await super().main_loop()
        finally:
            alive.cancel()
            # What the app leaves for its end may hang, too. In a drain PID 1 kills before that.
            with contextlib.suppress(RuntimeError):
                seconds = self.watchdog_seconds + 2 * (self.config.timeout_graceful_shutdown or 0)
                faulthandler.dump_traceback_later(seconds, exit=True, file=2)

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        # What Traefik sent before it knew of the drain may still wait in the kernel, when each turn of the loop takes
        # seconds: one turn accepts the connection, the next reads the request.
        for _ in range(3):
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    async def say_alive(self) -> None:
        armed = 0.0
        while True:
            Headers.draining = self.serving()
            if time.monotonic() - armed > self.watchdog_seconds / 6:
                armed = time.monotonic()
                # A thread each time: not every second. To the descriptor: the app's sys.stderr may be no file.
                faulthandler.dump_traceback_later(self.watchdog_seconds, exit=True, file=2)
            await asyncio.sleep(min(1, self.watchdog_seconds / 6))

    def unwatched(self, alive: "asyncio.Task[None]") -> None:
        """Have another take this worker's place, where no thread can be had for its watchdog."""
        if not alive.cancelled() and (error := alive.exception()):
            lines.say(f"The worker's watchdog failed: {error!r}", logging.ERROR)
            self.should_exit = True


def below(app: ASGIApp, path: str) -> ASGIApp:
    """The app, told what a proxy has taken off each path, as `uvicorn --root-path` tells it; only the app is."""
    root = path.strip("/") and f"/{path.strip('/')}"

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            raw = root.encode() + scope.get("raw_path", b"")
            scope = {**scope, "root_path": root, "path": root + scope["path"], "raw_path": raw}
        await app(scope, receive, send)

    return told if root else app


def application(found: find.Found, chosen: settings.Settings) -> ASGIApp:
    """The app, with all that stands around it. One that can't be imported ends the worker."""
    app = find.load_or_exit(found)
    invalid.bound()
    # Uvicorn's own name for it, of which its class knows nothing.
    told = below(app, os.environ.get("UVICORN_ROOT_PATH", ""))
    around = BodyLimit(Away(told, chosen.pool_timeout), chosen.body_limit, chosen.worker_memory * MIB)
    made = Headers(Health(around), chosen.content_security_policy, set(documentation(app)))
    return believing(made, chosen)


def config(app: Callable[[], ASGIApp], chosen: settings.Settings) -> uvicorn.Config:
    made = uvicorn.Config(
        app,
        factory=True,
        # An instance with __call__ would be taken for ASGI 2 by an older Uvicorn.
        interface="asgi3",
        host=chosen.host,
        port=chosen.port,
        log_level=chosen.log_level,
        # Traefik logs every request; here it would cost a third of the speed.
        access_log=False,
        server_header=False,
        # peer.py does it.
        proxy_headers=False,
        # A connection holds one or two that the app has not taken. Compressed, 64 KB could be six of the largest.
        ws_max_size=min(chosen.body_limit, MESSAGE),
        ws_max_queue=1,
        ws_per_message_deflate=False,
        timeout_keep_alive=math.ceil(KEEP_ALIVE + chosen.watchdog_seconds),
        timeout_graceful_shutdown=chosen.answer_seconds,
    )
    # It has just set up its logging.
    lines.of_uvicorn()
    logging.getLogger("uvicorn").addHandler(hints.Handler(logging.ERROR))
    return made


def work(made: uvicorn.Config, watchdog_seconds: float, listener: socket.socket, serving: Callable[[], bool]) -> int:
    """Serve until told to stop, after a call of `serving`; return the exit code."""
    # A wish: where it is refused, the worker serves all the same.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    worker = Worker(made, watchdog_seconds, serving)

    def stop(*_: object) -> None:
        worker.should_exit = True

    # For a signal before Uvicorn handles it. It raises the one that has stopped it again, with these in place: by
    # default the process would die there, before the loop has waited for jobs in its threads.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # A process that the app forks would have them too, and never end of SIGTERM.
    os.register_at_fork(after_in_child=end_by_signals)
    worker.run([listener])
    return 0 if worker.started else STARTUP_FAILURE


def end_by_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def share() -> None:
    """Import what all workers will need, where the app's environment has it."""
    for name in SHARED:
        # One that is broken is the app's to tell, when it imports it.
        with contextlib.suppress(Exception):
            if find_spec(name.partition(".")[0]):
                import_module(name)
