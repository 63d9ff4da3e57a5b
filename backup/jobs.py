"""What is done again and again: streaming, base backups, Barman's own housekeeping."""

import json
import re
import sys
import time
from datetime import datetime
from typing import Any

from backup import catalog, health, history, server, settings, timelines
from backup.server import LIVE, SLOT, STREAMING, Failure, barman, psql

# Seconds after which a backup that failed is tried again where there is none.
PATIENCE = 60
# Seconds between two looks whether time alone has put a backup out of the recovery window, and until a backup that
# failed is tried again where there is another.
OFTEN = 3600
# Days after which nothing is rested on a backup any more: an increment is made from Postgres's summaries of the WAL
# since that backup began, which it keeps for ten days, wal_summary_keep_time.
SUMMARIZED = 9
# What Postgres says to a receiver that comes too late.
REMOVED = re.compile(r"requested WAL segment \w+ has already been removed")
RECEIVED = """
SELECT count(*) FROM pg_stat_replication
WHERE application_name = 'barman_receive_wal' AND state = 'streaming' AND sent_lsn >= :'end'
"""


def timeline() -> int:
    """The running server's timeline: 1, and one more after each restore."""
    [[name]] = psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    return int(name[:8], 16)


def received(end: str = "0/0") -> bool:
    """Whether WAL is being received, and is on its way up to `end`."""
    return psql(RECEIVED, end=end) != [["0"]]


def check_identity() -> None:
    """Raise Failure unless the running database is the one whose backups these are."""
    known = server.identity()
    [[running]] = psql("SELECT system_identifier FROM pg_control_system()")
    if not known:
        # Barman writes it as well, but not at one go.
        server.write(server.HOME / "identity.json", json.dumps({"systemid": running, "version": server.MAJOR}))
    if known and known != running:
        raise Failure(
            "The running database is another one than these backups are of, so they are left as they are, and it has "
            "none. Bring the old one back with `./stack restore --to latest`, or, to begin anew, "
            f"move {server.HOME} in the backup volume away."
        )


def bring_back() -> None:
    """Take back the running database's backups, moved aside by a restore from the bucket that did not come to its end.

    Before any job has read whose backups these are. Raises Failure.
    """
    known = server.identity()
    [[running]] = psql("SELECT system_identifier FROM pg_control_system()")
    aside = sorted(server.VOLUME.glob(f"{server.MAJOR}-{running}-*"))
    if aside and known != running:
        server.HOME.rename(server.VOLUME / f"{server.MAJOR}-{known or 'unknown'}-{server.now():%Y%m%d%H%M%S}")
        aside[-1].rename(server.HOME)
        print(f"The backups of the running database are back, from the folder {aside[-1].name}.", flush=True)


def stream() -> None:
    """Receive WAL until the connection ends. Called again and again; raises Failure."""
    check_identity()
    if received():
        # By `barman cron`, which was faster.
        return
    slot = "SELECT coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = :'slot'), 'none')"
    [[status]] = psql(slot, slot=SLOT)
    if status == "lost":
        break_off("Postgres gave up the WAL that it kept for a backup service that was away.")
    elif status == "none":
        psql("SELECT pg_create_physical_replication_slot(:'slot', true)", slot=SLOT)
    follow()
    timelines.settle(timeline())
    try:
        barman("receive-wal", "main")
    except Failure as failure:
        if REMOVED.search(str(failure)):
            break_off("Postgres removed WAL that the backups had not received.")
        raise
    raise Failure("Streaming ended: Postgres went away, or `docker compose logs backup` says why.")


def break_off(why: str) -> None:
    """Begin the stream anew, and so the backups: what was written since can't be had any more."""
    print(why, flush=True)
    psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot'", slot=SLOT)
    server.remember("broken", said=why)
    begin_again(psql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    psql("SELECT pg_create_physical_replication_slot(:'slot', true)", slot=SLOT)


def follow() -> None:
    """After a restore: begin where the new timeline does. pg_receivewal goes on from the newest file that it finds."""
    now = timeline()
    files = [path for path in STREAMING.iterdir() if catalog.SEGMENT.match(path.name)] if STREAMING.exists() else []
    newest = max((int(path.name[:8], 16) for path in files), default=now)
    if newest > now:
        # Somebody went back to the volume of before a restore.
        print(f"The database is on timeline {now} again: {newest} is left.", flush=True)
        server.remember("broken", said=f"The database went back from timeline {newest} to {now}.")
        for path in files:
            if int(path.name[:8], 16) > now:
                place = catalog.WALS / path.name[:16] / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                path.rename(place)
        return begin_again(psql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    if newest == now:
        return
    # A table of one row, whose second column, the file, has several lines.
    answer = [row[-1] for row in psql(f"TIMELINE_HISTORY {now}", f"{LIVE} replication=true") if row[-1].strip()]
    parent, left = answer[-1].split()[:2]
    # Before the first segment: without it nobody knows what the timeline that they see grew out of.
    server.write(STREAMING / f"{now:08X}.history", "\n".join([*answer, ""]))
    size = int(psql("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")[0][0])
    print(f"The database was restored: timeline {parent} was left at {left}, and {now} begins there.", flush=True)
    begin_again(catalog.segment(now, catalog.lsn(left) // size, size))


def wait_until_received(seconds: float = 60) -> None:
    """Wait until the WAL up to where it ends now is on its way into the backup volume. Raises Failure."""
    deadline, end = time.monotonic() + seconds, ""
    while True:
        try:
            end = end or psql("SELECT pg_current_wal_flush_lsn()")[0][0]
            if received(end):
                return
            wrong = f"WAL is not received within {seconds:g} s."
        except Failure as failure:
            wrong = str(failure)
        if time.monotonic() > deadline:
            raise Failure(wrong)
        time.sleep(0.1)


def begin_again(segment: str) -> None:
    """Make pg_receivewal begin with this segment: it goes on from the highest that it finds, on whatever timeline."""
    STREAMING.mkdir(parents=True, exist_ok=True)
    (STREAMING / f"{segment}.partial").touch()
    # All but the newest by name, so all of the timeline before, the part of a segment that it ends with included.
    barman("archive-wal", "main")


def housekeeping() -> None:
    """Archive what was streamed, remove what the recovery window has passed: where there may be any of it.

    Barman is a Python, and several for its cron: once a minute it would cost more than all else here.
    """
    streamed = [path.suffix for path in STREAMING.iterdir()] if STREAMING.exists() else []
    # One file is being received.
    if streamed not in ([], [".partial"]):
        barman("archive-wal", "main")
    done, there = server.recall("housekeeping"), [one.name for one in catalog.backups()]
    fresh = done.get("backups") == there and server.age(done["at"]) < OFTEN
    # Without a stream it would begin one, and not know of a new timeline.
    if not fresh and received():
        barman("cron")
        server.outcome("housekeeping", {"backups": there})


def sweep() -> None:
    """Remove backups that were not completed: nothing else does. One that is under way holds Barman's lock."""
    for name in catalog.incomplete():
        try:
            barman("delete", "main", name)
        except Failure as failure:
            print(f"The incomplete backup {name} stays: {failure}", flush=True)


def backup(kind: str = "incremental", *options: str, wait: bool = False) -> dict[str, Any]:
    """Take a base backup; a full one where there is none to rest on. Options are Barman's. Raises Failure.

    `wait`: while another is under way, rather than fail.
    """
    # Barman's own lock comes after ten seconds of checks.
    with server.alone("backup", wait):
        return take(kind, *options)


def take(kind: str, *options: str) -> dict[str, Any]:
    begun = server.now()
    try:
        check_identity()
        sweep()
        if not any(catalog.WALS.glob("*/*")):
            # Barman refuses a backup before any WAL is archived, and its own switch, not forced, may do nothing.
            barman("switch-wal", "--force", "--archive", "--archive-timeout=20", "main")
        # At full speed it takes a CPU and the disk. Not in Barman's configuration, where it would hold for restores as
        # well; of an option that is there twice the last one counts.
        options = (f"--bwlimit={settings.rate() * 1000}", *options)
        rests_on = parent(timeline()) if kind == "incremental" else None
        if rests_on:
            options = (f"--incremental={rests_on.name}", *options)
        barman("backup", "--wait", "--wait-timeout=300", *options, "main")
    except (Failure, OSError) as failure:
        # Postgres went away below it: that says nothing of the backups, and it is taken again once Postgres is back. A
        # second time in a row it is the backup that Postgres can't bear.
        interrupted = went_away(begun) and not server.recall("backup").get("interrupted")
        server.failed("backup", failure, kind=kind, interrupted=interrupted)
        sweep()
        raise
    newest = history.listing()[0]
    if newest["kind"] == "full":
        server.outcome("full", newest)
    return server.outcome("backup", {**newest, "took": (server.now() - begun).total_seconds()})


def to_rest_on(running: int | None) -> list[catalog.Backup]:
    """The backups that an increment can rest on: none of before a restore, or of before a gap in the WAL."""
    broken = server.recall("broken").get("at", "")
    every = catalog.backups()
    return [one for one in every if one.timeline == running and one.begun.isoformat(timespec="seconds") > broken]


def parent(running: int | None) -> catalog.Backup | None:
    """The newest that an increment can rest on; None where it must be a full one."""
    for newest in to_rest_on(running)[-1:]:
        if server.age(newest.begun) < SUMMARIZED * 86400:
            return newest
        # Not to standard output, which has the answer to a verb.
        said = f"The newest backup is over {SUMMARIZED} days old, and nothing can be rested on it: a full one is taken."
        print(said, file=sys.stderr, flush=True)
    return None


def went_away(begun: datetime) -> bool:
    """Whether Postgres began anew since `begun`, or can't be asked.

    The checkpointer begins anew also where a killed process made all others end, and the postmaster goes on.
    """
    anew = "SELECT backend_start > :'begun' FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    try:
        return psql(anew, begun=begun.isoformat()) != [["f"]]
    except Failure:
        return True


def needed() -> tuple[str, ...]:
    """What is to be told to `backup`: a full one where there is none to rest on, since a restore or a gap in the WAL.

    And one that failed again, a full one in full: after an hour, not a day; one that was interrupted, at once. Nothing
    where none is needed.
    """
    state, there = server.recall("backup"), to_rest_on(health.timeline)
    failed = state.get("ok") is False
    # For want of room maybe.
    waits = failed and not state.get("interrupted") and server.age(state["at"]) < (OFTEN if there else PATIENCE)
    if not health.timeline or waits:
        return ()
    if not there:
        return ("full", "--immediate-checkpoint")
    return (state.get("kind", "incremental"),) if failed else ()


def restore_point(name: str) -> dict[str, Any]:
    """Name this moment, so that `restore --to NAME` can go back to it. Raises Failure."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,59}", name) or name == "latest":
        raise Failure(f"{name} can't be a restore point's name: a letter, then up to 59 letters, digits or any of ._-")
    check_identity()
    [[place]] = psql("SELECT pg_create_restore_point(:'name')", name=name)
    points = server.recall("points").get("points", {})
    # Those from before the first backup lead nowhere.
    first = min((one.ended.isoformat() for one in catalog.backups()), default="")
    points = {old: facts for old, facts in points.items() if facts["at"] > first}
    facts = {"at": server.now().isoformat(), "timeline": timeline(), "lsn": place}
    server.remember("points", points={**points, name: facts})
    return {"name": name}
