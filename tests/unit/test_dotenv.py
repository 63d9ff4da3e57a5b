""".env as `./stack` reads it, beside Compose's own reader where there is one."""

from pathlib import Path

import pytest

from ops import dotenv
from ops.run import docker


def test_link_stays_one(tmp_path: Path) -> None:
    """What it leads to is written, and nothing is left beside it; blank lines stay."""
    (tmp_path / "etc").mkdir()
    kept, link = tmp_path / "etc/env", tmp_path / ".env"
    kept.write_text("WORKERS=2\n\nAPP=a:b\n")
    link.symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dotenv, "FILE", link)
        dotenv.write({"APP": "c:d"}, "Not needed.")
    assert link.is_symlink()
    assert kept.read_text() == "WORKERS=2\n\nAPP=c:d\n"
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["env"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("MIGRATE=bash scripts/prestart.sh", "bash scripts/prestart.sh"),
        ("MIGRATE=bash scripts/prestart.sh  # seeds too", "bash scripts/prestart.sh"),
        ("MIGRATE='bash scripts/prestart.sh'", "bash scripts/prestart.sh"),
        ("MIGRATE=\"sh -c 'a && b'\" # both", "sh -c 'a && b'"),
        ("MIGRATE='echo it\\'s'", "echo it's"),
        ("MIGRATE=a#b", "a#b"),
        ("export MIGRATE=none", "none"),
        ("MIGRATE=first\nMIGRATE=last", "last"),
        ("MIGRATE=", None),
        ("MIGRATE= # nothing", None),
        ("# MIGRATE=none", None),
        ("NO_MIGRATE=none", None),
        ("", None),
    ],
)
def test_value_is_read_whole(file: Path, line: str, value: str | None) -> None:
    """With its spaces, without its quotes and what is said of it behind a #."""
    file.write_text(f"WORKERS=2\n{line}\nAPP=shop:app\n")
    assert dotenv.read("MIGRATE") == value


@pytest.mark.parametrize("value", ["bash scripts/prestart.sh", "sh -c 'echo $HOME # no'", 'a "b" c', "../shop"])
def test_what_is_quoted_is_read_as_it_was(file: Path, value: str) -> None:
    """Whatever stands in it."""
    file.write_text(f"MIGRATE={dotenv.quoted(value)}\n")
    assert dotenv.read("MIGRATE") == value


def test_empty_one_in_the_shell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wins over .env, as Compose has it."""
    file.write_text("DATABASE_URL=postgresql://db/app\n")
    assert not dotenv.own_postgres()
    monkeypatch.setenv("DATABASE_URL", "")
    assert dotenv.own_postgres()


def test_comment_in_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of .env that is no UTF-8 stays as it is where another is written."""
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    dotenv.FILE.write_bytes(b"# f\xfcr uns\nRELEASE=one\n")
    dotenv.write({"RELEASE": "two"}, "written")
    assert dotenv.FILE.read_bytes() == b"# f\xfcr uns\nRELEASE=two\n"
    assert dotenv.read("RELEASE") == "two"


@pytest.mark.docker
def test_program_that_prints_anything() -> None:
    """What Docker passes on may be no UTF-8, as a container's log is."""
    assert "\ufffd" in docker("\udcff", check=False).stderr
