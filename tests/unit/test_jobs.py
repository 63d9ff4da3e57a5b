"""Which backup the next one rests on."""

import importlib
from datetime import timedelta
from typing import Any

import pytest

from backup import catalog, server


@pytest.fixture
def jobs(packages: None) -> Any:
    return importlib.import_module("backup.jobs")


def made(days: float, timeline: int = 1) -> catalog.Backup:
    """One that was begun so long ago."""
    begun = server.now() - timedelta(days=days)
    return catalog.Backup(f"{begun:%Y%m%dT%H%M%S}", {"begin_time": begun.isoformat(), "timeline": str(timeline)})


@pytest.mark.parametrize(
    ("ages", "rests_on"), [([12, 8.9], 1), ([12, 1], 1), ([9.1], None), ([12, 10], None), ([], None)]
)
def test_increment_rests_on_no_old_backup(
    jobs: Any, monkeypatch: pytest.MonkeyPatch, ages: list[float], rests_on: int | None
) -> None:
    """On the newest, while Postgres still knows what has changed since then: after ten days it has forgotten."""
    every = [made(one) for one in ages]
    monkeypatch.setattr(catalog, "backups", lambda: every)
    monkeypatch.setattr(server, "recall", lambda _: {})
    assert jobs.parent(1) is (every[rests_on] if rests_on is not None else None)
    # Nor on one from before a restore.
    assert jobs.parent(2) is None
