"""An app whose real Postgres goes away and comes back: what its clients get."""

import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from starlette.testclient import TestClient

from runtime import worker
from runtime.find import Found
from runtime.settings import Settings
from tests.conftest import Database, Server

READS = ("/driver", "/async", "/threads", "/mounted/async")
# Seconds for which a request that only reads waits.
PATIENCE = 0.5


def client(patience: float) -> TestClient:
    app = worker.application(Found("tests.runtime.shop", "app"), Settings(pool_timeout=patience))
    # A bug must be the 500 that a client would see, not an exception here.
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def server(empty: Database, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Server:
    if not empty.server:
        pytest.skip("needs a server of our own")
    owner.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    monkeypatch.setenv("DATABASE_URL", empty.app_url)
    # The app reads it when it is imported.
    monkeypatch.delitem(sys.modules, "tests.runtime.shop", raising=False)
    return empty.server


@pytest.fixture
def shop(server: Server) -> Iterator[TestClient]:
    with client(PATIENCE) as shop:
        yield shop


@pytest.fixture
def patient(server: Server) -> Iterator[TestClient]:
    with client(60) as shop:
        yield shop


def test_database_away_and_back(shop: TestClient, server: Server) -> None:
    """Away: 503 with Retry-After in time where the database is needed, everything else serves; back: no restart."""
    assert shop.post("/orders").status_code == 201
    assert [shop.get(path).json() for path in READS] == [1] * len(READS)
    server.stop()
    try:
        for _ in range(2):
            for verb, path in (*(("GET", path) for path in READS), ("POST", "/orders")):
                begun = time.monotonic()
                answer = shop.request(verb, path)
                assert answer.status_code == 503, (verb, path, answer.text)
                assert int(answer.headers["Retry-After"]) >= 1
                assert time.monotonic() - begun < PATIENCE + 2
        assert shop.get("/").json() == "here"
    finally:
        server.start()
    assert [shop.get(path).json() for path in READS] == [1] * len(READS)
    assert shop.post("/orders").status_code == 201
    assert shop.get("/async").json() == 2


@pytest.mark.parametrize("path", READS)
def test_restart_of_postgres_costs_a_read_nothing(patient: TestClient, server: Server, path: str) -> None:
    """It waits, and is answered when the database is back."""
    assert patient.get(path).json() == 0
    server.stop()
    again = threading.Timer(1, server.start)
    again.start()
    try:
        answer = patient.get(path)
    finally:
        again.join()
    assert (answer.status_code, answer.json()) == (200, 0)


def test_connections_that_were_lost_cost_a_read_nothing(shop: TestClient, server: Server) -> None:
    """A pool's connection that Postgres closed meanwhile is the pool's trouble, and no client's."""
    assert shop.get("/async").json() == 0
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert shop.get("/async").status_code == 200


def test_pool_that_is_used_up_is_busy(shop: TestClient) -> None:
    """503, and not a 500: who asks again may have one."""
    assert shop.get("/pool").status_code == 503


def test_bug_in_sql_is_a_500(shop: TestClient) -> None:
    """A statement that is wrong is a bug, not a database that is away."""
    begun = time.monotonic()
    answer = shop.get("/bug")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert time.monotonic() - begun < PATIENCE


def test_server_with_no_connection_left(shop: TestClient, server: Server) -> None:
    """Postgres refuses it, which the app's clients see as busy."""
    server.sql("ALTER ROLE app CONNECTION LIMIT 0")
    try:
        assert shop.get("/driver").status_code == 503
        assert shop.post("/orders").status_code == 503
    finally:
        server.sql("ALTER ROLE app CONNECTION LIMIT -1")
    assert shop.post("/orders").status_code == 201
