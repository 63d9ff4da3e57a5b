"""The command of a slot, PID 1: checks the settings, finds the app, and becomes the workers' supervisor."""

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from . import environment, find, relay, schema, settings
from .demand import OnDemand
from .limits import Sizes, Wrong
from .settings import Settings
from .supervisor import SIGNALS, Supervisor

# Where PID 1 answers probes: readiness.py.
PORT = 8001
# The role that serves.
ROLE = "app"


def programs(chosen: Settings) -> "list[OnDemand]":
    """What is started when somebody connects: the one that asks for `/health`, and the way to Postgres by TCP."""
    schema.SOCKET.unlink(missing_ok=True)
    questions = socket.socket(socket.AF_UNIX)
    questions.bind(str(schema.SOCKET))
    questions.listen()
    found = [OnDemand(questions, str(environment.STACK / "bin/schema"))]
    if not chosen.database_url:
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
    if os.getpid() != 1:
        raise Wrong(
            "The image's ENTRYPOINT runs its command as a child, so that no signal reaches the app: end it with "
            '`exec "$@"`, or leave it out with APP_ENTRYPOINT=skip.'
        )
    chosen, found, sizes = begin()
    os.environ["STACK_POOL_SIZE"] = str(sizes.pool_size)
    from . import worker

    worker.share()
    made = worker.config(worker.application(found, chosen), chosen)
    # Bound, and listening only once a worker does: until then Traefik is refused and asks the other slot.
    listener = made.bind_socket()
    return Supervisor(
        partial(worker.work, made, chosen.watchdog_seconds),
        listener,
        sizes.workers,
        chosen.drain_seconds,
        chosen.graceful_seconds,
        socket.create_server(("", PORT)),
        programs(chosen),
    ).run()


def ask_database() -> None:
    """End the process with 2 when the database can't be used. A child asks: its psycopg is not the app's."""
    child = os.fork()
    if not child:
        sys.path.insert(1, str(environment.STACK / "db"))
        said = schema.Asker(environment.libpq_url()).ask()
        if said["database"] != "ok":
            print(f"DATABASE_URL is wrong: the database can't be used: {said['why']}", file=sys.stderr, flush=True)
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
    find.load_or_exit(found)
    print(f"The app is {found.module}.", file=sys.stderr)
    return 0
