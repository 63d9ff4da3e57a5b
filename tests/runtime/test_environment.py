import json
import os
import sys
from pathlib import Path

import pytest

from runtime import environment
from runtime.settings import Settings

SET = ("DATABASE_URL", "PGHOST", "PGUSER", "PGDATABASE", "HOME", "TMPDIR", "PATH", *environment.CACHES)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that has none of what is set here, and is as before after the test."""
    for name in SET:
        monkeypatch.setenv(name, "")
        del os.environ[name]


def test_database_is_handed_over_in_the_usual_way() -> None:
    """By URL, and by what libpq reads, as the role."""
    environment.prepare(Settings(), "owner")
    assert os.environ["DATABASE_URL"] == "postgresql://owner@localhost/app?host=/var/run/postgresql"
    found = [os.environ[name] for name in ("PGHOST", "PGUSER", "PGDATABASE")]
    assert found == ["/var/run/postgresql", "owner", "app"]


def test_another_database_is_handed_over_by_its_url_alone() -> None:
    """What libpq reads would name the stack's own."""
    environment.prepare(Settings(database_url="postgresql://me@db.example/shop"), "owner")
    assert os.environ["DATABASE_URL"] == "postgresql://me@db.example/shop"
    assert not {"PGHOST", "PGUSER", "PGDATABASE"} & os.environ.keys()


def test_what_the_app_has_set_stays(tmp_path: Path) -> None:
    """Its own variables are never hidden."""
    own = {name: str(tmp_path) for name in SET if name != "PATH"}
    os.environ.update(own)
    environment.prepare(Settings(), "app")
    assert {name: os.environ[name] for name in own} == own


def test_everything_can_be_written_somewhere(tmp_path: Path) -> None:
    """A home that isn't there, or is read-only, is replaced, and caches have a place; one that is well has them."""
    os.environ["HOME"] = str(tmp_path / "nowhere")
    environment.prepare(Settings(), "app")
    places = [os.environ[name] for name in ("HOME", "TMPDIR", *environment.CACHES)]
    assert {Path(place).parts[:2] for place in places} == {("/", "tmp")}
    os.environ["HOME"] = str(tmp_path)
    for name in environment.CACHES:
        del os.environ[name]
    environment.prepare(Settings(), "app")
    assert {Path(os.environ[name]).is_relative_to(tmp_path) for name in environment.CACHES} == {True}


def test_programs_of_the_apps_python_come_first() -> None:
    """`alembic` is the app's, in a venv that isn't on PATH too."""
    os.environ["PATH"] = "/usr/bin"
    environment.prepare(Settings(), "app")
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_libraries_of_the_stacks_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both have one, the app's is used."""
    monkeypatch.setattr(sys, "path", ["/code", "/site-packages"])
    environment.find_libraries()
    assert sys.path == ["/code", "/site-packages", f"{environment.STACK}/lib"]


def test_uvicorn_of_the_stacks_comes_first_where_the_build_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an older one of the app's, and behind the stack's own code."""
    (tmp_path / "first").mkdir()
    monkeypatch.setattr(environment, "STACK", tmp_path)
    monkeypatch.setattr(sys, "path", ["/code", "/site-packages"])
    environment.find_libraries()
    assert sys.path == ["/code", f"{tmp_path}/first", "/site-packages", f"{tmp_path}/lib"]


def test_revisions_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the build wrote down; nothing without Alembic. `./stack` reads the same."""
    monkeypatch.setattr(environment, "STACK", tmp_path)
    assert environment.migrations() == {}
    known = {"heads": ["b"], "graph": {"a": [], "b": ["a"]}, "versions": "migrations/versions"}
    (tmp_path / "migrations.json").write_text(json.dumps(known))
    assert environment.migrations() == known
    assert environment.show() == 0
    assert json.loads(capsys.readouterr().out) == known


@pytest.mark.parametrize(
    ("url", "for_libpq"),
    [
        ("postgresql://app@localhost/app?host=/var/run/postgresql", None),
        ("postgresql+asyncpg://app:x@db.example:5432/shop", "postgresql://app:x@db.example:5432/shop"),
        ("postgresql+psycopg://app@db.example/a+b://c", "postgresql://app@db.example/a+b://c"),
        ("postgres://app@db.example/shop", None),
        ("host=db.example user=app", None),
        ("", None),
    ],
)
def test_url_for_the_stacks_own_connections(url: str, for_libpq: str | None) -> None:
    """The app's own DATABASE_URL may name SQLAlchemy's driver, which libpq doesn't know."""
    os.environ["DATABASE_URL"] = url
    assert environment.libpq_url() == (url if for_libpq is None else for_libpq)
