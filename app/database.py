"""Two engines to one database: autocommit for reads, a transaction for writes.

A read on the autocommit engine is one round trip, and its prepared statement stays prepared: psycopg forgets them at
each ROLLBACK, so a read inside a transaction never gets there (twice the requests a second, FACTS: 880 → 1,900).
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from app import limits, settings

T = TypeVar("T")

# Constraint names that a migration can name again: https://alembic.sqlalchemy.org/en/latest/naming.html
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Seconds after which psycopg gives up an attempt to connect that nobody waits for any more.
CONNECT_TIMEOUT = 2
# SQLSTATE classes in which the server can't be used: connection, resources (connections, disk, memory), shutdown.
# https://www.postgresql.org/docs/18/errcodes-appendix.html
AWAY = ("08", "53", "57P")


def _engine(**options: Any) -> AsyncEngine:
    chosen = settings.load()
    return create_async_engine(
        chosen.database_url,
        # `app.serve` has chosen it for the workers.
        pool_size=chosen.pool_size or limits.POOL_SIZE,
        # The pool is the budget: Postgres's max_connections is shared by every worker of both slots.
        max_overflow=0,
        pool_timeout=chosen.pool_timeout,
        connect_args={"connect_timeout": CONNECT_TIMEOUT},
        **options,
    )


@lru_cache
def read_engine() -> AsyncEngine:
    return _engine(isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)


@lru_cache
def write_engine() -> AsyncEngine:
    return _engine()


async def lend(engine: AsyncEngine, get: Callable[[], Awaitable[T]]) -> T:
    """What `get` gets from the engine's pool, within POOL_TIMEOUT. Raises SQLAlchemy's TimeoutError."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    if pool.checkedin():
        # It is had at once; one that the server has closed is made anew, within CONNECT_TIMEOUT.
        return await get()
    # The pool's own timeout is for its queue alone: whoever comes first in it then waits for a new connection too.
    try:
        async with asyncio.timeout(settings.load().pool_timeout):
            return await get()
    except builtins.TimeoutError:
        raise TimeoutError("No connection within POOL_TIMEOUT.") from None


class Borrowed:
    """A connection for a block, within POOL_TIMEOUT. Raises SQLAlchemy's TimeoutError.

    A class and not a generator, which costs a tenth of a read.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def __aenter__(self) -> AsyncConnection:
        self.connection = self.engine.connect()
        return await lend(self.engine, self.connection.start)

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error:
            # Shielded: a request that is cancelled, at a shutdown for one, must not lose its pool a connection.
            await asyncio.shield(self.connection.close())
        else:
            # With nothing under way this waits for nothing, so that no cancellation can come in between; a shield's
            # task costs a tenth of a read.
            await self.connection.close()


def reading() -> AbstractAsyncContextManager[AsyncConnection]:
    """A connection on which each statement is committed by itself: for reads. Raises SQLAlchemy's TimeoutError."""
    return Borrowed(read_engine())


@asynccontextmanager
async def writing() -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, committed at the end of the block. Raises SQLAlchemy's TimeoutError.

    A block in the route and not a dependency: the commit, and the connection's way back to the pool, come before the
    response is made. FastAPI's dependencies end after it is sent: a client would hold an answer for a write that
    may yet fail; and one costs a tenth of a read's time.
    """
    async with Borrowed(write_engine()) as connection, connection.begin():
        yield connection


async def dispose() -> None:
    """Close the pools' connections, in a way that Postgres does not log as lost."""
    for engine in (read_engine, write_engine):
        if engine.cache_info().currsize:
            await engine().dispose()
            engine.cache_clear()


def is_away(error: Exception) -> bool:
    """Whether the error means that the database can't be used now. Anything else is a bug, and stays a 500."""
    if isinstance(error, TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = error.orig
    return isinstance(cause, psycopg.OperationalError) and (cause.sqlstate is None or cause.sqlstate.startswith(AWAY))
