"""What can be restored, of a catalog that is made up: the names that Barman and Postgres leave, and no server."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from backup import catalog, fetch, history, live, server, timelines
from backup.server import Failure

MODULES: tuple[ModuleType, ...] = (server, fetch, catalog, live, timelines, history)
SIZE = 16 * 2**20
BEGAN = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


class Volume:
    """A backup volume, and the server beside it: `running` is its timeline, None while it is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: int | None = None
        self.ends: dict[str, catalog.End] = {}

    def backup(self, minutes: float, place: int, timeline: int = 1, parent: str | None = None) -> str:
        """A backup of one minute that ended then, whose WAL is in the segment of this number."""
        name = f"{at(minutes):%Y%m%dT%H%M%S}"
        facts = {
            "status": "DONE",
            "begin_time": at(minutes - 1),
            "end_time": at(minutes),
            "parent_backup_id": parent,
            "timeline": timeline,
            "begin_wal": catalog.segment(timeline, place, SIZE),
            "end_xlog": catalog.text(place * SIZE + 1000),
            "xlog_segment_size": SIZE,
            "cluster_size": 1,
            "size": 1,
            "copy_stats": {"total_time": 1.0},
        }
        text = "\n".join(f"{key}={value}" for key, value in facts.items())
        (self.folder / "meta").mkdir(exist_ok=True)
        (self.folder / "meta" / f"{name}-backup.info").write_text(text)
        return name

    def wal(self, timeline: int, *places: int) -> None:
        for place in places:
            name = catalog.segment(timeline, place, SIZE)
            (self.folder / "wals" / name[:16]).mkdir(parents=True, exist_ok=True)
            (self.folder / "wals" / name[:16] / name).touch()

    def branch(self, timeline: int, place: int, parent: int = 1) -> None:
        path = self.folder / "wals" / f"{timeline:08X}.history"
        path.write_text(f"{parent}\t{catalog.text(place)}\tbefore 2026-11-22\n")

    def ended(self, timeline: int, place: int, minutes: float) -> None:
        """The last commit in a segment."""
        self.ends[catalog.segment(timeline, place, SIZE)] = catalog.End(at(minutes), place * SIZE + 500)

    def lived(self, *begun: tuple[float, int]) -> None:
        server.remember("timelines", seen=[[at(minutes).isoformat(), timeline] for minutes, timeline in begun])


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    places = {"HOME": "", "STATE": "stack", "STREAMING": "streaming", "META": "meta", "WALS": "wals", "SPARE": "spare"}
    for name, folder in places.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        for module in MODULES:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path / folder)
    made = Volume(tmp_path)
    monkeypatch.setattr(live, "timeline", lambda: made.running)
    monkeypatch.setattr(live, "catch_up", lambda: "nobody receives it")
    monkeypatch.setattr(catalog, "inside", lambda name: made.ends.get(name, catalog.End()))
    monkeypatch.setattr(server, "now", lambda: at(60))
    return made


@pytest.fixture
def two(volume: Volume) -> Volume:
    """Timeline 1 from minute 0; restored at minute 20 to what it was at 12; timeline 2 since."""
    volume.backup(5, 3)
    volume.wal(1, 3, 4, 5)
    volume.ended(1, 5, 15)
    volume.branch(2, 4 * SIZE + 100)
    volume.wal(2, 4, 5, 6)
    volume.backup(22, 5, timeline=2)
    volume.ended(2, 6, 40)
    volume.lived((0, 1), (20, 2))
    volume.running = 2
    return volume


def refused(to: object) -> str:
    with pytest.raises(Failure) as raised:
        history.answer(str(to))
    return str(raised.value)


def test_a_time_belongs_to_the_timeline_that_was_in_use(two: Volume) -> None:
    """Before the switch the old one, from then on the new one, from whichever backup reaches it."""
    assert history.answer(str(at(10))).timeline == 1
    plan = history.answer(str(at(21)))
    assert (plan.timeline, plan.backup.timeline) == (2, 1)
    plan = history.answer(str(at(30)))
    assert (plan.timeline, plan.backup.timeline) == (2, 2)
    assert plan.options[:2] == ["--target-tli", "2"]


def test_between_two_timelines(two: Volume) -> None:
    """After the last that was received of the old one: refused, unless all of it was, when it is the old one's end."""
    said = refused(at(18))
    assert "and the restore at 2026-11-22 03:20:00+00:00 was never received" in said
    assert f'--to "{at(15)}"' in said
    live.keep(1, at(16), 5 * SIZE + 600, closed=True)
    plan = history.answer(str(at(18)))
    assert (plan.timeline, plan.place) == (1, 5 * SIZE + 600)


def test_what_was_not_received_is_refused(two: Volume) -> None:
    """Up to the last that is known to be there, by what the server said or by what is written in the log itself."""
    assert history.answer(str(at(40))).timeline == 2
    assert f"what was written after {at(40)} was not received (nobody receives it). The latest" in refused(at(41))
    live.keep(2, at(45), 6 * SIZE + 700)
    assert history.answer(str(at(41))).place == 6 * SIZE + 700
    assert history.answer("latest").warnings == [f"What was written after {at(45)} may be missing: nobody receives it"]
    # An older answer that comes later changes nothing.
    live.keep(2, at(44), 6 * SIZE + 650)
    assert history.answer(str(at(45))).place == 6 * SIZE + 700


def test_a_hole(two: Volume) -> None:
    """Up to the hole, and again from the next backup; never over it."""
    volume = two
    volume.wal(2, 8, 9)
    volume.backup(50, 8, timeline=2)
    volume.ended(2, 9, 58)
    gone = catalog.segment(2, 7, SIZE)
    assert f"the WAL segment {gone} is missing" in refused(at(45))
    assert history.answer(str(at(39))).place == 0
    assert history.answer(str(at(55))).backup.name == f"{at(50):%Y%m%dT%H%M%S}"


def test_a_restore_that_nobody_saw_run(two: Volume) -> None:
    """While nothing was received of it its time is nobody's; when it runs, it is known since when."""
    two.running = None
    timelines.promoted(3)
    assert "nothing was received of the database since the restore at" in refused(at(60))
    two.running = 3
    assert "Nothing of timeline 3" in refused(at(60))
    assert timelines.lives()[-1] == (at(60), 3)


def test_a_restore_that_was_given_up(two: Volume) -> None:
    """The server goes on as before: its number is free again, and no time is lost."""
    timelines.promoted(3)
    live.keep(2, at(60), 6 * SIZE + 900)
    assert history.answer(str(at(60))).timeline == 2
    assert timelines.lives()[-1] == (at(20), 2)


def test_a_number_that_is_given_twice(two: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was received of the first, so the times of it can't be had."""
    timelines.promoted(3)
    two.running = 3
    assert timelines.lives()[-1] == (at(60), 3)
    monkeypatch.setattr(server, "now", lambda: at(70))
    timelines.promoted(3)
    monkeypatch.setattr(server, "now", lambda: at(80))
    assert timelines.lives()[-1] == (at(70), 3)
    assert f"since the restore at {at(60).isoformat()}" in refused(at(65))


@pytest.mark.parametrize(
    "to",
    [
        "2026-11-22 03:10:00+00",
        "2026-11-22 03:10+00:00",
        "2026-11-22T03:10:00Z",
        "2026-11-22 03:10:00 UTC",
        "2026-11-22 08:40:00+05:30",
        "2026-11-21 19:10:00-0800",
        "20261122T031000+00",
    ],
)
def test_notations(two: Volume, to: str) -> None:
    """One moment, in whatever zone it is written; Postgres is told it in UTC."""
    assert history.answer(to).options[2:] == ["--target-time", "2026-11-22 03:10:00+00:00"]


@pytest.mark.parametrize("to", ["2026-11-22", "2026-11-22 03:10:00", "20261122T0310"])
def test_a_time_without_a_zone(two: Volume, to: str) -> None:
    """The sentence shows it with one, and that is understood."""
    suggested = refused(to).split('"')[1]
    assert history.parse(suggested).tzinfo == UTC


@pytest.mark.parametrize("to", ["0001-01-01 00:00:00+14", "2026-11-22 03:10:00 CET", "2026-02-30 00:00:00+00", ""])
def test_no_time(two: Volume, to: str) -> None:
    """A sentence, whatever was written."""
    assert "is neither `latest`, nor a backup's name" in refused(to)


def test_every_listed_backup_is_restorable_or_marked(two: Volume) -> None:
    """By its name, with the log of while it was made, and the backups that it rests on."""
    lone = two.backup(45, 6, timeline=2, parent="20261122T025900")
    bare = two.backup(50, 9, timeline=2)
    marked = {one["name"]: one["restorable"] for one in history.listing()}
    assert "rests on 20261122T025900, which isn't there" in marked.pop(lone)
    assert "is missing, without which the backup" in marked.pop(bare)
    assert set(marked.values()) == {None}
    for name in marked:
        assert history.answer(name).options[0] == "--target-immediate"


def test_without_a_damaged_backup(two: Volume) -> None:
    """The next older one leads to the same, over the switch too. What rests on a damaged one is left aside with it."""
    full = two.backup(45, 6, timeline=2)
    two.backup(50, 6, timeline=2, parent=full)
    live.keep(2, at(60), 6 * SIZE + 900)
    for to in ("latest", str(at(55))):
        assert history.answer(to).backup.begun == at(49)
        older = history.answer(to, frozenset([full]))
        assert (older.backup.begun, older.options) == (at(21), history.answer(to).options)
        oldest = history.answer(to, frozenset([full, older.backup.name]))
        assert (oldest.backup.timeline, oldest.timeline) == (1, 2)
        with pytest.raises(history.Early, match="No other backup leads there"):
            history.answer(to, frozenset([full, older.backup.name, oldest.backup.name]))
    # By its name it can be no other; by its time it can.
    with pytest.raises(Failure) as raised:
        history.answer(full, frozenset([full]))
    assert history.answer(str(raised.value).split('"')[1], frozenset([full])).backup.begun == at(21)


def test_two_points_of_one_name(two: Volume) -> None:
    """The newer one, by its place in the log: Postgres would stop at the first of that name."""
    point = {"at": at(35).isoformat(), "timeline": 2, "lsn": "0/6000100"}
    server.remember("points", points={"before": point})
    plan = history.answer("before")
    assert plan.options[2:] == ["--target-lsn", "0/6000100", "--exclusive"]


def test_half_written_state(two: Volume) -> None:
    """Whole or not at all: what a killed process left is passed over, and the next one writes it."""
    path = two.folder / "stack/points.json"
    path.write_text('{"at": "2026-')
    assert server.recall("points") == {}
    server.remember("points", points={})
    assert json.loads(path.read_text())["points"] == {}
    assert [one.name for one in path.parent.iterdir() if "points" in one.name] == ["points.json"]
