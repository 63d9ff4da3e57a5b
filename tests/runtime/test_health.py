"""What is answered in front of whatever app."""

import json
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runtime import environment, schema
from runtime.health import Health
from runtime.settings import Settings
from tests.conftest import Database
from tests.runtime.asgi import answering, ask
from tests.runtime.conftest import Asker
from tests.stack.stacks import wait_until

APP = Health(answering(200, b"the app's"))
PROGRAM = "from runtime import schema\nsys.exit(schema.main())"
# A machine so busy that it takes longer to begin than the database has.
LATE = f"""
import time
class Finder:
    def find_spec(self, name, *_):
        if name == "psycopg":
            time.sleep({3 * schema.TIMEOUT + 1})
sys.meta_path.insert(0, Finder())
{PROGRAM}
"""


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/live"), ("GET", "/ready"), ("POST", "/health"), ("GET", "/x/health")]
)
def test_all_else_is_the_apps(method: str, path: str) -> None:
    """Another path, the probes' among them, and another method: what a proxy reaches on the app's port."""
    assert ask(APP, method, path).body == b"the app's"


def health() -> tuple[int, dict[str, Any]]:
    answer = ask(APP, path="/health")
    return answer.status, json.loads(answer.body)


def image(folder: Path, monkeypatch: pytest.MonkeyPatch, *heads: str) -> None:
    """What the build found of the app's revisions."""
    monkeypatch.setattr(environment, "STACK", folder)
    (folder / "migrations.json").write_text(json.dumps({"heads": heads, "graph": {head: [] for head in heads}}))


@pytest.fixture
def asked(asker: Asker, empty: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """PID 1 has the program that asks this database."""
    monkeypatch.setenv("DATABASE_URL", empty.app_url)
    asker(PROGRAM)
    return empty


def test_health_tells_whether_the_schema_is_at_head(
    asked: Database, owner: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 at the head of the image's migrations, 503 anywhere else, an empty database included."""
    image(tmp_path, monkeypatch, "b2")
    who = {"release": Settings().release, "slot": socket.gethostname()}
    at = {"database": "ok", "at_head": False, "head": ["b2"], **who}
    assert health() == (503, at | {"schema": []})
    owner.execute("INSERT INTO alembic_version VALUES ('a1')")
    assert health() == (503, at | {"schema": ["a1"]})
    owner.execute("UPDATE alembic_version SET version_num = 'b2'")
    assert health() == (200, at | {"schema": ["b2"], "at_head": True})


def test_health_knows_several_heads(
    asked: Database, owner: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in whatever order."""
    image(tmp_path, monkeypatch, "b2", "a1")
    owner.execute("INSERT INTO alembic_version VALUES ('b2')")
    assert health()[0] == 503
    owner.execute("INSERT INTO alembic_version VALUES ('a1')")
    assert health()[0] == 200


@pytest.mark.usefixtures("asked")
def test_health_without_alembic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says whether the database answers, and who says so."""
    monkeypatch.setattr(environment, "STACK", tmp_path)
    monkeypatch.setenv("STACK_RELEASE", "7")
    assert health() == (200, {"database": "ok", "release": "7", "slot": socket.gethostname()})


def test_program_that_takes_long_to_begin(
    asker: Asker, empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of that is the database's time: who asks first on a busy machine is not told that it is away."""
    image(tmp_path, monkeypatch)
    monkeypatch.setenv("DATABASE_URL", empty.app_url)
    asker(LATE)
    assert health()[1]["database"] == "ok"


def test_database_away_and_back(asked: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away is a 503, everything else goes on; back needs no restart."""
    if not asked.server:
        pytest.skip("needs a server of our own")
    image(tmp_path, monkeypatch, "b2")
    wait_until(lambda: health()[1]["database"] == "ok")
    asked.server.stop()
    try:
        status, said = health()
        assert (status, said["database"], said["head"]) == (503, "away", ["b2"])
        assert ask(APP).status == 200
    finally:
        asked.server.start()
    wait_until(lambda: health()[1]["database"] == "ok")


def test_health_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, or who listens never answers: that is away too, and no traceback."""
    monkeypatch.setattr(schema, "SOCKET", tmp_path / "nowhere.sock")
    assert health()[0] == 503
    monkeypatch.setattr(schema, "SOCKET", tmp_path / "schema.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(schema.SOCKET))
        listener.listen()
        monkeypatch.setattr("runtime.health.PATIENCE", 0.2)
        assert health()[1]["database"] == "away"


def test_program_that_ends_without_a_word(asker: Asker) -> None:
    """Whoever asks is told away."""
    asker("raise SystemExit(1)")
    assert health()[1]["database"] == "away"
