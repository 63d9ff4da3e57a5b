"""Errors of libraries that the tests' environment has not, by the names and from the places that they come from."""

from collections.abc import Callable
from typing import Any


def kind(name: str, *bases: type, **attributes: Any) -> Any:
    """A class by its whole name."""
    module, _, own = name.rpartition(".")
    return type(own, bases or (Exception,), {"__module__": module, **attributes})


def raised_in(module: str, error: BaseException) -> BaseException:
    """The error, after it came out of a function of that module."""
    space: dict[str, Any] = {"__name__": module, "error": error}
    exec("def fail():\n    raise error", space)  # noqa: S102 - a function whose module is said to be another
    fail: Callable[[], None] = space["fail"]
    try:
        fail()
    except BaseException as found:
        return found
    raise AssertionError


# https://magicstack.github.io/asyncpg/current/api/index.html#exceptions
PostgresError = kind("asyncpg.exceptions._base.PostgresError")
InterfaceError = kind("asyncpg.exceptions._base.InterfaceError")
CannotConnectNow = kind("asyncpg.exceptions.CannotConnectNowError", PostgresError, sqlstate="57P03")
TooManyConnections = kind("asyncpg.exceptions.TooManyConnectionsError", PostgresError, sqlstate="53300")
ConnectionDoesNotExist = kind("asyncpg.exceptions.ConnectionDoesNotExistError", PostgresError, sqlstate="08003")
UndefinedColumn = kind("asyncpg.exceptions.UndefinedColumnError", PostgresError, sqlstate="42703")
# https://www.psycopg.org/docs/module.html#exceptions
Psycopg2Operational = kind("psycopg2.OperationalError", pgcode=None)
Psycopg2QueryCanceled = kind("psycopg2.errors.QueryCanceled", Psycopg2Operational, pgcode="57014")
# https://www.psycopg.org/psycopg3/docs/api/pool.html#psycopg_pool.PoolTimeout
PoolTimeout = kind("psycopg_pool.PoolTimeout")
