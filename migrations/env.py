"""How Alembic reaches the database: one migration at a time, politely, each revision whole or not at all."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from alembic import context
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from app import settings
from app.database import metadata

# A model is part of `metadata` once its module is imported, and the app imports all that it uses.
import_module(settings.load_or_exit().app.partition(":")[0])

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
log = logging.getLogger("alembic.runtime.migration")
# Any number will do, as long as every release uses the same.
LOCK = 5_284_019_753
# Seconds between two tries.
PAUSE = 0.5
# How long a statement may wait for a lock on a table: everything that comes after it waits as long.
LOCK_TIMEOUT = "1s"
# A migration that was killed leaves its statement running, for hours maybe; the server looks whether it is still there.
CHECK_CLIENT = "1s"
CONTAINS = "Contains the revisions "


class Step(logging.Filter):
    """Remembers the step that Alembic says it runs: it names the revision that failed, also when the COMMIT does."""

    last: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == "Running %s":
            self.last = str(record.args[0] if isinstance(record.args, tuple) else record.args)
        return True


step = Step()
log.addFilter(step)


@contextmanager
def only_migration(engine: Engine, deadline: float) -> Iterator[None]:
    """Hold the lock of which there is one in the database; end the process when it can't be had by the deadline.

    On a connection of its own in autocommit: a lock of the migration's transaction would be lost at each commit. The
    server frees it when the connection ends, however this process does. Polled: a connection that waits inside Postgres
    holds a snapshot, and CREATE INDEX CONCURRENTLY waits for each.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        waiting = False
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK}):
            if not waiting:
                log.info("Waiting for another migration.")
                waiting = True
            if time.monotonic() > deadline:
                fail("Another migration held the lock until MIGRATE_DEADLINE.")
            time.sleep(PAUSE)
        yield


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        process_revision_directives=leave_out_empty,
    )
    with context.begin_transaction():
        context.run_migrations()


def leave_out_empty(_: object, __: object, scripts: list[MigrationScript]) -> None:
    """No file when autogenerate finds nothing to do."""
    upgrade = scripts[0].upgrade_ops if scripts else None
    if getattr(context.config.cmd_opts, "autogenerate", False) and upgrade and upgrade.is_empty():
        scripts.clear()


def online() -> None:
    chosen = settings.load_or_exit()
    deadline = time.monotonic() + chosen.migrate_deadline
    options = {
        "lock_timeout": LOCK_TIMEOUT,
        "statement_timeout": f"{chosen.migrate_deadline:g}s",
        "client_connection_check_interval": CHECK_CLIENT,
    }
    # As options of the connection: a SET on Alembic's own connection would begin a transaction that nobody commits.
    arguments = {"options": " ".join(f"-c {name}={value}" for name, value in options.items())}
    engine = create_engine(chosen.database_url, poolclass=NullPool, connect_args=arguments)
    with only_migration(engine, deadline):
        while True:
            step.last = None
            try:
                with engine.connect() as connection:
                    contained = contents(connection)
                if is_newer(contained):
                    return log.info("The schema is newer than this code: there is nothing to do.")
                with engine.connect() as connection:
                    migrate(connection)
                return remember(engine, contained)
            except OperationalError as error:
                in_use = isinstance(error.orig, LockNotAvailable | DeadlockDetected)
                if not in_use or time.monotonic() > deadline:
                    explain(engine, error)
                log.info("A table is in use; trying again.")
                time.sleep(PAUSE)
            except Exception as error:
                explain(engine, error)


def contents(connection: Connection) -> set[str]:
    """The revisions that the schema contains, as the last migration left word: it knew more than this code may."""
    said = connection.scalar(text("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")) or ""
    return set(said.removeprefix(CONTAINS).split())


def is_newer(contained: set[str]) -> bool:
    """Whether the schema went through this code's head to a revision that this code doesn't have.

    So it is after a rollback, which leaves the schema alone. Alembic only sees a revision that it can't find.
    """
    known = {script.revision for script in context.script.walk_revisions()}
    return contained >= set(context.script.get_heads()) and not contained <= known


def remember(engine: Engine, before: set[str]) -> None:
    """Write down what the schema contains, as a comment on Alembic's table: no table more for a backup to carry."""
    with engine.begin() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
        now = {script.revision for script in context.script.iterate_revisions(heads, "base")} if heads else set()
        if now != before:
            # A utility statement takes no parameters; a revision's name that Alembic takes has no quote.
            connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{CONTAINS}{' '.join(sorted(now))}'")


def explain(engine: Engine, error: Exception) -> NoReturn:
    """End the process with what failed, why, and where the schema is now; a bug in a revision keeps its traceback."""
    if not step.last:
        raise error
    try:
        with engine.connect() as connection:
            current = ", ".join(MigrationContext.configure(connection).get_current_heads()) or "the base"
    except OperationalError:
        current = "the last whole revision: the database is away"
    log.error("Failed: %s. The schema is at %s.", step.last, current)
    if not isinstance(error, DBAPIError):
        raise error
    fail(str(error))


def fail(message: str) -> NoReturn:
    log.error(message)
    raise SystemExit(1)


def offline() -> None:
    """Print the statements instead, with the timeouts that they would run with."""
    context.configure(url="postgresql://", target_metadata=metadata, transaction_per_migration=True, literal_binds=True)
    context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    context.execute(f"SET statement_timeout = '{settings.load_or_exit().migrate_deadline:g}s'")
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    online()
