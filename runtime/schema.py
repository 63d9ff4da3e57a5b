"""The program that asks the database for `/health`: one connection for a whole slot, and only while somebody asks.

With a psycopg of the stack's own, which the app's process never sees.
"""

import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .demand import LISTENER
from .environment import STACK, libpq_url

if TYPE_CHECKING:
    import psycopg

# Where it listens.
SOCKET = Path(os.environ.get("SLOT_FOLDER", "/tmp")) / "schema.sock"  # noqa: S108 - a tmpfs of the container
# Seconds that the database has for an answer.
TIMEOUT = 1
# Seconds without a question after which it ends: memory for something that is asked every hour.
IDLE = 60


class Asker:
    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[Any] | None = None

    def ask(self) -> dict[str, Any]:
        """Whether the database answers, and the revisions that its schema is at; none when no migration has run."""
        import psycopg
        from psycopg.errors import InsufficientPrivilege, UndefinedTable

        for _ in range(2):
            known = self.connection
            try:
                self.connection = self.connection or psycopg.connect(
                    self.url,
                    autocommit=True,
                    connect_timeout=TIMEOUT,
                    options=f"-c statement_timeout={TIMEOUT}s",
                )
                rows = self.connection.execute("SELECT version_num FROM alembic_version").fetchall()
                # In Python's order and not in that of the database's collation: it is compared with the image's.
                return {"database": "ok", "schema": sorted(row[0] for row in rows)}
            except (UndefinedTable, InsufficientPrivilege):
                return {"database": "ok", "schema": []}
            except psycopg.Error as error:
                lost = known and known.broken
                self.forget()
                said = " ".join(str(error).split())
                if not lost:
                    break
        return {"database": "away", "why": said or "no reason given"}

    def forget(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None


def main() -> int:
    # Before the app's packages, of which this process needs none, and some are too old for psycopg.
    sys.path.insert(1, str(STACK / "db"))
    listener = socket.socket(fileno=LISTENER)
    asker = Asker(libpq_url())
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while selector.select(IDLE):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT)
            # A server that says nothing at all is waited for by libpq for a quarter of an hour: SIGALRM ends this
            # process, whoever asks is told, and the next one gets a process and a connection that are new.
            signal.alarm(2 * TIMEOUT)
            try:
                connection.sendall(json.dumps(asker.ask()).encode() + b"\n")
            except OSError:
                # Whoever asked did not wait.
                continue
            finally:
                signal.alarm(0)
    asker.forget()
    return 0
