"""What is a database that is away, and what a bug; what the client gets of either."""

import asyncio
import json
import socket
import time
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy.exc
from psycopg import errors as sqlstates
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from runtime.away import Away, is_away
from runtime.health import ASGIApp, Message, Receive, Scope, Send
from tests.runtime import errors
from tests.runtime.asgi import answering, ask, part, start

ABSENT = psycopg.OperationalError("connection failed: no such file")
GONE = psycopg.errors.AdminShutdown("terminating connection due to administrator command")


def from_sqlalchemy(error: BaseException, invalidated: bool = False) -> Exception:
    return sqlalchemy.exc.DBAPIError("SELECT 1", {}, error, connection_invalidated=invalidated)


def from_another(error: BaseException) -> Exception:
    """As `raise Mine() from error` makes it."""
    mine = RuntimeError(f"mine, of {error}")
    mine.__cause__ = error
    return mine


@pytest.mark.parametrize(
    "error",
    [
        ABSENT,
        GONE,
        sqlstates.TooManyConnections("too many clients already"),
        sqlstates.DiskFull("no space left"),
        sqlstates.InsufficientResources("insufficient resources"),
        sqlstates.CannotConnectNow("the database system is starting up"),
        from_sqlalchemy(ABSENT),
        from_sqlalchemy(RuntimeError("whatever a driver says"), invalidated=True),
        sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached"),
        errors.CannotConnectNow(),
        errors.TooManyConnections(),
        errors.ConnectionDoesNotExist(),
        from_sqlalchemy(errors.CannotConnectNow()),
        errors.InterfaceError("connection is closed"),
        errors.raised_in("asyncpg.connect_utils", ConnectionRefusedError(111, "refused")),
        errors.raised_in("asyncpg.connection", TimeoutError()),
        errors.raised_in("psycopg.connection_async", socket.gaierror("not known")),
        errors.Psycopg2Operational("could not connect"),
        errors.PoolTimeout("couldn't get a connection after 30.00 sec"),
        from_another(GONE),
        from_another(from_another(from_sqlalchemy(GONE))),
        BaseExceptionGroup("of a task group", [ValueError(), GONE]),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:60],
)
def test_database_that_is_away(error: Exception) -> None:
    """Whichever library says so, and whatever was made of its error."""
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        sqlstates.UndefinedColumn("no such column"),
        sqlstates.QueryCanceled("canceling statement due to statement timeout"),
        sqlstates.OutOfMemory("out of memory"),
        sqlstates.ConfigurationLimitExceeded("temporary file size exceeds temp_file_limit"),
        sqlstates.LockNotAvailable("canceling statement due to lock timeout"),
        sqlstates.SerializationFailure("could not serialize access"),
        from_sqlalchemy(sqlstates.UniqueViolation("duplicate key")),
        psycopg.InterfaceError("the cursor is closed"),
        errors.UndefinedColumn(),
        errors.InterfaceError("cannot perform operation: another operation is in progress"),
        errors.Psycopg2QueryCanceled("canceled"),
        # Of the app's own use of the network and of files.
        errors.raised_in("httpx._transports", ConnectionRefusedError(111, "refused")),
        errors.raised_in("shop.stock", TimeoutError()),
        FileNotFoundError("no such file"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:60],
)
def test_bug(error: Exception) -> None:
    """A statement that is wrong or slow, and what else isn't there, is no database that is away."""
    assert not is_away(error)


def test_error_that_is_its_own_cause_ends() -> None:
    """A circle of causes is walked once."""
    one, other = RuntimeError(), RuntimeError()
    one.__cause__, other.__cause__ = other, one
    assert not is_away(one)


@pytest.mark.parametrize("depth", [5, 100_000])
def test_json_that_is_too_deep_is_no_bug(depth: int) -> None:
    """An app of Starlette alone that reads it: 400."""

    async def read(request: Request) -> Response:
        return PlainTextResponse(f"a {type(await request.json()).__name__}")

    app = Starlette(routes=[Route("/", read, methods=["POST"])])
    headers = [("transfer-encoding", "chunked")]
    found = ask(Away(app, 0), "POST", chunks=[b"[" * depth + b"]" * depth], headers=headers)
    assert not found.error
    expected = (200, b"a list") if depth == 5 else (400, b'{"detail":"The request\'s JSON has too many levels."}')
    assert (found.status, found.body) == expected


def test_endless_recursion_is_a_bug() -> None:
    """The app's own is, wherever it ends, and so is one of a request without a body."""

    def endless(body: bytes) -> None:
        json.loads(body)
        endless(body)

    async def recursing(scope: Scope, receive: Receive, _send: Send) -> None:
        endless((await receive())["body"])

    async def reading_deep(_scope: Scope, _receive: Receive, _send: Send) -> None:
        json.loads("[" * 100_000)

    for app in (recursing, reading_deep):
        assert isinstance(ask(Away(app, 0), "POST", chunks=[b"[[[[[[[[[[1]]]]]]]]]]"]).error, RecursionError)


class Failing:
    """An app that fails so many times, and then answers; `calls` counts."""

    def __init__(self, error: Exception, times: float = float("inf"), sends: tuple[ASGIApp, ...] = ()) -> None:
        self.error, self.times, self.sends, self.calls = error, times, sends, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        if self.calls > self.times:
            return await answering(200, b"here")(scope, receive, send)
        for one in self.sends:
            await one(scope, receive, send)
        raise self.error


def test_request_gets_503() -> None:
    """With Retry-After, and a body of FastAPI's kind."""
    found = ask(Away(Failing(ABSENT), 0))
    assert (found.status, found.headers["retry-after"]) == (503, "1")
    assert json.loads(found.body) == {"detail": "The database can't be reached, or is busy."}
    assert not found.error


def test_answers_500_is_a_503_too() -> None:
    """Starlette and FastAPI send a 500 before they raise the error again: nothing of it is seen."""
    found = ask(Away(Failing(ABSENT, sends=(answering(500, b"Internal Server Error"),)), 0))
    assert [message.get("status") for message in found.sent] == [503, None]
    assert not found.error


@pytest.mark.parametrize("status", [500, 201])
def test_error_after_a_whole_answer_is_logged(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Raised, it would have Uvicorn close the connection, on which the proxy may have sent the next request."""
    found = ask(Away(Failing(RuntimeError("a bug"), sends=(answering(status, b"an answer"),)), 5))
    assert (found.status, found.body, len(found.sent)) == (status, b"an answer", 2)
    assert found.error is None
    assert "RuntimeError: a bug" in caplog.text


def test_500_that_the_app_answered_is_its_own() -> None:
    """Without an error it passes, whatever its parts."""
    assert ask(Away(answering(500, b"mine"), 5)).body == b"mine"
    long = ask(Away(answering(500, b"a", b"b", b"c"), 5))
    assert [message.get("body") for message in long.sent] == [None, b"a", b"b", b"c"]


def test_streaming_500_is_not_held_back() -> None:
    """It is on its way from its third message on, and what comes after that can't be changed any more."""
    app = Failing(ABSENT, sends=(answering(500, b"a", b"b", b"c"),))
    found = ask(Away(app, 5))
    assert (found.status, found.body, app.calls) == (500, b"abc", 1)


def test_error_after_the_answer_began_goes_on() -> None:
    """A 503 can't follow a 200; Uvicorn cuts the connection."""

    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200))
        await send(part(b"half", more=True))
        raise ABSENT

    found = ask(Away(begins, 5))
    assert found.error is ABSENT
    assert [message.get("status") for message in found.sent] == [200, None]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_read_is_asked_again(method: str) -> None:
    """A short restart of Postgres costs it nothing but the time."""
    app = Failing(GONE, times=3)
    assert ask(Away(app, 10), method).body == b"here"
    assert app.calls == 4


def test_read_is_asked_until_the_deadline() -> None:
    """And not for longer: of all the calls one at most comes after it. The pauses between them grow."""
    app, called = Failing(GONE), list[float]()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(time.monotonic())
        await app(scope, receive, send)

    assert ask(Away(noting, 0.5)).status == 503
    assert time.monotonic() - called[0] > 0.4
    assert len([at for at in called if at > called[0] + 0.5]) <= 1
    assert 2 < app.calls <= 5


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_write_is_called_once(method: str) -> None:
    """It may have written, whatever the error says."""
    app = Failing(GONE)
    assert ask(Away(app, 10), method).status == 503
    assert app.calls == 1


def reading(route: Callable[[Request], Response]) -> Starlette:
    async def read(request: Request) -> Response:
        await request.body()
        return route(request)

    return Starlette(routes=[Mount("/shop", routes=[Route("/orders/{number}", read)])])


def test_read_that_is_asked_again_is_as_it_was() -> None:
    """Starlette writes into the scope, for a Mount too, and Uvicorn tells the end of a body once."""
    seen = []

    def route(request: Request) -> Response:
        seen.append(dict(request.state._state))
        request.state.tried = True
        if len(seen) < 3:
            raise GONE
        return PlainTextResponse(f"{request.path_params['number']} {request.url.path}")

    assert ask(Away(reading(route), 10), path="/shop/orders/5").body == b"5 /shop/orders/5"
    assert seen == [{}, {}, {}]


def test_read_with_a_body_is_called_once() -> None:
    """What has been read of it is gone."""
    calls = []

    def route(request: Request) -> Response:
        calls.append(request)
        raise GONE

    assert ask(Away(reading(route), 10), path="/shop/orders/5", chunks=[b"x"]).status == 503
    assert len(calls) == 1


def test_cause_is_logged_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    """The driver's own first line, which may be about a setting; and no more of it than anybody reads."""
    away = Away(Failing(from_sqlalchemy(psycopg.OperationalError("connection failed\nDETAIL: 'secret'"))), 0)
    for _ in range(3):
        ask(away)
    assert capsys.readouterr().err == ("503, for the database is away: psycopg.OperationalError: connection failed\n")


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_request_passes(kind: str) -> None:
    """A WebSocket's error is the app's, and so is the lifespan's."""
    app = Failing(ABSENT)
    with pytest.raises(psycopg.OperationalError):
        asyncio.run(call(Away(app, 10), kind))
    assert app.calls == 1


async def call(app: ASGIApp, kind: str) -> None:
    await app({"type": kind}, nothing, nothing_sent)


async def nothing() -> Message:
    return {}


async def nothing_sent(_message: Message) -> None:
    return None
