"""The program that asks the database for `/health`, on a real Postgres."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from runtime import schema
from runtime.demand import OnDemand
from tests.conftest import Database
from tests.runtime.conftest import Asker

CODE = """
from runtime import schema
schema.IDLE = {idle}
sys.exit(schema.main())
"""
# The program's connections, by the name that libpq takes from its environment.
WHO = "SELECT pid FROM pg_stat_activity WHERE application_name = 'schema under test' AND usename = 'app'"

Ask = Callable[[], dict[str, Any]]


@pytest.fixture
def program(asker: Asker, empty: Database, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> OnDemand:
    monkeypatch.setenv("DATABASE_URL", empty.app_url)
    monkeypatch.setenv("PGAPPNAME", "schema under test")
    return asker(CODE.format(idle=getattr(request, "param", 60)))


@pytest.fixture
def ask(program: OnDemand) -> Ask:
    def ask() -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(schema.SOCKET))
            found: dict[str, Any] = json.loads(connection.makefile().readline() or "{}")
            return found

    return ask


@pytest.fixture
def stopped(empty: Database) -> Iterator[Callable[[], None]]:
    """Stops the server; the call starts it again, and so does the end of the test."""
    if not empty.server:
        pytest.skip("needs a server of our own")
    server = empty.server
    server.stop()
    again = iter([server.start])
    yield lambda: next(again)()
    for start in again:
        start()


def insert(owner: psycopg.Connection, *revisions: str) -> None:
    for revision in revisions:
        owner.execute("INSERT INTO alembic_version VALUES (%s)", (revision,))


def test_revisions_of_the_schema(ask: Ask, owner: psycopg.Connection) -> None:
    """None before a migration, then what Alembic's table says, each time anew, sorted as Python sorts them."""
    assert ask() == {"database": "ok", "schema": []}
    insert(owner, "b_1", "a1", "B1", "b1")
    assert ask() == {"database": "ok", "schema": ["B1", "a1", "b1", "b_1"]}


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("ALTER TABLE alembic_version RENAME TO other", "ALTER TABLE other RENAME TO alembic_version"),
        ("REVOKE SELECT ON alembic_version FROM app", "GRANT SELECT ON alembic_version TO app"),
    ],
    ids=["absent", "closed"],
)
def test_table_that_cannot_be_read(ask: Ask, owner: psycopg.Connection, away: str, back: str) -> None:
    """The database answers, and what it is at nobody knows."""
    insert(owner, "a1")
    owner.execute(away.encode())
    try:
        assert ask() == {"database": "ok", "schema": []}
    finally:
        owner.execute(back.encode())
    assert ask() == {"database": "ok", "schema": ["a1"]}


def test_one_connection_for_all_who_ask(ask: Ask, program: OnDemand, owner: psycopg.Connection) -> None:
    """And one process, which an answer's deadline doesn't end after the answer."""
    ask()
    pid, backends = program.pid, owner.execute(WHO.encode()).fetchall()
    assert len(backends) == 1
    for _ in range(5):
        ask()
    # For longer than an answer may take.
    time.sleep(2 * schema.TIMEOUT + 0.2)
    ask()
    assert (program.pid, owner.execute(WHO.encode()).fetchall()) == (pid, backends)


def test_database_away_and_back(ask: Ask, program: OnDemand, stopped: Callable[[], None]) -> None:
    """Said with the reason; the same process finds it again."""
    found = ask()
    assert found["database"] == "away"
    assert "No such file or directory" in found["why"]
    pid = program.pid
    stopped()
    assert ask() == {"database": "ok", "schema": []}
    assert program.pid == pid


def test_url_that_cannot_be_read() -> None:
    """The reason is told without what libpq quotes: a deploy prints it, and it may be a password."""
    found = schema.Asker("postgresql://me:sec%zzret@db/shop").ask()
    assert found == {"database": "away", "why": "invalid percent-encoded token: …"}


def test_connection_that_was_lost_is_no_outage(ask: Ask, empty: Database, owner: psycopg.Connection) -> None:
    """After a restart of Postgres the first answer is right."""
    assert ask()["database"] == "ok"
    if not empty.server:
        pytest.skip("needs a server of our own")
    empty.server.stop()
    empty.server.start()
    assert ask() == {"database": "ok", "schema": []}


def test_table_that_is_locked_is_an_answer_in_time(ask: Ask, owner: psycopg.Connection) -> None:
    """A statement has its second, and no second one."""
    assert ask()["database"] == "ok"
    with owner.transaction():
        owner.execute("LOCK TABLE alembic_version")
        begun = time.monotonic()
        found = ask()
        assert time.monotonic() - begun < schema.TIMEOUT + 1
    assert found == {"database": "away", "why": "canceling statement due to statement timeout"}


def test_nothing_of_a_session(empty: Database) -> None:
    """A pooler has none to offer: no option, no setting that stays, no prepared statement, however often it asks."""
    asker = schema.Asker(empty.app_url)
    with psycopg.connect(empty.app_url) as other:
        usual = other.execute("SHOW statement_timeout").fetchone()
    for _ in range(8):
        assert asker.ask()["database"] == "ok"
    assert asker.connection
    with asker.connection as connection:
        assert connection.info.options == ""
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert connection.execute("SHOW statement_timeout").fetchone() == usual


def test_server_that_stands_still_holds_nobody_up(ask: Ask, owner: psycopg.Connection) -> None:
    """No answer at all ends the process: who asks is told, and who asks next has a new one, with a new connection."""
    assert ask()["database"] == "ok"
    row = owner.execute(WHO.encode()).fetchone()
    assert row
    os.kill(row[0], signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert ask() == {}
        assert time.monotonic() - begun < schema.TIMEOUT + 2
        assert ask() == {"database": "ok", "schema": []}
    finally:
        os.kill(row[0], signal.SIGCONT)


@pytest.mark.parametrize("program", [0.3], indirect=True)
def test_program_ends_when_nobody_asks(ask: Ask, program: OnDemand, owner: psycopg.Connection) -> None:
    """Its memory and its connection are free until somebody does."""
    assert ask()["database"] == "ok"
    deadline = time.monotonic() + 20
    while program.pid or owner.execute(WHO.encode()).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert ask()["database"] == "ok"


def test_who_goes_away_holds_nobody_up(ask: Ask) -> None:
    """A client that doesn't wait for its answer."""
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(schema.SOCKET))
    assert ask()["database"] == "ok"
