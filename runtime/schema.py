"""The program that asks the database for `/health`: one connection for a whole slot, and only while somebody asks.

With a psycopg of the stack's own, which the app's process never sees.
"""

import json
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from .demand import LISTENER
from .environment import STACK, libpq_url, unread
from .notes import FOLDER

if TYPE_CHECKING:
    import psycopg

# Where it listens.
SOCKET = FOLDER / "schema.sock"
# Seconds that the database has for an answer.
TIMEOUT = 1
# One message, and so one transaction.
QUESTION = f"SET LOCAL statement_timeout = '{TIMEOUT}s'; SELECT version_num FROM alembic_version"  # noqa: S608 - ours
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

        is_new = not self.connection
        try:
            # Nothing of a session's, which a pooler in transaction mode has none of: no option, no prepared statement.
            self.connection = self.connection or psycopg.connect(
                self.url, autocommit=True, connect_timeout=TIMEOUT, prepare_threshold=None
            )
            answer = self.connection.execute(QUESTION)
            answer.nextset()
            # In Python's order and not in that of the database's collation: it is compared with the image's.
            return {"database": "ok", "schema": sorted(row[0] for row in answer)}
        except (UndefinedTable, InsufficientPrivilege):
            return {"database": "ok", "schema": []}
        except psycopg.ProgrammingError as error:
            return {"database": "away", "why": unread(error)}
        except psycopg.Error as error:
            lost, self.connection = self.connection, None
            # A restart of Postgres is no outage.
            if lost and lost.broken and not is_new:
                return self.ask()
            return {"database": "away", "why": " ".join(str(error).split()) or "no reason given"}


def main() -> int:
    # Before the app's packages, of which this process needs none, and some are too old for psycopg.
    sys.path.insert(1, str(STACK / "db"))
    # Now, for none of this is the database's time: a busy machine takes seconds for it.
    import psycopg  # noqa: F401

    listener, asker = socket.socket(fileno=LISTENER), Asker(libpq_url())
    listener.settimeout(IDLE)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return 0
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
