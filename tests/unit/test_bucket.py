"""When the owner of a bucket counts as lost."""

import importlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backup import server

BEGAN = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


class Clocks:
    """Ours, which only goes forward, and how far the owner's is before it or behind."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def says(self, ahead: float = 0) -> str:
        """A sign of life of this moment, by a clock that is so far ahead of ours."""
        return (BEGAN + timedelta(seconds=self.seconds + ahead)).isoformat()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def bucket(packages: None, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, at the start of a service."""
    module = importlib.import_module("backup.bucket")
    monkeypatch.setattr(module, "watched", ("", 0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1000 + clocks.seconds))
    monkeypatch.setattr(server, "now", lambda: BEGAN + timedelta(seconds=clocks.seconds))
    return module


@pytest.mark.parametrize("ahead", [0, 2600, -2600])
def test_owner_that_is_lost(bucket: Any, clocks: Clocks, ahead: float) -> None:
    """After 15 minutes without a new sign of life, by our own clock, also where the owner's is 43 minutes off."""
    for _ in range(100):
        sign = clocks.says(ahead)
        assert not bucket.silent(sign)
        clocks.seconds += bucket.ALIVE
    # The last one was seen a minute ago.
    last, clocks.seconds = sign, clocks.seconds + bucket.LOST - bucket.ALIVE
    assert not bucket.silent(last)
    clocks.seconds += bucket.ALIVE + 1
    assert bucket.silent(last)
    # One that comes after all is life.
    assert not bucket.silent(clocks.says(ahead))


def test_owner_of_long_ago(bucket: Any, clocks: Clocks) -> None:
    """One who has been silent for over an hour need not be watched first, whoever's clock is wrong."""
    sign = clocks.says()
    clocks.seconds += bucket.LONG_LOST + 1
    assert bucket.silent(sign)


@pytest.mark.usefixtures("bucket")
def test_segment_that_is_archived_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While what is being received is copied: its name is there, and no file."""
    offsite = importlib.import_module("backup.offsite")
    monkeypatch.setattr(offsite, "TAIL", tmp_path / "tail")
    monkeypatch.setattr(offsite, "STREAMING", tmp_path / "streaming")
    (tmp_path / "streaming").mkdir()
    (tmp_path / "streaming" / "000000010000000000000005").symlink_to(tmp_path / "gone")
    assert offsite.squeeze() == {}


def test_bucket_is_neither_looked_for_nor_made(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that may use this one bucket are enough. Its region is said where one is set."""
    names = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PASSWORD")
    monkeypatch.setattr(bucket.settings, "keys", lambda: (dict.fromkeys(names, "word"), ""))
    monkeypatch.setattr(bucket, "obscured", str.upper)
    monkeypatch.setenv("BACKUP_S3_BUCKET", "mine/folder")
    monkeypatch.setenv("BACKUP_S3_REGION", "eu-central-1")
    found = bucket.environment()
    assert found["RCLONE_CONFIG_PLAIN_NO_CHECK_BUCKET"] == "true"
    assert found["RCLONE_CONFIG_PLAIN_REGION"] == "eu-central-1"


def test_promise_of_the_page(bucket: Any) -> None:
    """What docs/backups.md says: a sign each minute, lost after 15."""
    assert (bucket.ALIVE, bucket.LOST) == (60, 15 * 60)
