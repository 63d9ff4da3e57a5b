"""The command of a slot, PID 1 there: checks the settings, finds the app, and becomes the workers' supervisor."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from . import environment, find, lines, notes, relay, schema, settings
from .demand import OnDemand
from .limits import Sizes, Wrong
from .settings import Settings
from .supervisor import SIGNALS, Supervisor

# The role that serves.
ROLE = "app"
# Times WATCHDOG_SECONDS that a loop may stand still before its watchdog must have failed.
LOST = 2


def programs(chosen: Settings) -> "list[OnDemand]":
    """What is started when somebody connects: the one that asks for `/health`, and the way to Postgres by TCP."""
    schema.SOCKET.unlink(missing_ok=True)
    questions = socket.socket(socket.AF_UNIX)
    questions.bind(str(schema.SOCKET))
    questions.listen()
    found = [OnDemand(questions, str(environment.STACK / "bin/schema"))]
    if environment.IN_IMAGE and not chosen.database_url:
        # Elsewhere that port is a Postgres's.
        found.append(OnDemand(socket.create_server(relay.ADDRESS), str(environment.STACK / "bin/relay")))
    return found


def begin() -> "tuple[Settings, find.Found, Sizes]":
    """The settings, where the app is, and what fits into the container. Raises Wrong."""
    chosen = settings.load()
    environment.prepare(chosen, ROLE)
    environment.find_libraries()
    found = find.find(chosen.app, Path.cwd())
    settings.check_room(chosen)
    return chosen, found, chosen.sizes()


@settings.program
def main() -> int:
    # The kernel drops a signal that PID 1 does not handle yet: Docker would wait, and then kill a slot that serves by
    # now. Blocked, a signal waits until the supervisor handles it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if environment.IN_IMAGE and os.getpid() != 1:
        raise Wrong(
            "The image's ENTRYPOINT runs its command as a child, so that no signal reaches the app: end it with "
            '`exec "$@"`, or leave it out with APP_ENTRYPOINT=skip. Or an init of the engine\'s is PID 1: leave out '
            "`init: true` in compose.override.yaml, or --init. The stack's own server must be PID 1."
        )
    chosen, found, sizes = begin()
    notes.make_folder()
    os.environ["STACK_POOL_SIZE"] = str(sizes.pool_size)
    # Bound, and listening only once a worker does: until then Traefik is refused and asks the other slot.
    listener = bind("PORT", chosen.host, chosen.port)
    probes = bind("READINESS_PORT", chosen.host, chosen.readiness_port)
    probes.listen()
    if sizes.workers > 1:
        # With one worker there is nobody to share with, and PID 1 stays small.
        from . import worker

        worker.share()
    numbers = sizes.workers, chosen.drain_seconds, chosen.graceful_seconds
    started = programs(chosen), LOST * chosen.watchdog_seconds
    return Supervisor(partial(work, found, chosen), listener, *numbers, probes, *started).run()


def bind(setting: str, host: str, port: int) -> socket.socket:
    """A socket of that address, for IPv4 too where it is `::`. Raises Wrong."""
    try:
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host, port))
    except OSError as error:
        raise Wrong(f"{setting}={port} is wrong: HOST={host} can't be listened on there: {error.strerror}.") from None
    return bound


def work(found: find.Found, chosen: Settings, listener: socket.socket, serving: Callable[[], bool]) -> int:
    """What each worker does, in its own process."""
    from . import worker

    made = worker.config(partial(worker.application, found, chosen), chosen)
    return worker.work(made, chosen.watchdog_seconds, listener, serving)


def ask_database() -> None:
    """End the process with 2 when the database can't be used. A child asks: its psycopg is not the app's."""
    child = os.fork()
    if not child:
        sys.path.insert(1, str(environment.STACK / "db"))
        said = schema.Asker(environment.libpq_url()).ask()
        if said["database"] != "ok":
            lines.say(f"DATABASE_URL is wrong: the database can't be used: {said['why']}", logging.ERROR)
        os._exit(said["database"] != "ok")
    if os.waitpid(child, 0)[1]:
        raise SystemExit(2)


@settings.program
def check() -> int:
    """Whether the settings are right and the app can be imported with them: asked before a release serves."""
    # By this `./stack` sees that the image's ENTRYPOINT runs what it is given.
    print("Looking for the app.", flush=True)
    _, found, _ = begin()
    if "--database" in sys.argv:
        ask_database()
    asyncio.new_event_loop().run_until_complete(import_app(found))
    return 0


async def import_app(found: find.Found) -> NoReturn:
    """Import it as a worker does, within a loop, which an app may use, and end the process."""
    code: Any = 0
    try:
        # What the app says there may be why it can't go on.
        with contextlib.redirect_stdout(sys.stderr):
            find.load_or_exit(found)
        lines.say(f"The app is {found.module}.")
    except SystemExit as end:
        code = end.code
    # A thread or a task that the app has started may go on for ever.
    lines.end(code)
