"""What is said about errors that an app has in this container and not elsewhere."""

import asyncio
from typing import Any

import psycopg
import pytest

from runtime import hints
from runtime.away import Away
from runtime.health import Message
from tests.conftest import Database
from tests.runtime.asgi import ask


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "told", set())
    monkeypatch.setenv("STACK_ROLE", "owner")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("permission denied for schema public", "The role app may not change the schema. What makes its tables, "),
        ('relation "x": must be owner of table x', "The role app may not change the schema: such statements "),
        ("[Errno 30] Read-only file system: 'data'", "The container's file system is read-only but for /tmp: "),
        ('FATAL:  Peer authentication failed for user "app"', "Postgres knows this container as the role owner: "),
        ('no pg_hba.conf entry for host "[local]", user "app", database "shop", no encryption', "The one database is "),
        ('database "app_test" does not exist', "The one database is called app."),
        ('no pg_hba.conf entry for host "[local]", user "me", database "app", no encryption', None),
        ("permission denied for table orders", None),
    ],
)
def test_hint(capsys: pytest.CaptureFixture[str], words: str, hint: str | None) -> None:
    """What the stack is the cause of has one, once; what it isn't has none."""
    for _ in range(2):
        hints.say(f"Traceback (most recent call last):\n  in main\nError: {words}\n")
    said = capsys.readouterr().err
    assert said.count("\n") == (hint is not None)
    assert said.startswith(hint or "")


async def receive() -> Message:
    return {"type": "lifespan.startup"}


def test_app_that_ends_while_it_starts(
    empty: Database, owner: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """create_all in the lifespan, as Postgres refuses it: after what the app's server says of it."""
    sent: list[str] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        with psycopg.connect(empty.app_url) as connection:
            try:
                connection.execute("CREATE TABLE things (id int)")
            except psycopg.Error as error:
                await send({"type": "lifespan.startup.failed", "message": f"Traceback\n{error}"})

    async def send(message: Message) -> None:
        assert capsys.readouterr().err == ""
        sent.append(message["type"])

    asyncio.run(hints.Startup(app)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.failed"]
    assert capsys.readouterr().err.startswith("The role app may not change the schema.")


def test_request_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """The error stays the app's own; beside it stands what to do."""

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise OSError(30, "Read-only file system", "/srv/uploads/cat.png")

    assert isinstance(ask(Away(app, 1)).error, OSError)
    assert capsys.readouterr().err.startswith("The container's file system is read-only but for /tmp")
