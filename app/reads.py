"""A statement that only reads, made once: `Read`."""

import asyncio
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVarTuple

import psycopg
from sqlalchemy import Row, Select
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import greenlet_spawn

from app.database import lend, read_engine, reading

Ts = TypeVarTuple("Ts")
# Seconds. A statement that ran for longer before its connection was closed may be why, and is not sent again.
AT_ONCE = 0.1


def is_watched(engine: AsyncEngine) -> bool:
    """Whether something listens to statements, or to connections that are given back, or writes them to the log."""
    sync, returned = engine.sync_engine, engine.pool.dispatch
    return bool(
        sync._has_events or sync.dialect._has_events or sync._should_log_info() or returned.checkin or returned.reset
    )


class Read(Generic[*Ts]):
    """Runs the statement by itself (autocommit), with the values of its bindparam()s by name.

    The first time as SQLAlchemy does, which shows what it makes of the rows. From then on SQLAlchemy compiles, lends
    the connection and makes the rows, and psycopg alone runs it: SQLAlchemy's own way to the cursor and back takes a
    third of a short read's CPU time. What must go that way does so each time: a list for IN, a type that
    changes values on their way in, and everything while something listens, as tracing does.

    A connection that turns out to be closed at once is not an error yet: the statement runs on another one. So it must
    have no side effect: it may run twice. Raises what `reading()` and a connection's execute do.
    """

    def __init__(self, statement: Select[*Ts]) -> None:
        self.statement = statement
        # SQLAlchemy's function from what a cursor gives to rows, once it has made it.
        self.make_rows: Any = None

    async def all(self, **parameters: Any) -> Sequence[Row[*Ts]]:
        engine = read_engine()
        if self.make_rows and self.compiled and not is_watched(engine):
            fetched = await self.fetched(engine, self.compiled, parameters)
            if fetched is not None:
                rows: Sequence[Row[*Ts]] = self.make_rows(fetched)
                return rows
        async with reading() as connection:
            result = await connection.execute(self.statement, parameters)
            # Not of `*` and the like, whose columns are known only when they come.
            if getattr(result._metadata, "_safe_for_cache", False):
                self.make_rows = result._row_getter[1]
            return result.all()

    async def one_or_none(self, **parameters: Any) -> Row[*Ts] | None:
        """Raises SQLAlchemy's MultipleResultsFound."""
        rows = await self.all(**parameters)
        if len(rows) > 1:
            raise MultipleResultsFound("Multiple rows were found when one or none was required")
        return rows[0] if rows else None

    @cached_property
    def compiled(self) -> SQLCompiler | None:
        """None unless psycopg can be given the parameters as they are."""
        if self.statement.get_execution_options():
            return None
        dialect = read_engine().dialect
        compiled = self.statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        for bind in compiled.binds.values():
            if bind.expanding or bind.literal_execute or bind.type.dialect_impl(dialect).bind_processor(dialect):
                return None
        return compiled

    async def fetched(self, engine: AsyncEngine, compiled: SQLCompiler, parameters: dict[str, Any]) -> list[Any] | None:
        """The rows as psycopg gives them; None when the server had closed the connection."""
        values = compiled.construct_params(parameters)
        lent: PoolProxiedConnection | None = None
        connection: Any = None
        begun = 0.0
        try:
            lent = await lend(engine, engine.raw_connection)
            connection = lent.driver_connection
            begun = time.monotonic()
            rows: list[Any] = await (await connection.execute(compiled.string, values)).fetchall()
            return rows
        except psycopg.Error as error:
            closed = bool(lent and connection.closed)
            if lent and closed:
                # Those from before are made anew before they are used, as when SQLAlchemy finds one closed.
                engine.pool._invalidate(lent, error, _checkin=False)
                if time.monotonic() - begun < AT_ONCE:
                    return None
            hide = engine.sync_engine.hide_parameters
            raise DBAPIError.instance(
                compiled.string, values, error, psycopg.Error, hide, closed, engine.dialect
            ) from error
        finally:
            # After a cancellation too: psycopg has ended what was under way, or closed the connection.
            if lent and connection.closed:
                # Shielded: a request that is cancelled, at a shutdown for one, must not lose its pool a connection.
                await asyncio.shield(greenlet_spawn(lent.invalidate))
            elif lent:
                lent.close()
