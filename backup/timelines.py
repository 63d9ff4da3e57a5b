"""The timelines: which one was in use when, from the restores that began them and the server that runs."""

from datetime import UTC, datetime

from backup import catalog, live, server
from backup.server import recall


def lives() -> list[tuple[datetime, int]]:
    """Each timeline and when its use began, oldest first; a time before the next one's belongs to it."""
    running = live.timeline()
    if running:
        settle(running)
    seen = [(datetime.fromisoformat(at), int(timeline)) for at, timeline in recall("timelines").get("seen", [])]
    if not seen:
        known = [one.timeline for one in catalog.backups()] + [int(name[:8], 16) for name in catalog.segments()]
        seen.append((datetime.min.replace(tzinfo=UTC), max(known, default=1)))
    return seen


def settle(running: int) -> None:
    """Keep the running server's timeline as the one in use; of a restore that was given up there is nothing to keep."""
    kept, promoted = recall("timelines"), recall("promoted")
    seen, lost = [list(one) for one in kept.get("seen", [])], list(kept.get("lost", []))
    began = promoted.get("began") if promoted.get("timeline") == running else None
    if not seen or seen[-1][1] != running:
        seen.append([began or live.started().isoformat(), running])
    elif began and began > seen[-1][0]:
        # A number is given twice only when nothing of the first was received.
        lost.append([seen[-1][0], began])
        seen[-1][0] = began
    if [seen, lost] != [kept.get("seen"), kept.get("lost")]:
        server.remember("timelines", seen=seen, lost=lost)
    if promoted.get("timeline"):
        server.remember("promoted")


def promoted(timeline: int) -> None:
    """Keep that a restore began a timeline now. It may still be given up, so the running server has the last word."""
    before, kept, now = recall("promoted"), recall("timelines"), server.now().isoformat()
    if before.get("timeline"):
        # Nobody saw it run.
        server.remember("timelines", **{**kept, "lost": [*kept.get("lost", []), [before["began"], now]]})
    server.remember("promoted", timeline=timeline, began=now)


def unknown(moment: datetime) -> str | None:
    """Since when nothing was received of the database that was in use at that time; None when that is not so."""
    last = recall("promoted")
    spans = recall("timelines").get("lost", []) + ([[last["began"], "9999"]] if last.get("timeline") else [])
    return next((begun for begun, ended in spans if begun <= moment.isoformat() < ended), None)
