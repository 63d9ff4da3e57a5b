"""When the owner of a bucket counts as lost."""

import contextlib
import importlib
import json
import shutil
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


class Stored:
    """What a bucket has of its owner, in place of rclone; `away`: nothing more can be written."""

    def __init__(self) -> None:
        self.text, self.away = "", False

    def rclone(self, verb: str, *_: str, **options: str) -> str:
        if verb == "rcat":
            if self.away:
                raise server.Failure("no answer")
            self.text = options["input"]
        return self.text


@pytest.fixture
def stored(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stored:
    made = Stored()
    monkeypatch.setattr(bucket, "rclone", made.rclone)
    monkeypatch.setattr(bucket.time, "sleep", lambda _: None, raising=False)
    monkeypatch.setattr(server, "STATE", tmp_path)
    monkeypatch.setattr(server, "SPARE", tmp_path / "spare")
    monkeypatch.setenv("BACKUP_S3_BUCKET", "mine")
    use(bucket, monkeypatch, tmp_path / "volume")
    return made


def use(bucket: Any, monkeypatch: pytest.MonkeyPatch, volume: Path) -> None:
    """Be the service on that volume."""
    volume.mkdir(exist_ok=True)
    monkeypatch.setattr(bucket.signs, "FILE", volume / "signs")
    monkeypatch.setattr(bucket.signs, "NAME", volume / "id")


def later(bucket: Any, clocks: Clocks) -> None:
    """Claim once more, when it is time for a new sign."""
    clocks.seconds += bucket.ALIVE + 1
    bucket.claim("1")


def test_copy_of_the_owners_volume_is_another_one(
    bucket: Any, clocks: Clocks, stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy of the machine has its name and not its later signs: it is refused, until the owner is lost."""
    bucket.claim("1")
    later(bucket, clocks)
    shutil.copytree(tmp_path / "volume", tmp_path / "copy")
    later(bucket, clocks)
    use(bucket, monkeypatch, tmp_path / "copy")
    with pytest.raises(server.Failure, match=", on a copy of this machine, last at"):
        bucket.claim("1")
    use(bucket, monkeypatch, tmp_path / "volume")
    later(bucket, clocks)
    use(bucket, monkeypatch, tmp_path / "copy")
    clocks.seconds += bucket.LONG_LOST + 1
    bucket.claim("1")
    use(bucket, monkeypatch, tmp_path / "volume")
    with pytest.raises(server.Failure, match=", on a copy of this machine, last at"):
        bucket.claim("1")


def test_sign_that_did_not_arrive(bucket: Any, clocks: Clocks, stored: Stored) -> None:
    """However often, and whether it arrived after all: the bucket stays this one's."""
    bucket.claim("1")
    for _ in range(20):
        stored.away, before = True, stored.text
        with pytest.raises(server.Failure, match="no answer"):
            later(bucket, clocks)
        assert stored.text == before
    stored.away = False
    later(bucket, clocks)
    # Killed between what was remembered and what was sent, or before it was known that it was sent.
    for arrives in (False, True):
        with contextlib.suppress(KeyboardInterrupt), bucket.signs.word(bucket.place("1")) as word:
            if arrives:
                stored.text = json.dumps({**json.loads(stored.text), "sign": word})
            raise KeyboardInterrupt
        later(bucket, clocks)
    # Nor was it taken over from itself.
    assert server.recall("taking") == {}


def test_sign_of_an_older_version(bucket: Any, clocks: Clocks, stored: Stored) -> None:
    """It has no word: the volume's name is enough, after an update and after a way back."""
    for _ in range(2):
        bucket.claim("1")
        stored.text = json.dumps({name: one for name, one in json.loads(stored.text).items() if name != "sign"})
        later(bucket, clocks)
        assert "sign" in json.loads(stored.text)


def test_two_buckets_by_turns(bucket: Any, clocks: Clocks, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is of each: one that was left is still this volume's."""
    bucket.claim("1")
    first, stored.text = stored.text, ""
    monkeypatch.setenv("BACKUP_S3_BUCKET", "other")
    for _ in range(2 * bucket.signs.KEPT):
        later(bucket, clocks)
    monkeypatch.setenv("BACKUP_S3_BUCKET", "mine")
    stored.text = first
    later(bucket, clocks)


def test_sign_of_a_full_volume(bucket: Any, clocks: Clocks, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last word once more: the copy must not stop for it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bucket.claim("1")
    with monkeypatch.context() as context:
        context.setattr(bucket.signs, "write", full)
        for _ in range(3):
            later(bucket, clocks)
    later(bucket, clocks)


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
