"""One Uvicorn worker of a slot, forked from a parent that has imported all of this but not the app."""

import asyncio
import faulthandler
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import uvicorn

from app import health, probe, settings
from app.supervisor import STARTUP_FAILURE, Supervisor

# Each module that a worker would otherwise import for itself: memory that all of them share. Never the app's own: what
# it does at import, threads or a model on a GPU, may not survive a fork.
SHARED = (
    "app.database",
    "app.docs",
    "app.errors",
    "app.reads",
    "sqlalchemy.dialects.postgresql.psycopg",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvloop",
)
PORT = 8000
# Seconds. Traefik closes a connection that was idle for 60 (idleConnTimeout in traefik/dynamic/app.yaml). Uvicorn must
# wait longer: a POST on a connection that is just being closed gets 502, because it may not be sent again. A worker
# whose loop stood still closes old connections before it reads them. The watchdog ends it after 30 s: 40 are enough.
KEEP_ALIVE = 100
# A worker grows where PID 1 doesn't: of the two the kernel, out of memory, takes the one with the higher number.
OOM_SCORE = "500"


class Worker(uvicorn.Server):
    """Uvicorn's server under a watchdog: a loop that stands still for `watchdog_seconds` ends the worker.

    It first prints where every thread is. The timer is a thread in C, which needs neither the loop nor the GIL.
    """

    def __init__(self, config: uvicorn.Config, watchdog_seconds: float, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self.watchdog_seconds = watchdog_seconds
        self.serving = serving

    async def main_loop(self) -> None:
        self.serving()
        alive = asyncio.create_task(self.say_alive())
        try:
            await super().main_loop()
        finally:
            alive.cancel()
            faulthandler.cancel_dump_traceback_later()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What Traefik sent before it knew of the drain may still wait in the kernel, when each turn of the loop takes
        # seconds: one turn accepts the connection, the next reads the request.
        for _ in range(3):
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    async def say_alive(self) -> None:
        armed = 0.0
        while True:
            self.serving()
            if time.monotonic() - armed > self.watchdog_seconds / 6:
                armed = time.monotonic()
                # A thread each time: not every second.
                faulthandler.dump_traceback_later(self.watchdog_seconds, exit=True)
            await asyncio.sleep(min(1, self.watchdog_seconds / 6))


def config(chosen: settings.Settings) -> uvicorn.Config:
    return uvicorn.Config(
        health.application,
        factory=True,
        host="0.0.0.0",  # noqa: S104 - the container's own network
        port=PORT,
        loop="uvloop",
        http="httptools",
        log_level=chosen.log_level,
        # Traefik logs every request; here it would cost a third of the speed.
        access_log=False,
        server_header=False,
        forwarded_allow_ips=chosen.forwarded_allow_ips,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=chosen.graceful_seconds,
    )


def work(chosen: settings.Settings, listener: socket.socket, serving: Callable[[], None]) -> int:
    """Serve until told to stop, after a call of `serving`; return the exit code."""
    Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    worker = Worker(config(chosen), chosen.watchdog_seconds, serving)
    worker.run([listener])
    return 0 if worker.started else STARTUP_FAILURE


def main() -> int:
    # Complete by now: app.serve has put in what it computes.
    chosen = settings.load()
    assert chosen.workers
    for module in SHARED:
        import_module(module)
    # Bound, and listening only once a worker does: until then Traefik is refused and asks the other slot.
    listener = config(chosen).bind_socket()
    probes = socket.create_server(("", probe.PORT))
    return Supervisor(
        partial(work, chosen), listener, chosen.workers, chosen.drain_seconds, chosen.graceful_seconds, probes
    ).run()


if __name__ == "__main__":
    sys.exit(main())
