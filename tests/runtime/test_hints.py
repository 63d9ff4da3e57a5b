"""What is said about errors that an app has in this container and not elsewhere."""

import asyncio
import logging
import socket
import sys
from typing import Any

import psycopg
import pytest
import uvicorn

from runtime import hints, worker
from runtime.away import Away
from runtime.settings import Settings
from tests.conftest import Database


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "told", set())
    monkeypatch.setenv("STACK_ROLE", "owner")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("permission denied for schema public", "The role app may not change the schema. "),
        ('relation "x": must be owner of table x', "The role app may not change the schema. "),
        ("[Errno 30] Read-only file system: 'data'", "The container's file system is read-only but for /tmp: "),
        ('FATAL:  Peer authentication failed for user "app"', "Postgres knows this container as the role owner: "),
        ('no pg_hba.conf entry for host "[local]", user "app", database "shop", no encryption', "The one database is "),
        ('database "app_test" does not exist', "The one database is called app."),
        ("No module named 'psycopg2'", "SQLAlchemy takes psycopg for a postgresql:// URL. For asyncpg "),
        ("The loaded 'psycopg2' is not async.", "SQLAlchemy takes psycopg for a postgresql:// URL. For asyncpg "),
        ("No module named 'psycopg2cffi'", None),
        ("No module named 'fastapi'", f"The image's Python, {sys.executable}, has no FastAPI. "),
        ("No module named 'fastapi_users'", None),
        (
            "cannot import name 'router' from 'profile' (/usr/lib/python3.14/profile.py)",
            "That is Python's own module. ",
        ),
        ("cannot import name 'router' from 'shop' (/app/shop.py)", None),
        ("Can't locate revision identified by '0002'", "The database is at a revision that this code "),
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


@pytest.mark.parametrize("setting", ["STACK_DATABASE_URL", "STACK_DATABASE_URL_FILE"])
def test_another_postgres(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    """Its roles and databases are not the stack's: what would be said of those might hide the cause."""
    monkeypatch.setenv(setting, "postgresql://me@db/shop")
    hints.say('no pg_hba.conf entry for host "10.0.0.2", user "me", database "shop", no encryption')
    hints.say("permission denied for schema public")
    assert capsys.readouterr().err == ""
    hints.say("No module named 'psycopg2'\nRead-only file system")
    said = capsys.readouterr().err
    assert "The container's file system is read-only" in said
    assert said.endswith("DATABASE_URL=postgresql+asyncpg://…\n")


def test_line_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A call of the app's with too many arguments is said, as any handler does it, and is no error in its route."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    worker.config(lambda: None, Settings())  # type: ignore[arg-type, return-value]
    logging.getLogger("uvicorn.error").error("Could not send:", "mail")
    assert "--- Logging error ---" in capsys.readouterr().err


async def served(app: Any, *requests: bytes) -> None:
    """What Uvicorn does with an app: it starts, answers these, and stops."""
    made = worker.config(lambda: app, Settings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(made)
        running = asyncio.create_task(server.serve([listener]))
        for request in requests:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(request)
            await reader.read()
            writer.close()
        server.should_exit = True
        await running


def test_app_that_ends_while_it_starts(
    empty: Database, owner: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """create_all in the lifespan, as Postgres refuses it: after what the app's server says of it."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        with psycopg.connect(empty.app_url) as connection:
            try:
                connection.execute("CREATE TABLE things (id int)")
            except psycopg.Error as error:
                await send({"type": "lifespan.startup.failed", "message": f"Traceback\n{error}"})

    with pytest.raises(SystemExit):
        asyncio.run(served(app))
    said = capsys.readouterr().err
    assert 0 < said.index("permission denied for schema") < said.index("The role app may not change the schema.")


def test_request_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """The error stays the app's own; behind it stands what to do."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise OSError(30, "Read-only file system", "/srv/uploads/cat.png")

    asyncio.run(served(Away(app, 1), b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    said = capsys.readouterr().err
    assert 0 < said.index("Exception in ASGI application") < said.index("The container's file system is read-only")
