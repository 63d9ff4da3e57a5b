"""What can be restored: the timelines, when each was in use, and up to when its log is known to be complete.

Every verb asks `answer`. It says "exactly this", or why not and what can be had.
"""

import ast
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from backup import catalog, live, server
from backup.catalog import Backup
from backup.server import Failure, recall
from backup.timelines import lives, unknown

# Seconds that it takes at most to stop the app and then Postgres.
STOPPING = 180
BACKUP_NAME = re.compile(r"\d{8}T\d{6}")


@dataclass
class Plan:
    backup: Backup
    timeline: int
    # What Barman is told about where to stop.
    options: list[str]
    words: str
    # The time that was asked for, when it was one.
    moment: datetime | None = None
    # The place in the WAL up to which all was received, when the recovery may end for want of more.
    place: int = 0
    # Whether there is a place to stop at; otherwise it goes on for as long as there is WAL.
    stops: bool = True
    warnings: list[str] = field(default_factory=list)
    # Of each newer backup that leads there as well, and is damaged.
    passed: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What the restored data directory will take."""
        return int(self.backup.facts["cluster_size"])


@dataclass
class Reach:
    """How far a timeline's log leads from a backup without a gap: up to what time and place everything is there."""

    until: datetime
    place: int
    # Its first segment that is missing before others that are there.
    missing: str | None = None
    # Whether the server was stopped there, and all of its log was received.
    closed: bool = False


def reach(backup: Backup, timeline: int, following: datetime | None) -> Reach:
    """How far the timeline can be followed from the backup; `following`: when the next timeline's use began."""
    size = backup.segment_size
    missing = catalog.gap(backup, timeline)
    before = catalog.number(missing, size) if missing else None
    log = catalog.end(timeline, backup, before)
    found = Reach(log.committed or backup.ended, max(log.place, backup.end), missing)
    kept = recall("received").get(str(timeline))
    if kept and not missing:
        found.until = max(found.until, datetime.fromisoformat(kept["until"]))
        found.place = max(found.place, catalog.lsn(kept["lsn"]))
        found.closed = bool(kept.get("closed"))
        if found.closed and following:
            found.until = max(found.until, following)
    return found


def close() -> None:
    """Keep that the log is complete up to now, when Postgres was just stopped and its last record was received."""
    timeline = lives()[-1][1]
    every, kept = usable(timeline), recall("received").get(str(timeline))
    # Long ago, it may have been started and stopped since, with nobody there to receive its log.
    if not every or not kept or server.age(kept["until"]) > STOPPING or unknown(server.now()):
        return
    log = catalog.end(timeline, every[-1], None)
    if log.closed and log.place >= catalog.lsn(kept["lsn"]):
        live.keep(timeline, server.now(), log.place, closed=True)


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
        if moment.tzinfo:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Failure(
            f"{text} is neither `latest`, nor a backup's name, nor a restore point's, nor a time like "
            '"2026-11-22 03:15:46+00".'
        ) from None
    raise Failure(f'{text} has no time zone: write "{moment.isoformat(sep=" ")}+00" for UTC.')


def answer(to: str, without: frozenset[str] = frozenset()) -> Plan:
    """The backup to start from and where to stop, which leads exactly there. Raises Failure when nothing does.

    `without`: backups to leave aside, and those that rest on them.
    """
    every = catalog.backups()
    if not every:
        raise Failure("There is no complete backup to restore.")
    if BACKUP_NAME.fullmatch(to):
        if without:
            raise Failure(f'`--to "{named(to).backup.ended}"` is the same moment, from a backup before it.')
        return named(to)
    running = live.timeline()
    if not running:
        close()
    point = recall("points").get("points", {}).get(to)
    lived = lives()
    if to == "latest":
        moment, words = server.now(), "the newest that was received"
    elif point:
        moment = datetime.fromisoformat(point["at"])
        words = f"the restore point {to}, {moment:%Y-%m-%d %H:%M:%S} UTC"
    else:
        moment, words = parse(to), f"{to}, as the database was then"
        if moment > server.now():
            raise Failure(f"{to} is in the future: `--to latest` is the newest there is.")
        since = unknown(moment)
        if since:
            raise Failure(
                f"{to} can't be restored: nothing was received of the database since the restore at {since}. "
                "Name a time before that."
            )
    begun = [at for at, _ in lived if at <= moment]
    at = max(len(begun) - 1, 0)
    timeline = point["timeline"] if point else lived[at][1]
    following = lived[at + 1][0] if at + 1 < len(lived) else None
    found = [one for one in usable(timeline) if one.ended <= moment and not rests_on(one, without)]
    if not found:
        raise Early("No other backup leads there.") if without else nothing(to, moment, timeline)
    plan = Plan(found[-1], timeline, ["--target-tli", str(timeline)], words)
    far = reach(plan.backup, timeline, following)
    wanted = catalog.lsn(point["lsn"]) if point and "lsn" in point else None
    short = far.place < wanted if wanted else moment > far.until
    wrong = None
    if short and not (following or far.missing or (far.closed and to == "latest" and not running)):
        # The log of the timeline in use may be had up to now.
        wrong = live.catch_up()
        far = reach(plan.backup, timeline, following)
        short = far.place < wanted if wanted else moment > far.until
    if to == "latest":
        return newest(plan, far, wrong)
    if short:
        raise Failure(missing(to, far, wrong, following))
    plan.place = wanted or (0 if far.missing else far.place)
    if wanted:
        # Not by its name: two may have the same.
        plan.options += ["--target-lsn", point["lsn"], "--exclusive"]
    elif point:
        plan.options += ["--target-name", to]
    else:
        plan.moment = moment
        plan.options += ["--target-time", moment.isoformat(sep=" ")]
    return plan


def rests_on(backup: Backup, names: frozenset[str]) -> bool:
    """Whether it is one of these, or an increment on one of them."""
    parents = {one.name: one.parent for one in catalog.backups()} if names else {}
    link: str | None = backup.name
    while link:
        if link in names:
            return True
        link = parents.get(link)
    return False


def named(name: str) -> Plan:
    """A backup as it is, with the WAL of while it was made. Raises Failure."""
    found = [one for one in catalog.backups() if one.name == name]
    if not found:
        raise Failure(f"There is no backup {name}: `./stack backups` lists them.")
    [one] = found
    catalog.chain(one)
    missing = catalog.gap(one, one.timeline, one.end)
    if missing:
        raise Failure(f"The WAL segment {missing} is missing, without which the backup {name} can't be restored.")
    words = f"the end of the backup {name}, {one.ended:%Y-%m-%d %H:%M:%S} UTC"
    return Plan(one, one.timeline, ["--target-immediate", "--target-tli", str(one.timeline)], words, place=one.end)


def newest(plan: Plan, far: Reach, wrong: str | None) -> Plan:
    """The end of what was received, and what of the database it lacks. Raises Failure in front of a hole."""
    if far.missing:
        raise Failure(
            f"The WAL segment {far.missing} is missing, so that nothing after it can be restored. `./stack restore "
            f'--to "{far.until}"`, or a time before it, can; `./stack backup --full` makes what comes from now on safe.'
        )
    plan.stops, plan.place = False, far.place
    since = unknown(server.now())
    if since:
        plan.warnings.append(f"Nothing was received of the database since the restore at {since}.")
    if wrong:
        plan.warnings.append(f"What was written after {far.until} may be missing: {wrong}")
    return plan


def nothing(to: str, moment: datetime, timeline: int) -> Failure:
    """Why no backup leads to the moment."""
    first = catalog.backups()[0].ended
    if first > moment:
        return Early(
            f"{to} is before the end of the first backup: {first.isoformat(sep=' ', timespec='seconds')} "
            "is the earliest time that can be restored."
        )
    if timeline > 1 and not catalog.ancestors(timeline):
        return Failure(
            f"Nothing of timeline {timeline}, which the last restore began, has been received. "
            "Start the service `backup`: ./stack up. Or name a time before that restore."
        )
    return Failure(
        f"No backup leads to {to}: timeline {timeline}, of the last restore, has none yet, and those before "
        "it ended after its beginning. `./stack backup --full` makes one."
    )


class Early(Failure):
    """Before the first backup that is here, or that is whole: the bucket may have older ones."""


def missing(to: str, far: Reach, wrong: str | None, following: datetime | None) -> str:
    """Why the log does not lead as far, and what can be had."""
    if far.missing:
        why = f"the WAL segment {far.missing} is missing"
    elif following:
        why = f"what was written between {far.until} and the restore at {following} was never received"
    else:
        why = f"what was written after {far.until} was not received"
    reason = f" ({wrong})" if wrong else ""
    return f'{to} can\'t be restored: {why}{reason}. The latest time before it is `--to "{far.until}"`.'


def refusal(name: str) -> str | None:
    """Why the backup can't be restored; None when it can."""
    try:
        named(name)
    except Failure as failure:
        return str(failure)
    return None


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
            "restorable": refusal(one.name),
        }
        for one in reversed(catalog.backups())
    ]
