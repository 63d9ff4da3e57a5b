"""The stack's settings of a slot: read once from the environment, typed, checked before any worker starts.

In the container each has the prefix STACK_, so that none hides a variable of the app's.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NoReturn

from . import limits

PREFIX = "STACK_"
# What Docker adds before it kills, so that Uvicorn's own deadline comes first.
GRACE_MARGIN = 3
SOCKET_FOLDER = "/var/run/postgresql"


class Wrong(ValueError):
    """One sentence about a setting."""


@dataclass(frozen=True)
class Settings:
    release: str = "latest"
    # module:attribute; empty: found as `fastapi run` finds it.
    app: str = ""
    log_level: str = "info"

    # Uvicorn workers of one slot; None: from the container's limits.
    workers: int | None = None
    # MiB that one worker may need of its own.
    worker_memory: int = limits.WORKER_MEMORY
    # The networks that may say who the client is; None: the ones this container is on.
    forwarded_allow_ips: str | None = None
    # The networks of proxies in front of Traefik, which it believes: their addresses are no client's.
    trusted_proxies: str | None = None
    # Bytes of the largest request body.
    body_limit: int = 10_000_000

    # The Content-Security-Policy of answers that have none of the app's own.
    content_security_policy: str | None = None

    # Seconds that a worker's event loop may stand still before the worker is replaced.
    watchdog_seconds: float = 30
    # Seconds for which a slot keeps serving after SIGTERM while `/ready` says 503.
    drain_seconds: float = 5
    # Seconds from SIGTERM to Docker's SIGKILL.
    stop_grace_seconds: float = 30

    # Another Postgres than the stack's own.
    database_url: str | None = None
    # Connections that one worker opens at most; None: the app's own business, SQLAlchemy's default is assumed.
    pool_size: int | None = None
    # What Postgres allows in all.
    max_connections: int = limits.MAX_CONNECTIONS
    # Seconds for which a request that only reads waits for a database that is away.
    pool_timeout: float = 2

    # The command that migrates; None: Alembic's where there is a configuration of it. `none`: nothing.
    migrate: str | None = None
    # Seconds for which it waits for the database, for another migration, or for locks on its tables.
    migrate_deadline: float = 300

    def __post_init__(self) -> None:
        if self.graceful_seconds < 1:
            raise Wrong(
                f"STOP_GRACE_SECONDS={self.stop_grace_seconds:g} is wrong: DRAIN_SECONDS={self.drain_seconds:g} "
                f"needs at least {self.drain_seconds + GRACE_MARGIN + 1:g}."
            )

    @property
    def graceful_seconds(self) -> int:
        """Seconds that requests in flight have after the drain, before Uvicorn cuts them off."""
        return int(self.stop_grace_seconds - self.drain_seconds - GRACE_MARGIN)

    def url(self, role: str) -> str:
        """The database as this role, in the one form that SQLAlchemy, psycopg, asyncpg and pydantic all take."""
        return self.database_url or f"postgresql://{role}@localhost/app?host={SOCKET_FOLDER}"


def whole(least: int, most: int) -> Callable[[str], int]:
    return lambda text: int(ranged(text, int, f"a whole number from {least} to {most}", lambda it: least <= it <= most))


def number(least: float, most: float) -> Callable[[str], float]:
    return lambda text: ranged(text, float, f"a number from {least:g} to {most:g}", lambda it: least <= it <= most)


def ranged(text: str, kind: Callable[[str], float], allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise Wrong(allowed)
    return value


def level(text: str) -> str:
    levels = ("critical", "error", "warning", "info", "debug")
    if text not in levels:
        raise Wrong(f"one of {', '.join(levels)}")
    return text


def attribute(text: str) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise Wrong("module:attribute, like main:app")
    return text


def postgres_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise Wrong("a URL like postgresql://user:password@host:5432/name")
    # The short form is one that SQLAlchemy doesn't take.
    return text.replace("postgres://", "postgresql://", 1)


def command(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError:
        raise Wrong("a command, each quote closed, or none") from None
    return text


READERS: dict[str, Callable[[str], Any]] = {
    "app": attribute,
    "log_level": level,
    "workers": whole(1, 64),
    "worker_memory": whole(32, 1_000_000),
    "body_limit": whole(1000, 1 << 40),
    "watchdog_seconds": number(1, 86_400),
    "drain_seconds": number(0, 600),
    "stop_grace_seconds": number(1, 3600),
    "database_url": postgres_url,
    "pool_size": whole(1, 1000),
    "max_connections": whole(limits.RESERVED_CONNECTIONS + 4, 10_000),
    "pool_timeout": number(0, 60),
    "migrate": command,
    "migrate_deadline": number(0.1, 86_400),
}
# A database's URL may hold a password.
SECRET = ("database_url",)


def read(environment: Mapping[str, str]) -> Settings:
    """The settings of this environment; an empty one is not set. Raises Wrong."""
    found: dict[str, Any] = {}
    for one in fields(Settings):
        text = environment.get(PREFIX + one.name.upper())
        if not text:
            continue
        try:
            found[one.name] = READERS.get(one.name, str)(text)
        except Wrong as wrong:
            shown = "…" if one.name in SECRET else text
            raise Wrong(f"{one.name.upper()}={shown} is wrong: it must be {wrong}.") from None
    return Settings(**found)


@lru_cache
def load() -> Settings:
    """The settings of this process. Raises Wrong."""
    return read(os.environ)


def load_or_exit() -> Settings:
    """The settings; a wrong one ends the process with 2 after one sentence on standard error."""
    try:
        return load()
    except Wrong as wrong:
        exit_wrong(str(wrong))


def sizes_or_exit(chosen: Settings) -> limits.Sizes:
    """Workers and connections in this container; what doesn't fit ends the process with 2 after one sentence."""
    try:
        return limits.sizes(
            chosen.workers,
            chosen.worker_memory,
            chosen.pool_size,
            chosen.max_connections,
            limits.cpu_limit(),
            limits.memory_limit(),
        )
    except ValueError as error:
        exit_wrong(str(error))


def room_or_exit(chosen: Settings, folder: str = "/tmp") -> None:  # noqa: S108 - a tmpfs of the container
    """Whether the largest upload fits where Starlette keeps it; if not, this ends the process with 2.

    Half of the folder at most: two of them may come at one time, and the app may write there, too.
    """
    there, needed = shutil.disk_usage(folder).total, 2 * chosen.body_limit
    if needed > there:
        size, more = -(-needed // limits.MIB), -(-(needed - there) // limits.MIB)
        exit_wrong(
            f"BODY_LIMIT={chosen.body_limit} is wrong: {folder}, where uploads are kept, has {there // limits.MIB} "
            f"MiB. Set TMP_SIZE={size}m, and APP_MEMORY {more} MiB higher, for it is memory."
        )


def exit_wrong(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)
