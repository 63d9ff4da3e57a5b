"""The one-shot migration: any command, once, politely, as the role that owns the schema.

One at a time by an advisory lock, with timeouts that reach every libpq by PGOPTIONS. It waits for a database that is
away, and for tables in use, and says which revision failed and where the schema is.
"""

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import demand, environment, hints, lines, relay, settings
from .limits import Wrong

if TYPE_CHECKING:
    import psycopg

# Any number will do, as long as every release uses the same. Where another role holds it, the next one counts.
LOCK = 5_284_019_753
# Seconds between two tries.
PAUSE = 0.5
# How long a statement may wait for a lock on a table: everything that comes after it waits as long.
LOCK_TIMEOUT = "1s"
# A migration that was killed leaves its statement running, for hours maybe; the server looks whether it is still there.
CHECK_CLIENT = "1s"
CONTAINS = "Contains the revisions "
# What the drivers say of a table that somebody else uses.
IN_USE = re.compile(r"canceling statement due to lock timeout|deadlock detected")
# What a server says that is there and will not have us, however long we wait: libpq has no SQLSTATE of a connection.
REFUSED = re.compile(
    r'authentication failed|no pg_hba\.conf entry|(?:role|database) "[^"]*" does not exist'
    r"|certificate|does not support SSL"
)
# What PgBouncer says of the timeouts.
POOLED = "unsupported startup parameter"
RUNNING = re.compile(r"Running (?P<step>(?:up|down)grade .*)")
# Whether who has the lock is this role, and not somebody who would only be in the way; nothing when nobody has it.
HOLDER = """
SELECT who.usename = current_user FROM pg_catalog.pg_locks AS held JOIN pg_catalog.pg_stat_activity AS who USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND who.datname = pg_catalog.current_database()
AND (held.classid::bigint << 32 | held.objid::bigint) = %s
"""


class Migration:
    """`deadline` is of time.monotonic(); `known` is what the image knows of its revisions."""

    def __init__(self, chosen: settings.Settings, known: dict[str, Any]) -> None:
        self.deadline = time.monotonic() + chosen.migrate_deadline
        self.url = environment.libpq_url()
        self.graph: dict[str, list[str]] = known.get("graph", {})
        self.heads = set(known.get("heads", []))
        self.said = set[str]()

    def connect(self) -> "psycopg.Connection[Any]":
        """Wait for a database that is away, or not yet known by its name."""
        import psycopg

        while True:
            try:
                connection = psycopg.connect(self.url, autocommit=True, connect_timeout=5)
                # The command's limit is not the wrapper's own, which may wait: after the command none can be repeated.
                connection.execute("SET lock_timeout = 0")
                return connection
            except psycopg.ProgrammingError as error:
                raise Wrong(f"DATABASE_URL is wrong: libpq can't read it: {environment.unread(error)}.") from None
            except psycopg.OperationalError as error:
                failure = f"The database can't be reached: {' '.join(str(error).split())}"
            if POOLED in failure:
                fail(f"{failure}. This is a pooler: let MIGRATION_DATABASE_URL lead past it, to Postgres itself.")
            if REFUSED.search(failure):
                fail(failure)
            self.wait("Waiting for the database.", failure)

    def lock(self, connection: "psycopg.Connection[Any]") -> None:
        """Hold the lock of which there is one in the database; end the process when it can't be had by the deadline.

        The server frees it when the connection ends, however this process does. Polled: a connection that waits inside
        Postgres holds a snapshot, and CREATE INDEX CONCURRENTLY waits for each.
        """
        key = LOCK
        while not value(connection, "SELECT pg_catalog.pg_try_advisory_lock(%s)", key):
            ours = value(connection, HOLDER, key)
            if ours:
                self.wait("Waiting for another migration.", "Another migration held the lock until MIGRATE_DEADLINE.")
            # A role that may only use the database must not keep it from its owner. One that was given back just now
            # is tried again: with another, two would migrate at once.
            key += ours is False

    def wait(self, why: str, failure: str) -> None:
        """Pause before the next try, and say why, once; at the deadline it is a failure."""
        if time.monotonic() > self.deadline:
            fail(failure)
        if why not in self.said:
            self.said.add(why)
            lines.say(why)
        time.sleep(PAUSE)

    def run(self, command: list[str]) -> None:
        """Run the command, again while a table is in use; ends the process when it fails."""
        import psycopg

        with self.connect() as connection:
            self.lock(connection)
            contained = self.contents(connection)
            if self.is_newer(contained):
                return lines.say("The schema is newer than this code: there is nothing to do.")
            before = self.current(connection)
            while True:
                code, last, step = self.attempt(command)
                if not code:
                    break
                if not IN_USE.search(last) or time.monotonic() > self.deadline:
                    hints.say(last)
                    fail(f"Failed: {step or shlex.join(command)}.{self.where(connection)}", code)
                lines.say("A table is in use; trying again.")
                time.sleep(PAUSE)
            try:
                after = self.remember(connection, contained)
            except psycopg.OperationalError:
                # It was idle while the command ran, and is gone. What the command did stands.
                with self.connect() as another:
                    after = self.remember(another, contained)
        if not self.graph:
            lines.say("The migration's command ran.")
        elif after != before:
            lines.say(f"The schema went from {', '.join(sorted(before)) or 'the base'} to {', '.join(sorted(after))}.")

    def attempt(self, command: list[str]) -> tuple[int, str, str | None]:
        """Run it once, its lines passed on; return its exit code, its last lines, and the step that Alembic named."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            process = subprocess.Popen(command, text=True, errors="replace", **pipes)
        except OSError as error:
            raise Wrong(f"MIGRATE={shlex.join(command)} is wrong: {command[0]}: {error.strerror}.") from None
        assert process.stdout
        last: deque[str] = deque(maxlen=200)
        step = None
        for line in process.stdout:
            lines.say(line.rstrip("\n"))
            last.append(line)
            found = RUNNING.search(line)
            step = " ".join(found["step"].split()) if found else step
        return process.wait(), "".join(last), step

    def where(self, connection: "psycopg.Connection[Any]") -> str:
        import psycopg

        try:
            at = ", ".join(sorted(self.current(connection))) or "the base"
        except psycopg.OperationalError:
            at = "the last whole revision: the database is away"
        return f" The schema is at {at}." if self.graph else ""

    def contents(self, connection: "psycopg.Connection[Any]") -> set[str]:
        """The revisions that the schema contains, as the last migration left word: it knew more than this code may."""
        said = value(connection, "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")
        return set((said or "").removeprefix(CONTAINS).split())

    def is_newer(self, contained: set[str]) -> bool:
        """Whether the schema went through this code's heads to a revision that this code doesn't have.

        So it is after a rollback, which leaves the schema alone. Alembic only sees a revision that it can't find.
        """
        return bool(self.heads) and contained >= self.heads and not contained <= self.graph.keys()

    def current(self, connection: "psycopg.Connection[Any]") -> set[str]:
        if not self.graph or value(connection, "SELECT to_regclass('alembic_version')") is None:
            return set()
        return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}

    def remember(self, connection: "psycopg.Connection[Any]", before: set[str]) -> set[str]:
        """Write down what the schema contains, as a comment on Alembic's table: no table more for a backup to carry.

        Returns where it is.
        """
        current = self.current(connection)
        now, waiting = set[str](), list(current)
        while waiting:
            one = waiting.pop()
            if one not in now:
                now.add(one)
                waiting += self.graph.get(one, [])
        if now and now != before:
            # A utility statement takes no parameters; a revision's name that Alembic takes has no quote.
            text = f"{CONTAINS}{' '.join(sorted(now))}".replace("'", "")
            connection.execute(f"COMMENT ON TABLE alembic_version IS '{text}'".encode())
        return current


def value(connection: "psycopg.Connection[Any]", statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    return row[0] if row else None


def fail(words: str, code: int = 1) -> NoReturn:
    lines.say(words, logging.ERROR)
    raise SystemExit(code if 0 < code < 128 else 1)


def begin(role: str) -> settings.Settings:
    """Have the environment of a program that connects as `role`, and a relay for one that speaks TCP alone."""
    chosen = settings.load()
    environment.prepare(chosen, role)
    if environment.IN_IMAGE and not chosen.database_url:
        with socket.create_server(relay.ADDRESS) as listener:
            demand.OnDemand(listener, str(environment.STACK / "bin/relay")).spawn()
    return chosen


@settings.program
def main() -> int:
    chosen, known = begin(environment.OWNER), environment.migrations()
    command = shlex.split(chosen.migrate or ("alembic upgrade heads" if known else "none"))
    if command == ["none"]:
        lines.say("There is no migration: MIGRATE names a command.")
        return 0
    # Before the app's packages, of which this process needs none, and some are too old for psycopg.
    sys.path.insert(1, str(environment.STACK / "db"))
    # For the wrapper's own connection, too. A pooler in transaction mode would keep its lock when it has gone, and now
    # refuses it.
    options = (
        f"{os.environ.get('PGOPTIONS', '')} -c lock_timeout={LOCK_TIMEOUT} "
        f"-c statement_timeout={chosen.migrate_deadline:g}s -c client_connection_check_interval={CHECK_CLIENT}"
    )
    os.environ["PGOPTIONS"] = options.strip()
    Migration(chosen, known).run(command)
    return 0


@settings.program
def run() -> int:
    """Become the command that is given, in the environment of a migration or of a slot, by who runs it."""
    begin(environment.role())
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        raise Wrong(f"{Path(sys.argv[1]).name} can't be run: {error.strerror}.") from None
