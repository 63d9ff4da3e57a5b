"""The stack's settings of a slot: read once from the environment, typed, checked before any worker starts.

In the container each has the prefix STACK_, so that none hides a variable of the app's.
"""

import contextlib
import ipaddress
import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from . import limits, lines
from .limits import Wrong

PREFIX = "STACK_"
# What Docker adds before it kills, so that Uvicorn's own deadline comes first.
GRACE_MARGIN = 3
# The part of a worker's time to end that requests in flight may take: the app's lifespan must not get nothing of it.
ANSWERS = 0.75
SOCKET_FOLDER = "/var/run/postgresql"


@dataclass(frozen=True)
class Settings:
    release: str = "latest"
    # module:attribute; empty: found as `fastapi run` finds it.
    app: str = ""
    log_level: str = "info"
    # text, or json: a line of JSON for each, its traceback in it (lines.py).
    log_format: str = "text"

    # Where the app listens, and PID 1 for probes. `::` is IPv6 and IPv4.
    host: str = "0.0.0.0"  # noqa: S104 - the container's own network
    port: int = 8000
    readiness_port: int = 8001

    # Uvicorn workers of one slot; None: from the container's limits.
    workers: int | None = None
    # MiB that one worker may need of its own.
    worker_memory: int = limits.WORKER_MEMORY
    # Who may say who the client is: addresses and networks; None: Traefik.
    forwarded_allow_ips: str | None = None
    # The networks of proxies in front of Traefik, which it believes: their addresses are no client's.
    trusted_proxies: str | None = None
    # Bytes of the largest request body.
    body_limit: int = limits.BODY_LIMIT
    # MiB of /tmp, where that is memory of the container's.
    tmp_size: int = limits.TMP_SIZE

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
    # Containers that serve at one time, and those that a rollout starts before it stops as many: they share it.
    replicas: int = limits.SLOTS
    surge: int = 0
    # Seconds for which a request that only reads waits for a database that is away.
    pool_timeout: float = 2

    # The command that migrates; None: Alembic's where there is a configuration of it. `none`: nothing.
    migrate: str | None = None
    # Seconds for which it waits for the database, for another migration, or for locks on its tables.
    migrate_deadline: float = 300

    def __post_init__(self) -> None:
        if self.port == self.readiness_port:
            raise Wrong(f"READINESS_PORT={self.readiness_port} is wrong: PORT is the same.")
        if self.graceful_seconds < 1:
            raise Wrong(
                f"STOP_GRACE_SECONDS={self.stop_grace_seconds:g} is wrong: DRAIN_SECONDS={self.drain_seconds:g} "
                f"needs at least {self.drain_seconds + GRACE_MARGIN + 1:g}."
            )

    @property
    def graceful_seconds(self) -> int:
        """Seconds that workers have to end after the drain."""
        return int(self.stop_grace_seconds - self.drain_seconds - GRACE_MARGIN)

    @property
    def answer_seconds(self) -> int:
        """Of these, what requests in flight have before Uvicorn cuts them off. The rest is for the app's own end."""
        return max(1, int(self.graceful_seconds * ANSWERS))

    def url(self, role: str) -> str:
        """The database as this role, in the one form that SQLAlchemy, psycopg, asyncpg and pydantic all take."""
        if not self.database_url:
            return f"postgresql://{role}@localhost/app?host={SOCKET_FOLDER}"
        # SQLAlchemy doesn't take the short form.
        return self.database_url.replace("postgres://", "postgresql://", 1)

    def sizes(self) -> limits.Sizes:
        """Workers and connections in this container. Raises Wrong where they don't fit."""
        given = self.workers, self.worker_memory, self.pool_size, self.max_connections
        found = limits.cpu_limit(), limits.memory_limit()
        return limits.sizes(*given, *found, self.replicas, self.surge, self.tmp_size)


def between(least: float, most: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if least <= value <= most:
                return value
        raise Wrong(f"a {'whole ' * (kind is int)}number from {least:g} to {most:.15g}")

    return number


def matching(pattern: str, allowed: str) -> Callable[[str], str]:
    def words(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Wrong(allowed)
        return text

    return words


def networks(text: str) -> str:
    """Addresses and networks, with commas. Uvicorn ignores an entry that it can't read, and says nothing."""
    try:
        for one in text.split(","):
            ipaddress.ip_network(one.strip())
    except ValueError:
        raise Wrong("addresses and networks, with commas, like 10.0.0.0/8") from None
    return text


def believed(text: str) -> str:
    try:
        return text if text == "*" else networks(text)
    except Wrong as wrong:
        raise Wrong(f"{wrong}, or * for everybody") from None


def address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Wrong("an address of this machine, or 0.0.0.0, or :: for IPv6 too") from None


def command(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError:
        raise Wrong("a command, each quote closed, or none") from None
    return text


# A raw @ or / in the password would show the rest of it, as a host that can't be found.
URL = (
    r"postgres(ql)?://([^@/]*@)?[^@/?#]*(/[^@?]*)?(\?.*)?",
    "a URL like postgresql://user:password@host:5432/name, with %40 for an @ in the password, %2F for a /",
)
NAME = r"[^\W\d]\w*"
READERS: dict[str, Callable[[str], Any]] = {
    "app": matching(rf"{NAME}(\.{NAME})*:{NAME}", "module:attribute, like main:app"),
    "log_level": matching("critical|error|warning|info|debug", "one of critical, error, warning, info, debug"),
    "host": address,
    "port": between(1, 65_535, int),
    "readiness_port": between(1, 65_535, int),
    "log_format": matching("text|json", "text or json"),
    "workers": between(1, 64, int),
    "worker_memory": between(32, 1_000_000, int),
    "forwarded_allow_ips": believed,
    "trusted_proxies": networks,
    "body_limit": between(1000, 1 << 40, int),
    "tmp_size": limits.mib,
    "watchdog_seconds": between(1, 86_400),
    "drain_seconds": between(0, 600),
    "stop_grace_seconds": between(1, 3600),
    "database_url": matching(*URL),
    "pool_size": between(1, 1000, int),
    "max_connections": between(limits.RESERVED_CONNECTIONS + 4, 10_000, int),
    "replicas": between(1, 10_000, int),
    "surge": between(0, 10_000, int),
    "pool_timeout": between(0, 60),
    "migrate": command,
    "migrate_deadline": between(0.1, 86_400),
}
# A database's URL may hold a password. It may stand in a file, as engines hand over a secret: DATABASE_URL_FILE.
SECRET = ("database_url",)


def contents(name: str, path: str) -> str:
    """What a secret's file has. Raises Wrong."""
    try:
        text = Path(path).read_text().strip()
    except OSError as error:
        raise Wrong(f"{name}={path} is wrong: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Wrong(f"{name}={path} is wrong: it is no text.") from None
    if not text:
        raise Wrong(f"{name}={path} is wrong: nothing is in it.")
    return text


def read(environment: Mapping[str, str]) -> Settings:
    """The settings of this environment; an empty one is not set. Raises Wrong."""
    found: dict[str, Any] = {}
    for one in fields(Settings):
        name = one.name.upper()
        text = environment.get(PREFIX + name)
        if one.name in SECRET and not text and (file := environment.get(f"{PREFIX}{name}_FILE")):
            text = contents(f"{name}_FILE", file)
        if not text:
            continue
        try:
            found[one.name] = READERS.get(one.name, str)(text)
        except Wrong as wrong:
            shown = "…" if one.name in SECRET else text
            raise Wrong(f"{name}={shown} is wrong: it must be {wrong}.") from None
    return Settings(**found)


@lru_cache
def load() -> Settings:
    """The settings of this process. Raises Wrong."""
    return read(os.environ)


def check_room(chosen: Settings) -> None:
    """Whether the largest upload fits where Starlette keeps it, which TMPDIR says. Raises Wrong."""
    folder = tempfile.gettempdir()
    # Workers inherit it, and the app may make or name another when it is imported.
    tempfile.tempdir = None
    limits.check_uploads(chosen.body_limit, shutil.disk_usage(folder).total, folder)


def program(run: Callable[[], int]) -> Callable[[], int]:
    """A program of the layer: what is Wrong ends it with 2, after one sentence on standard error."""

    @wraps(run)
    def main() -> int:
        lines.begin()
        try:
            return run()
        except Wrong as wrong:
            lines.say(str(wrong), logging.ERROR)
            return 2

    return main
