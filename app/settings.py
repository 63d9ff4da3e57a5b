"""The settings: read once from the environment, typed, checked before any worker starts."""

import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app import limits

# What Docker adds before it kills, so that Uvicorn's own deadline comes first.
GRACE_MARGIN = 3


class Settings(BaseSettings):
    # Compose passes a setting that isn't set as an empty string.
    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True)

    release: str = "latest"
    app: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] = "app.main:app"
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"

    # Uvicorn workers of one slot; None: from the container's limits.
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    # MiB that one worker may need of its own.
    worker_memory: Annotated[int, Field(ge=32)] = limits.WORKER_MEMORY
    # The networks that may say who the client is; None: the ones this container is on.
    forwarded_allow_ips: str | None = None
    # The networks of proxies in front of Traefik, which it believes: their addresses are no client's.
    trusted_proxies: str | None = None
    # Bytes of the largest request body.
    body_limit: Annotated[int, Field(ge=1000)] = 10_000_000

    # Seconds that a worker's event loop may stand still before the worker is replaced.
    watchdog_seconds: Annotated[float, Field(ge=1)] = 30

    # Seconds for which a slot keeps serving after SIGTERM while `/ready` says 503.
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 5
    # Seconds from SIGTERM to Docker's SIGKILL.
    stop_grace_seconds: Annotated[float, Field(ge=1, le=3600)] = 30

    database_url: str = "postgresql://app@/app?host=/var/run/postgresql"
    # Connections of one worker to each of its two engines; None: from the workers and max_connections.
    pool_size: Annotated[int, Field(ge=1, le=100)] | None = None
    # What Postgres allows in all.
    max_connections: Annotated[int, Field(ge=limits.RESERVED_CONNECTIONS + 4, le=10_000)] = limits.MAX_CONNECTIONS
    # Seconds that a request waits for a connection, from the pool or a new one.
    pool_timeout: Annotated[float, Field(gt=0, le=60)] = 2

    # Seconds for which `migrate` waits for another migration, or for locks on its tables.
    migrate_deadline: Annotated[float, Field(gt=0)] = 300

    @field_validator("app")
    @classmethod
    def name_a_module(cls, value: str) -> str:
        """Uvicorn would try to import a module that isn't there for ever."""
        module = value.partition(":")[0]
        try:
            spec = find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            raise ValueError(f"module:attribute of an ASGI app, and there is no module {module}")
        return value

    @field_validator("database_url")
    @classmethod
    def use_psycopg(cls, value: str) -> str:
        """The URL with the psycopg driver: the one that is installed, sync and async alike."""
        try:
            url = make_url(value)
        except ArgumentError:
            raise ValueError("a URL like postgresql://user:password@host:5432/name") from None
        if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ValueError("a URL that begins with postgresql://")
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    @model_validator(mode="after")
    def leave_time_to_stop(self) -> Self:
        if self.graceful_seconds < 1:
            raise ValueError(
                f"STOP_GRACE_SECONDS={self.stop_grace_seconds:g} is wrong: DRAIN_SECONDS={self.drain_seconds:g} "
                f"needs at least {self.drain_seconds + GRACE_MARGIN + 1:g}."
            )
        return self

    @property
    def graceful_seconds(self) -> int:
        """Seconds that requests in flight have after the drain, before Uvicorn cuts them off."""
        return int(self.stop_grace_seconds - self.drain_seconds - GRACE_MARGIN)


@lru_cache
def load() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError."""
    return Settings()


def load_or_exit() -> Settings:
    """The settings; a wrong one ends the process with 2 after one sentence on standard error."""
    try:
        return load()
    except ValidationError as error:
        exit_wrong(sentence(error))


def sizes_or_exit(chosen: Settings) -> limits.Sizes:
    """Workers and pools in this container; what doesn't fit ends the process with 2 after one sentence."""
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


def sentence(error: ValidationError) -> str:
    """The first wrong setting in words: its name, its value, what is allowed."""
    first = error.errors()[0]
    allowed = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return allowed
    name = str(first["loc"][0]).upper()
    # A database's URL may hold a password.
    value = "…" if name == "DATABASE_URL" else first["input"]
    return f"{name}={value} is wrong: {allowed[:1].lower()}{allowed[1:]}."


def exit_wrong(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sizes_or_exit(load_or_exit())
