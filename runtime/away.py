"""503 with Retry-After while the database is away, for any app: whichever of psycopg, asyncpg or SQLAlchemy it uses.

Outside the app, which needs no line for it. A request that only reads is asked again until POOL_TIMEOUT is over, so
that a short restart of Postgres costs it nothing; one that may have written never is. And 400 for JSON that is too deep
for Python, where it would be the app's 500.
"""

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from . import lines
from .health import ASGIApp, Message, Receive, Scope, Send, answer

# Seconds after which a client may ask again.
RETRY_AFTER = "1"
# Seconds between the first two tries of a request that only reads. Each later pause is twice as long, so that an outage
# is a few errors in what the app itself counts; but not over LONGEST, so that nobody waits for a server that is back.
PAUSE, LONGEST = 0.1, 1
SAFE = ("GET", "HEAD")
# SQLSTATEs with which the server can't be used: connection, resources (disk, connections), shutdown. Of the resources
# 53200 and 53400, memory and temporary files, are what one statement asks too much of: the same again, whenever.
# https://www.postgresql.org/docs/18/errcodes-appendix.html
AWAY = ("08", "53000", "53100", "53300", "57P")
# By their names, for the libraries are the app's. Of one that says no SQLSTATE these mean that there is no server.
WITHOUT_SERVER = {
    "psycopg.OperationalError",
    "psycopg2.OperationalError",
    "psycopg_pool.PoolTimeout",
    "sqlalchemy.exc.TimeoutError",
}
# What they raise is Python's own error, of a connection or of a time that is over.
DRIVERS = ("asyncpg", "psycopg", "psycopg_pool", "psycopg2")
LOG = logging.getLogger("uvicorn.error")
# Seconds between two lines in the log about the same.
QUIET = 5


def is_away(error: BaseException) -> bool:
    """Whether the error means that the database can't be used now. Anything else is a bug, and stays a 500."""
    return any(says_away(one) for one in related(error))


def related(error: BaseException) -> Iterator[BaseException]:
    """The error, the driver's own below SQLAlchemy's, what it was raised from, and the members of a group."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [getattr(one, "orig", None), one.__cause__, *getattr(one, "exceptions", ())]


def says_away(error: BaseException) -> bool:
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if getattr(error, "connection_invalidated", False):
        return True
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        return state.startswith(AWAY)
    if "asyncpg.exceptions._base.InterfaceError" in names:
        return "closed" in str(error)
    return bool(names & WITHOUT_SERVER) or (isinstance(error, (OSError, asyncio.TimeoutError)) and in_driver(error))


def way(error: BaseException) -> list[str]:
    """The modules that it came through, the one that raised it last."""
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]


def in_driver(error: BaseException) -> bool:
    """Whether it came out of a driver for Postgres, and not out of the app's own use of the network."""
    return any(name.partition(".")[0] in DRIVERS for name in way(error))


def is_too_deep(error: BaseException) -> bool:
    """Whether Python's reader of JSON gave up, and not at the end of the app's own recursion, which is a long way."""
    came = way(error) if isinstance(error, RecursionError) else []
    return came[-1:] == ["json.decoder"] and len(came) < sys.getrecursionlimit() / 2


class Away:
    """Answers 503 where the app ends with an error that says so, or with a 500 that was made of one.

    Starlette sends its 500 first, and raises the error again after that: the beginning of a 500 waits for it.
    """

    def __init__(self, app: ASGIApp, patience: float) -> None:
        self.app = app
        self.patience = patience
        self.said: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        deadline = time.monotonic() + self.patience
        pause = PAUSE
        heard: list[Message] = []
        while True:
            attempt = Attempt(receive, send, heard)
            try:
                await self.app(fresh(scope), attempt.receive, attempt.send)
                return await attempt.flush()
            except Exception as error:
                if attempt.read and not attempt.begun and any(map(is_too_deep, related(error))):
                    return await answer(send, 400, {"detail": "The request's JSON has too many levels."})
                if attempt.begun or not is_away(error):
                    await attempt.flush()
                    if not attempt.ended:
                        raise
                    # Uvicorn would close the connection, on which Traefik may have sent the next request by now.
                    if not is_away(error):
                        return LOG.error("Exception in ASGI application", exc_info=error)
                    return self.say(error)
                if scope["method"] not in SAFE or attempt.read or time.monotonic() > deadline:
                    self.say(error)
                    body = {"detail": "The database can't be reached, or is busy."}
                    return await answer(send, 503, body, retry_after=RETRY_AFTER)
            # The last try is at the end.
            await asyncio.sleep(min(pause, LONGEST, max(PAUSE, deadline - time.monotonic())))
            pause *= 2

    def say(self, error: BaseException) -> None:
        """Log the cause, which may be a mistake in a setting."""
        *_, cause = related(error)
        line = f"{type(cause).__module__}.{type(cause).__name__}: {cause}".strip().splitlines()[0]
        now = time.monotonic()
        if now - self.said.get(line, -QUIET) >= QUIET:
            # Those of now alone: more than a worker meets in its life need not be kept.
            self.said = {one: when for one, when in self.said.items() if now - when < QUIET} | {line: now}
            lines.say(f"503, for the database is away: {line}", logging.WARNING)


def fresh(scope: Scope) -> Scope:
    """For the app to write into: Starlette's Mount changes the scope, and the next attempt would find no route."""
    return {**scope, "state": dict(scope["state"])} if "state" in scope else dict(scope)


class Attempt:
    """One call of the app. A 500 is held back until the app has ended.

    `heard` is what earlier ones read. They hear it again: who waits for the end of a body twice waits for ever.
    """

    def __init__(self, receive: Receive, send: Send, heard: list[Message]) -> None:
        self.receive_next, self.send_next = receive, send
        self.heard, self.again = heard, list(heard)
        self.held: list[Message] = []
        # Whether the app has seen something of the body, or that the client has gone; whether the client has seen
        # something of the answer, and all of it.
        self.read = self.begun = self.ended = False

    async def receive(self) -> Message:
        if self.again:
            return self.again.pop(0)
        message = await self.receive_next()
        if message.get("body") or message["type"] != "http.request":
            self.read = True
        else:
            self.heard.append(message)
        return message

    async def send(self, message: Message) -> None:
        self.held.append(message)
        # Starlette's is of two messages. A longer one is the app's own, and is not for this.
        if self.begun or self.held[0].get("status") != 500 or len(self.held) > 2:
            await self.flush()

    async def flush(self) -> None:
        while self.held:
            self.begun = True
            message = self.held.pop(0)
            await self.send_next(message)
            self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
