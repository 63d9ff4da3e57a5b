"""The way to Postgres for apps that speak TCP alone, on a real Postgres."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import psycopg
import pytest
from pydantic_core import MultiHostUrl
from sqlalchemy import create_engine, text

from tests.conftest import Database, Server
from tests.runtime.conftest import Demand

CODE = """
import os
os.environ["STACK_ROLE"] = "{role}"
from runtime import relay
relay.SOCKET_FOLDER = "{folder}"
sys.exit(relay.main())
"""
ROW = "x" * 100_000


@pytest.fixture
def server(empty: Database) -> Server:
    if not empty.server:
        pytest.skip("needs a socket of our own")
    return empty.server


@pytest.fixture
def role(request: pytest.FixtureRequest) -> str:
    """Whose relay it is: the app's, unless a test says otherwise."""
    return str(getattr(request, "param", "app"))


@pytest.fixture
def port(demand: Demand, server: Server, role: str) -> int:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    demand(listener, CODE.format(folder=server.folder, role=role))
    return port


def connect(port: int, user: str = "app", query: str = "") -> psycopg.Connection:
    url = f"postgresql://{user}@127.0.0.1:{port}/app?{query}"
    return psycopg.connect(url, autocommit=True, connect_timeout=20)


def test_app_reaches_postgres_by_tcp(port: int) -> None:
    """As the role that it is, on Postgres's own socket."""
    with connect(port) as connection:
        assert connection.execute("SELECT current_user, inet_server_addr()").fetchone() == ("app", None)


@pytest.mark.parametrize("role", ["app", "owner"], indirect=True)
@pytest.mark.parametrize("user", ["app", "owner", "postgres:a-password", "nobody:x"])
def test_user_that_the_url_names_is_the_role(port: int, role: str, user: str) -> None:
    """An app's variables name one user, in a slot and in the migration: each gets its role, and what it asked for."""
    for sslmode in ("disable", "prefer"):
        with connect(port, user, f"sslmode={sslmode}&application_name=shop") as connection:
            row = connection.execute("SELECT current_user, current_setting('application_name')").fetchone()
            assert row == (role, "shop")


def test_database_that_is_not_named_is_the_users_namesake(port: int) -> None:
    """As every client has it: the role's own namesake would be another one."""
    with pytest.raises(psycopg.OperationalError, match='database "shop"'):
        psycopg.connect(f"postgresql://shop@127.0.0.1:{port}", connect_timeout=20)


def test_statement_is_cancelled(port: int) -> None:
    """A request to cancel comes on a connection of its own, in the place of a startup message."""
    with connect(port) as connection:
        Timer(0.5, connection.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")


def test_what_is_no_startup_message_is_postgress_to_answer(port: int, server: Server) -> None:
    """It ends the connection; the next one is well."""
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x08\0\3", b"\0\0\0\3\0\3\0\0"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
    connect(port).close()


def test_much_goes_both_ways(port: int) -> None:
    """Megabytes in one statement, and in its answer."""
    with connect(port) as connection:
        large = ROW * 50
        row = connection.execute("SELECT %s::text, md5(%s)", (large, large)).fetchone()
        assert row
        assert row[0] == large


def test_last_words_arrive(demand: Demand, tmp_path: Path) -> None:
    """All that was sent before the end of one side reaches the other, in both directions."""
    listener, there = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    there.bind(str(tmp_path / ".s.PGSQL.5432"))
    there.listen()
    demand(listener, CODE.format(folder=tmp_path, role="app"))
    with there, ThreadPoolExecutor(1) as pool:
        for app_first in (True, False):
            with socket.create_connection(listener.getsockname(), timeout=20) as app:
                # The relay looks for the other side only when somebody has come.
                its, _ = there.accept()
                # Which is no startup message, and so passed on as it is.
                app.sendall(b"GET / HT")
                assert its.recv(8, socket.MSG_WAITALL) == b"GET / HT"
                speaker, hearer = (app, its) if app_first else (its, app)
                hearing = pool.submit(hear, hearer)
                speaker.sendall(ROW.encode() * 50)
                speaker.close()
                assert hearing.result() == 50 * len(ROW)
                its.close()


def hear(connection: socket.socket) -> int:
    """How many bytes come until the other side ends."""
    received = 0
    while part := connection.recv(100):
        received += len(part)
    return received


def test_url_that_was_put_together(server: Server) -> None:
    """Of host, port and name: a socket's folder behind the name wins over the host, with no relay at all."""
    name = f"app?host={server.folder}"
    made = MultiHostUrl.build(scheme="postgresql+psycopg", username="app", host="nowhere.invalid", port=5432, path=name)
    for url in (str(made), f"postgresql+psycopg://app:@nowhere.invalid:5432/{name}"):
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT current_user")).scalar() == "app"
        engine.dispose()


def test_many_at_once(port: int) -> None:
    """None waits for another."""

    def ask(number: int) -> object:
        with connect(port) as connection:
            connection.execute("SELECT pg_sleep(0.3)")
            return connection.execute("SELECT %s::int", (number,)).fetchone()

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(10))) == [(number,) for number in range(10)]


def test_end_of_one_side_is_the_end_of_the_other(port: int, owner: psycopg.Connection, server: Server) -> None:
    """Postgres keeps no backend for an app that has gone, and an app learns that its backend has."""
    gone = connect(port)
    backend = gone.info.backend_pid
    # Without a word of Postgres's protocol.
    with socket.socket(fileno=os.dup(gone.fileno())) as its_socket:
        its_socket.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 20
    while owner.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (backend,)).fetchone():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    gone.close()
    with connect(port) as left:
        server.sql(f"SELECT pg_terminate_backend({left.info.backend_pid})")
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")


def test_postgres_that_is_away_is_told_at_once(port: int, server: Server) -> None:
    """As if nobody listened, and no other connection is the worse for it."""
    connect(port).close()
    server.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            connect(port)
        assert time.monotonic() - begun < 3
    finally:
        server.start()
    with connect(port) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
