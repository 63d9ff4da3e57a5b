"""What the backup service writes down."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup import server


@pytest.fixture
def little_room() -> Iterator[None]:
    """The kernel ends each write to a file at 10 bytes, with an error, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_is_written_whole_or_not_at_all(tmp_path: Path, little_room: None) -> None:
    """One that fails half-way leaves what was there, and no draft."""
    file = tmp_path / "state.json"
    server.write(file, "{}")
    with pytest.raises(OSError, match="File too large"):
        server.write(file, '{"at": "2026-11-26"}')
    assert file.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [file]
