"""What is read, and what is left alone, whatever bytes somebody else wrote."""

from pathlib import Path

import pytest

from ops import dotenv
from ops.run import docker


def test_comment_in_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of .env that is no UTF-8 stays as it is where another is written."""
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    dotenv.FILE.write_bytes(b"# f\xfcr uns\nRELEASE=one\n")
    dotenv.write({"RELEASE": "two"}, "written")
    assert dotenv.FILE.read_bytes() == b"# f\xfcr uns\nRELEASE=two\n"
    assert dotenv.read("RELEASE") == "two"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("MIGRATE=bash scripts/prestart.sh", "bash scripts/prestart.sh"),
        ("MIGRATE='python -m shop.seed'  # once", "python -m shop.seed"),
        ('MIGRATE="a # b"', "a # b"),
        ("MIGRATE=one#two # three", "one#two"),
        ("MIGRATE= spaced ", "spaced"),
        ("export MIGRATE=none", "none"),
        ("MIGRATE=", None),
        ("MIGRATE= # nothing", None),
        ("# MIGRATE=no", None),
        ("MIGRATE=first\nMIGRATE=last", "last"),
    ],
)
def test_value_is_what_compose_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, value: str | None
) -> None:
    """A command has spaces: its first word alone migrated nothing, and said that all was well."""
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    dotenv.FILE.write_text(f"OTHER=x\n{line}\nMORE=y\n")
    assert dotenv.read("MIGRATE") == value


@pytest.mark.docker
def test_program_that_prints_anything() -> None:
    """What Docker passes on may be no UTF-8, as a container's log is."""
    assert "\ufffd" in docker("\udcff", check=False).stderr
