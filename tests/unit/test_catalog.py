"""The names that Postgres and Barman give, and what is read from them."""

from pathlib import Path

import pytest

from backup import catalog
from backup.server import Failure

MB = 2**20


@pytest.mark.parametrize("size", [1 * MB, 16 * MB, 1024 * MB])
@pytest.mark.parametrize("place", [0, 1, 3, 4, 255, 256, 4095, 4096, 1 << 20])
def test_name_of_a_segment(size: int, place: int) -> None:
    """It leads back to its number, sorts as that, and has the form that Postgres's names have."""
    name, following = (catalog.segment(0x1A, one, size) for one in (place, place + 1))
    assert catalog.SEGMENT.fullmatch(name)
    assert name.startswith("0000001A")
    assert catalog.number(name, size) == place
    assert name < following


def test_names_are_postgress_own() -> None:
    """As pg_walfile_name has them: with 16 MB the last of 4 GB is FF, and with 1 GB 3."""
    assert catalog.segment(1, catalog.lsn("0/16B3748") // (16 * MB), 16 * MB) == "000000010000000000000001"
    assert catalog.segment(2, catalog.lsn("1/FF000028") // (16 * MB), 16 * MB) == "0000000200000001000000FF"
    assert catalog.segment(2, catalog.lsn("2/0") // (1024 * MB), 1024 * MB) == "000000020000000200000000"
    assert catalog.segment(2, catalog.lsn("1/C0000000") // (1024 * MB), 1024 * MB) == "000000020000000100000003"


@pytest.mark.parametrize("text", ["0/0", "0/16B3748", "1/0", "FFFFFFFF/FFFFFFFF"])
def test_place_in_the_log(text: str) -> None:
    """Written as Postgres writes it."""
    assert catalog.text(catalog.lsn(text)) == text


def test_history_of_a_timeline() -> None:
    """Each timeline before it with where it was left; what Postgres says beside that is passed over."""
    history = "# a comment\n1\t0/3000148\tbefore 2026-11-22 03:15:46+00\n\n2\t1/A0\tno recovery target specified\n"
    assert catalog.parents(history) == {1: 0x3000148, 2: (1 << 32) + 0xA0}
    assert catalog.parents("") == {}


FACTS = """begin_time=2026-11-22 03:00:00+00:00
end_time={end}
parent_backup_id={parent}
status={status}
timeline=1
"""


def write(
    folder: Path, name: str, end: str = "2026-11-22 03:01:00+00:00", status: str = "DONE", parent: str = "None"
) -> None:
    (folder / f"{name}-backup.info").write_text(FACTS.format(end=end, status=status, parent=parent))


def test_backups_that_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed, is under way, or whose file Barman writes or removes now is none; each rests on those before."""
    monkeypatch.setattr(catalog, "META", tmp_path)
    write(tmp_path, "20261122T030000")
    write(tmp_path, "20261123T030000", parent="20261122T030000")
    write(tmp_path, "20261124T030000", parent="20261123T030000", status="WAITING_FOR_WALS")
    write(tmp_path, "20261125T030000", status="FAILED")
    write(tmp_path, "20261126T030000", end="None", status="STARTED")
    (tmp_path / "20261127T030000-backup.info").write_text("status=DONE\n")
    # As one that is removed between two looks: its name is there, and no file.
    (tmp_path / "20261128T030000-backup.info").symlink_to(tmp_path / "gone")
    found = catalog.backups()
    assert [one.kind for one in found] == ["full", "incremental", "incremental"]
    assert catalog.incomplete() == ["20261125T030000", "20261126T030000", "20261127T030000", "20261128T030000"]
    assert [one.name for one in catalog.chain(found[2])] == [one.name for one in found]
    (tmp_path / "20261122T030000-backup.info").unlink()
    with pytest.raises(Failure, match="The backup 20261124T030000 rests on 20261122T030000, which isn't there"):
        catalog.chain(catalog.backups()[1])
