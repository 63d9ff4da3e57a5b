"""A restore: which backup, how far, and the recovery itself, on a Postgres that nobody else can reach."""

import re
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from backup import catalog, offsite, server, settings
from backup.catalog import Backup
from backup.instance import Instance
from backup.server import Failure, barman, recall

FETCH = "/opt/backup/bin/python -m backup.fetch %f %p"
BACKUP_NAME = re.compile(r"\d{8}T\d{6}")
# Where ./stack mounts the new volume; below it what the Postgres image expects at /var/lib/postgresql.
TARGET = Path("/restore", server.MAJOR, "docker")


@dataclass
class Plan:
    backup: Backup
    timeline: int
    # What Barman is told about where to stop.
    options: list[str]
    words: str

    @property
    def has_target(self) -> bool:
        """Whether there is a place to stop at; otherwise it goes on for as long as there is WAL."""
        return any(option.startswith("--target-") and option != "--target-tli" for option in self.options)

    @property
    def bytes(self) -> int:
        """What the restored data directory will take."""
        return int(self.backup.facts["cluster_size"])


def timeline_at(moment: datetime) -> int:
    """The timeline that was in use then: of each the service knows since when it has streamed it."""
    seen = [(datetime.fromisoformat(at), timeline) for at, timeline in recall("timelines").get("seen", [])]
    if not seen:
        return max([one.timeline for one in catalog.backups()] + [int(name[:8], 16) for name in catalog.segments()])
    known = [timeline for at, timeline in seen if at <= moment]
    return int(known[-1] if known else seen[0][1])


def usable(timeline: int) -> list[Backup]:
    """The backups from which this timeline can be reached: its own, and older ones from before it was left."""
    way = catalog.ancestors(timeline)
    return [
        one
        for one in catalog.backups()
        if one.timeline == timeline or (one.timeline in way and one.end <= way[one.timeline])
    ]


def parse(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except ValueError:
        raise Failure(
            f"{text} is neither `latest`, nor a backup's name, nor a restore point's, nor a time like "
            '"2026-11-22 03:15:46+00".'
        ) from None
    if moment.tzinfo is None:
        raise Failure(f'{text} has no time zone: write "{text}+00" for UTC.')
    return moment


def choose(to: str) -> Plan:
    """The backup to start from and where to stop. Raises Failure when there is no way there."""
    if settings.bucket() and (not catalog.backups() or offsite.FETCHING.exists()):
        say("fetch the backups from the bucket")
        offsite.fetch()
    every = catalog.backups()
    if not every:
        raise Failure("There is no complete backup to restore.")
    if BACKUP_NAME.fullmatch(to):
        named = [one for one in every if one.name == to]
        if not named:
            raise Failure(f"There is no backup {to}: `./stack backups` lists them.")
        words = f"the end of the backup {to}, {named[0].ended:%Y-%m-%d %H:%M:%S} UTC"
        return Plan(named[0], named[0].timeline, ["--target-immediate"], words)
    points = recall("points").get("points", {})
    if to == "latest":
        moment, options, words = server.now(), [], "the newest that was received"
        timeline = timeline_at(moment)
    elif to in points:
        moment, timeline = datetime.fromisoformat(points[to]["at"]), points[to]["timeline"]
        options, words = ["--target-name", to], f"the restore point {to}, {moment:%Y-%m-%d %H:%M:%S} UTC"
    else:
        moment = parse(to)
        if moment > server.now():
            raise Failure(f"{to} is in the future: `--to latest` is the newest there is.")
        timeline = timeline_at(moment)
        options, words = ["--target-time", moment.isoformat(sep=" ")], f"{to}, as the database was then"
    found = [one for one in usable(timeline) if one.ended <= moment]
    if not found and every[0].ended <= moment:
        raise Failure(
            f"No backup leads to {to}: timeline {timeline}, of the last restore, has none yet, and those before "
            "it ended after its beginning. `./stack backup --full` makes one."
        )
    if not found and settings.bucket() and offsite.fetch_older():
        return choose(to)
    if not found:
        raise Failure(
            f"{to} is before the end of the first backup: {every[0].ended.isoformat(sep=' ', timespec='seconds')} "
            "is the earliest time that can be restored."
        )
    missing = catalog.gap(found[-1], timeline) if to == "latest" else None
    if missing:
        raise Failure(
            f"The WAL segment {missing} is missing, so that nothing after it can be restored. `./stack restore --to "
            "TIME` with a time before it can; `./stack backup --full` makes what comes from now on safe again."
        )
    return Plan(found[-1], timeline, [*options, "--target-tli", str(timeline)], words)


def recover(plan: Plan, folder: Path, durable: bool) -> Instance:
    """Restore into the empty folder, replay the WAL, and return the server that runs on it. Raises Failure."""
    free = shutil.disk_usage(folder.parent if folder.parent.exists() else folder.parents[1]).free
    if free < plan.bytes * 1.1:
        raise Failure(f"The disk has {free / 1e9:.1f} GB left, and the restored database takes {plan.bytes / 1e9:.1f}.")
    say("check the backup's files")
    for link in catalog.chain(plan.backup):
        try:
            barman("verify-backup", "main", link.name)
        except Failure as failure:
            raise Failure(f"The backup {link.name} is damaged: {failure}") from None
    say("copy the files")
    target = [*plan.options, "--target-action", "promote"]
    wal = ["--get-wal", "--restore-command", FETCH]
    folder.mkdir(parents=True, mode=0o700)
    barman("restore", *wal, *target, "main", plan.backup.name, str(folder))
    instance = Instance(folder, durable)
    try:
        instance.recover(say)
        if instance.ran_out or not plan.has_target:
            check_end(plan, instance.redone)
    except BaseException:
        instance.stop()
        raise
    return instance


def check_end(plan: Plan, redone: int) -> None:
    """Raise Failure when the recovery ended for want of WAL before the newest that there is: in front of a hole."""
    size = plan.backup.segment_size
    last = max(catalog.numbers(plan.timeline, size), default=0)
    # The newest segment may have nothing in it yet.
    if redone // size < last - 1:
        missing = catalog.segment(plan.timeline, redone // size + 1, size)
        raise Failure(
            f"The WAL ends before {plan.words}: of {missing}, or what comes before it, nothing more can be read. "
            "`./stack restore --to TIME` with a time before that can."
        )


def say(words: str) -> None:
    """One line of progress, for whoever started this."""
    print(words, file=sys.stderr, flush=True)


def plan(to: str) -> dict[str, Any]:
    """What a restore would do."""
    chosen = choose(to)
    links = catalog.chain(chosen.backup)
    return {
        "to": chosen.words,
        "backup": chosen.backup.name,
        "kind": chosen.backup.kind,
        "increments": len(links) - 1,
        "ended": chosen.backup.ended.isoformat(timespec="seconds"),
        "bytes": chosen.bytes,
        "major": int(server.MAJOR),
    }


def main(to: str) -> dict[str, Any]:
    """Restore into the new volume; what was found there is printed."""
    server.hold()
    barman("archive-wal", "main")
    instance = recover(choose(to), TARGET, durable=True)
    try:
        say("check")
        found = instance.check()
    finally:
        instance.stop()
    return {"last_transaction": instance.last_transaction, **found}
