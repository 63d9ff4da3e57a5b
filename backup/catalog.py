"""What there is to restore: Barman's backups and the WAL after them."""

import ast
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from backup import server
from backup.fetch import fetch
from backup.server import HOME, STREAMING, Failure, recall

META, WALS = HOME / "meta", HOME / "wals"
SEGMENT = re.compile(r"[0-9A-F]{24}")


def lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


@dataclass
class Backup:
    """One that is complete: Barman's `backup.info`."""

    name: str
    facts: dict[str, str]

    @cached_property
    def begun(self) -> datetime:
        return datetime.fromisoformat(self.facts["begin_time"])

    @cached_property
    def ended(self) -> datetime:
        return datetime.fromisoformat(self.facts["end_time"])

    @property
    def parent(self) -> str | None:
        parent = self.facts["parent_backup_id"]
        return None if parent == "None" else parent

    @property
    def kind(self) -> str:
        return "incremental" if self.parent else "full"

    @property
    def timeline(self) -> int:
        return int(self.facts["timeline"])

    @cached_property
    def end(self) -> int:
        """The place in the WAL from which it is consistent, as Postgres's manifest says at its end.

        `end_xlog` is the end of that segment, which a restore to this very backup never reaches.
        """
        try:
            with (self.folder / "backup_manifest").open("rb") as file:
                file.seek(-1000, os.SEEK_END)
                return lsn(re.findall(rb'"End-LSN": "([^"]+)"', file.read())[-1].decode())
        except (OSError, IndexError):
            # It is damaged: whoever restores it is told.
            return lsn(self.facts["end_xlog"])

    @property
    def first_segment(self) -> str:
        return self.facts["begin_wal"]

    @property
    def segment_size(self) -> int:
        return int(self.facts["xlog_segment_size"])

    @property
    def folder(self) -> Path:
        return HOME / "base" / self.name / "data"


def read(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def backups() -> list[Backup]:
    """Every complete backup, oldest first."""
    found = [Backup(path.name.removesuffix("-backup.info"), read(path)) for path in META.glob("*-backup.info")]
    whole = [one for one in found if one.facts["status"] in ("DONE", "WAITING_FOR_WALS")]
    return sorted(whole, key=lambda one: one.name)


def incomplete() -> list[str]:
    """The names of backups that failed, or are under way, or were killed on it."""
    names = (path.name.removesuffix("-backup.info") for path in META.glob("*-backup.info"))
    return sorted({*names} - {one.name for one in backups()})


def chain(backup: Backup) -> list[Backup]:
    """The full backup that this one rests on, and each increment up to it. Raises Failure when one is gone."""
    known = {one.name: one for one in backups()}
    links = [backup]
    while links[0].parent:
        if links[0].parent not in known:
            raise Failure(f"The backup {backup.name} rests on {links[0].parent}, which isn't there.")
        links.insert(0, known[links[0].parent])
    return links


def ancestors(timeline: int) -> dict[int, int]:
    """The timelines that this one grew out of, each with the place in the WAL where it was left."""
    with tempfile.NamedTemporaryFile("r") as file:
        if timeline == 1 or not fetch(f"{timeline:08X}.history", file.name):
            return {}
        text = file.read()
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {int(words[0]): lsn(words[1]) for words in lines}


def segments() -> set[str]:
    """The names of all WAL segments, those that are still being received without their `.partial`."""
    archived = {path.name for path in WALS.glob("*/*")}
    streamed = {path.name for path in STREAMING.iterdir()} if STREAMING.exists() else set()
    return {name for name in (full.removesuffix(".partial") for full in archived | streamed) if SEGMENT.fullmatch(name)}


def number(segment: str, size: int) -> int:
    """How many segments came before this one: names count in hexadecimal, 4 GB to each middle part."""
    return int(segment[8:16], 16) * (0x1_0000_0000 // size) + int(segment[16:], 16)


def segment(timeline: int, place: int, size: int) -> str:
    """The name of a timeline's segment that so many come before."""
    each = 0x1_0000_0000 // size
    return f"{timeline:08X}{place // each:08X}{place % each:08X}"


def numbers(timeline: int, size: int) -> set[int]:
    """The numbers of all segments on the timeline's way: others' as far as they were followed."""
    way = {timeline: 1 << 64, **ancestors(timeline)}
    return {
        number(name, size)
        for name in segments()
        if int(name[:8], 16) in way and number(name, size) <= way[int(name[:8], 16)] // size
    }


def gap(backup: Backup, timeline: int) -> str | None:
    """The first segment that is missing between the backup and the newest on the timeline's way; None when none is."""
    size = backup.segment_size
    found = numbers(timeline, size)
    first = number(backup.first_segment, size)
    for wanted in range(first, max(found, default=first) + 1):
        if wanted not in found:
            return segment(timeline, wanted, size)
    return None


def newest_wal() -> datetime | None:
    """When the newest WAL was received."""
    times = [path.stat().st_mtime for path in STREAMING.iterdir()] if STREAMING.exists() else []
    return datetime.fromtimestamp(max(times), tz=server.now().tzinfo) if times else None


def listing() -> list[dict[str, Any]]:
    """The backups, newest first, as `./stack backups` shows them."""
    verified = recall("verified").get("backups", {})
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "rests_on": one.parent,
            "ended": one.ended.isoformat(timespec="seconds"),
            "age_seconds": round(server.age(one.ended)),
            # What Barman counted when it was copied; blocks that are hard links count once.
            "bytes": int(one.facts["size"]),
            "seconds": ast.literal_eval(one.facts["copy_stats"])["total_time"],
            "timeline": one.timeline,
            "verified": verified.get(one.name),
        }
        for one in reversed(backups())
    ]
