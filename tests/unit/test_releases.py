"""The list of releases, which an older or a newer `./stack` reads and writes too."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from ops import dotenv
from ops.release import releases
from ops.release.releases import Release
from ops.run import Stop

# As the first version wrote it.
WRITTEN = [
    {"release": "one", "image": "sha256:1", "since": "2026-11-01 10:00:00+01:00", "rolled_back": False},
    {"release": "two", "image": "sha256:2", "since": "2026-11-02 10:00:00+01:00", "rolled_back": False},
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list, on a machine where each release has the image that it was written down with."""
    images = {"one": "sha256:1", "two": "sha256:2", "three": "sha256:3"}
    monkeypatch.setattr(releases, "HISTORY", tmp_path / "releases.json")
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    monkeypatch.setattr(releases, "image_id", lambda _project, release: images.get(release))
    releases.HISTORY.write_text(json.dumps(WRITTEN))
    (tmp_path / ".env").write_text("RELEASE=two\n")
    return releases.HISTORY


def test_reads_what_was_written_before(file: Path) -> None:
    """The oldest first, and what may be gone back to."""
    assert releases.history()[1] == Release("two", "sha256:2", "2026-11-02 10:00:00+01:00", False)
    assert releases.previous("shop", "two") == "one"


def test_others_read_what_is_written(file: Path) -> None:
    """The same names, and what was there stays as it was."""
    releases.record("shop", "three")
    *before, three = json.loads(file.read_text())
    assert before == WRITTEN
    assert (list(three), three["release"], three["rolled_back"]) == (list(WRITTEN[0]), "three", False)
    assert releases.current() == "three"


def test_rolled_back(file: Path) -> None:
    """What was rolled back is no release to go back to, and what serves again is the last."""
    releases.record("shop", "one", rolled_back="two")
    assert [(one.name, one.rolled_back) for one in releases.history()] == [("two", True), ("one", False)]
    releases.record("shop", "three")
    assert releases.previous("shop", "three") == "one"


def test_good_release_before_many_that_were_not(file: Path) -> None:
    """However many were rolled back: its image is among those that stay, or there would be no way back."""
    bad = [str(number) for number in range(releases.KEPT)]
    for name in bad:
        releases.record("shop", name)
        releases.record("shop", "one", rolled_back=name)
    releases.record("shop", "three")
    assert releases.previous("shop", "three") == "one"
    assert "one" in [one.name for one in releases.history()[-releases.KEPT :]]


def test_release_whose_image_was_removed(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no release to go back to, and that is said, with the way to build it again where it was committed."""
    revision, later = "0123456789ab", "ba9876543210"
    names = ("shop", revision, f"{later}-dirty-01234567", "now")
    rows = [{**WRITTEN[0], "release": name, "image": "sha256:1"} for name in names]
    images = {"shop": "sha256:1", "now": "sha256:1"}
    monkeypatch.setattr(releases, "image_id", lambda _project, release: images.get(release))
    file.write_text(json.dumps(rows))
    assert releases.previous("shop", "now") == "shop"
    said = f"The image of release {later}-dirty-01234567 was removed from this machine, by a prune perhaps. "
    assert capsys.readouterr().err == f"{said}What it was built from was never committed. Now back to shop.\n"
    del images["shop"]
    file.write_text(json.dumps([rows[1], rows[3]]))
    with pytest.raises(Stop, match=rf"{revision} was removed .* git checkout {revision} && \./stack deploy$"):
        releases.previous("shop", "now")
    file.write_text(json.dumps(rows[3:]))
    with pytest.raises(Stop, match="There is no earlier release"):
        releases.previous("shop", "now")


def test_serves_since_it_began_to(file: Path) -> None:
    """What serves already, and is brought up once more, goes on; what comes back begins anew."""
    releases.record("shop", "two")
    assert releases.history()[1] == Release("two", "sha256:2", "2026-11-02 10:00:00+01:00", False)
    releases.record("shop", "one")
    [two, one] = releases.history()
    assert (two.since, one.name) == ("2026-11-02 10:00:00+01:00", "one")
    assert one.since > "2026-11-02 10:00:00+01:00"


def test_name_of_what_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its content: the same at each look, another after each change, whichever kind of file it is in."""

    def git(*argv: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *argv], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "main.py").write_text("app = 1\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "One")
    clean = str(releases.revision(tmp_path))
    seen = {clean}
    for name, content in (
        ("main.py", b"app = 2\n"),
        ("new.py", b"\xff\xfe"),
        ("new.py", b"more"),
        ("main.py", b"\xff"),
    ):
        (tmp_path / name).write_bytes(content)
        found = str(releases.revision(tmp_path))
        assert re.fullmatch(rf"{clean}-dirty-[0-9a-f]{{8}}", found)
        assert found == releases.revision(tmp_path)
        seen.add(found)
    assert len(seen) == 5
    git("add", "--all")
    git("commit", "--quiet", "--message", "Two")
    committed = str(releases.revision(tmp_path))
    assert "dirty" not in committed
    # What is the operator's is in no image, and in no release.
    monkeypatch.setattr(releases, "HERE", tmp_path)
    (tmp_path / "hooks").mkdir()
    for name in ("compose.override.yaml", "hooks/after-deploy", "maintenance.html"):
        (tmp_path / name).write_text("")
    assert releases.revision(tmp_path) == committed
    (tmp_path / "main.py").write_text("app = 3\n")
    assert str(releases.revision(tmp_path)).startswith(f"{committed}-dirty-")
