"""Which backup a restore begins with."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from backup import catalog
from backup.history import Plan
from backup.server import Failure

# A full backup and two increments, after an older one.
PARENTS = {"old": None, "full": None, "one": "full", "two": "one"}
EVERY = [
    catalog.Backup(name, {"parent_backup_id": str(parent), "cluster_size": "1"}) for name, parent in PARENTS.items()
]


@pytest.fixture
def restore(packages: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("backup.restore")
    monkeypatch.setattr(catalog, "backups", lambda: EVERY)
    return module


def way(_: str, without: frozenset[str]) -> Plan:
    """From the newest of those that rest on no other."""
    left = [one for one in EVERY if not without & {link.name for link in catalog.chain(one)}]
    if not left:
        raise Failure("No other backup leads there.")
    return Plan(left[-1], 1, [], "")


@pytest.mark.parametrize(
    ("damaged", "begins", "looked"),
    [
        ([], "two", ["full", "one", "two"]),
        (["two"], "one", ["full", "one", "two"]),
        (["full"], "old", ["full", "old"]),
    ],
)
def test_damaged_backup_is_passed_over(
    restore: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: list[str], begins: str, looked: list[str]
) -> None:
    """With what rests on it, and it is said. Each backup is read once."""
    read = verified(restore, monkeypatch, damaged)
    plan = restore.sound("latest", tmp_path, way)
    assert (plan.backup.name, read) == (begins, looked)
    assert plan.passed == [f"The backup {name} is damaged: a byte." for name in damaged]


def test_every_backup_is_damaged(restore: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is named, the newest first."""
    verified(restore, monkeypatch, ["old", "full"])
    with pytest.raises(Failure) as raised:
        restore.sound("latest", tmp_path, way)
    said = "The backup full is damaged: a byte. The backup old is damaged: a byte. No other backup leads there."
    assert str(raised.value) == said


def verified(restore: Any, monkeypatch: pytest.MonkeyPatch, damaged: list[str]) -> list[str]:
    """Have Barman find these damaged; what it looks at."""
    looked: list[str] = []

    def barman(_verb: str, _server: str, name: str) -> None:
        looked.append(name)
        if name in damaged:
            raise Failure("a byte")

    monkeypatch.setattr(restore, "barman", barman)
    return looked
