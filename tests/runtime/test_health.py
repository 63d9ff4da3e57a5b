import os
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import supervisor
from tests.conftest import Database


def test_live_and_ready(client: TestClient) -> None:
    """A slot that serves is live and ready."""
    assert client.get("/live").status_code == 200
    assert client.get("/ready").status_code == 200
    assert client.head("/ready").content == b""


def test_draining_slot_is_live_and_serves_but_is_not_ready(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a slot drains only `/ready` changes."""
    (tmp_path / "draining").touch()
    monkeypatch.setattr(supervisor, "DRAINING", tmp_path / "draining")
    assert client.get("/ready").status_code == 503
    assert client.get("/live").status_code == 200
    assert client.get("/").status_code == 200


def test_slot_whose_workers_do_not_all_serve_yet(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no requests, unless the others don't come in time."""
    mark = tmp_path / "incomplete"
    mark.touch()
    monkeypatch.setattr(supervisor, "INCOMPLETE", mark)
    assert client.get("/ready").status_code == 503
    since = time.time() - supervisor.COMPLETE_SECONDS - 1
    os.utime(mark, (since, since))
    assert client.get("/ready").status_code == 200


def test_health_tells_whether_the_schema_is_at_head(client: TestClient, database: Database) -> None:
    """200 at the head of the migrations, 503 anywhere else, an empty database included."""
    assert client.get("/health").status_code == 200
    database.alembic("downgrade", "base")
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["at_head"]) == (503, False)
    database.alembic("upgrade", "head")
    assert client.get("/health").json()["at_head"] is True


def test_database_away_and_back(client: TestClient, database: Database) -> None:
    """Away: 503 with Retry-After within 3 s where the database is needed, everything else serves; back: no restart."""
    if not database.server:
        pytest.skip("needs a server of our own")
    assert client.post("/notes", json={"text": "before"}).status_code == 201
    assert client.get("/notes").status_code == 200
    database.server.stop()
    try:
        for _ in range(3):
            for request in (("GET", "/notes"), ("GET", "/notes/1"), ("POST", "/notes"), ("DELETE", "/notes/1")):
                begun = time.monotonic()
                answer = client.request(*request, json={"text": "during"})
                assert answer.status_code == 503, (request, answer.text)
                assert int(answer.headers["Retry-After"]) >= 1
                assert time.monotonic() - begun < 3
        assert client.get("/health").json()["database"] == "away"
        assert client.get("/health").status_code == 503
        assert client.get("/").status_code == 200
        assert client.get("/ready").status_code == 200
    finally:
        database.server.start()
    assert client.get("/notes").json()[0]["text"] == "before"
    assert client.post("/notes", json={"text": "after"}).status_code == 201
    assert client.get("/health").status_code == 200


def test_bug_in_sql_is_a_500(client: TestClient, database: Database) -> None:
    """A statement that is wrong is a bug, not a database that is away."""
    if not database.server:
        pytest.skip("needs a server of our own")
    database.server.sql("ALTER TABLE notes RENAME COLUMN text TO body", role="owner")
    try:
        assert client.get("/notes").status_code == 500
    finally:
        database.server.sql("ALTER TABLE notes RENAME COLUMN body TO text", role="owner")
    assert client.get("/notes").status_code == 200
