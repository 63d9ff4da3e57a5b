"""What there is to restore: Barman's backups and the WAL after them."""

import contextlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from backup.fetch import fetch
from backup.server import HOME, STREAMING, Failure

META, WALS = HOME / "meta", HOME / "wals"
SEGMENT = re.compile(r"[0-9A-F]{24}")


def lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def text(place: int) -> str:
    """The place as Postgres writes it."""
    return f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"


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


def facts(text: str) -> dict[str, str]:
    """What Barman's file of a backup says."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def backups() -> list[Backup]:
    """Every complete backup, oldest first."""
    found = []
    for path in META.glob("*-backup.info"):
        # Barman may remove one meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.append(Backup(path.name.removesuffix("-backup.info"), facts(path.read_text())))
    # Barman writes these files in place, and the status before the times.
    ended = [one for one in found if one.facts.get("end_time", "None") != "None"]
    whole = [one for one in ended if one.facts.get("status") in ("DONE", "WAITING_FOR_WALS")]
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
        return parents(file.read())


def parents(history: str) -> dict[int, int]:
    """What a timeline's history file says."""
    lines = [line.split() for line in history.splitlines() if line.strip() and not line.startswith("#")]
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


def way(timeline: int, size: int) -> dict[int, str]:
    """The segments on the timeline's way, by their numbers: others' as far as they were followed."""
    ends = {timeline: 1 << 64, **ancestors(timeline)}
    return {
        number(name, size): name
        for name in sorted(segments())
        if int(name[:8], 16) in ends and number(name, size) <= ends[int(name[:8], 16)] // size
    }


def gap(backup: Backup, timeline: int, end: int | None = None) -> str | None:
    """The first segment that is missing between the backup and `end`, or the newest on the timeline's way."""
    size = backup.segment_size
    found = way(timeline, size)
    first = number(backup.first_segment, size)
    # A place at a segment's very beginning is the end of the one before.
    last = (end - 1) // size if end else max(found, default=first)
    for wanted in range(first, last + 1):
        if wanted not in found:
            return segment(timeline, wanted, size)
    return None


@dataclass
class End:
    """Where the log that is here ends, by what is written there."""

    committed: datetime | None = None
    # Where the last record begins.
    place: int = 0
    # Whether it is the one that Postgres writes when it is stopped.
    closed: bool = False


def end(timeline: int, backup: Backup, before: int | None) -> End:
    """The end of the log on the timeline's way, or in front of the segment of the number `before`."""
    size, here = backup.segment_size, End()
    found = way(timeline, size)
    last = before - 1 if before else max(found, default=0)
    # The newest may have no transaction in it yet.
    for place in range(last, last - 4, -1):
        if place in found and not here.committed:
            one = inside(found[place])
            here = End(one.committed, here.place or one.place, here.closed if here.place else one.closed)
    return here


def inside(name: str) -> End:
    """What Postgres's pg_waldump sees in a segment."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not fetch(name, f"{folder}/{name}"):
                return End()
        except Exception:
            # It is damaged, or larger than what there is room for.
            return End()
        argv = ["pg_waldump", "--rmgr=Transaction", "--rmgr=XLOG", f"{folder}/{name}"]
        shown = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    times = re.findall(r"desc: (?:COMMIT|ABORT)\S* (\S+ [0-9:.]+) UTC", shown.stdout)
    records = re.findall(r"lsn: (\S+), prev \S+, desc: (\S+)", shown.stdout)
    names = [(lsn(place), kind) for place, kind in records]
    broken = re.findall(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+)", shown.stderr)
    place = lsn(broken[0]) if broken else max((one for one, _ in names), default=0)
    committed = datetime.fromisoformat(times[-1]).replace(tzinfo=UTC) if times else None
    return End(committed, place, (place, "CHECKPOINT_SHUTDOWN") in names)
