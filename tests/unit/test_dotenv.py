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


@pytest.mark.docker
def test_program_that_prints_anything() -> None:
    """What Docker passes on may be no UTF-8, as a container's log is."""
    assert "\ufffd" in docker("\udcff", check=False).stderr
