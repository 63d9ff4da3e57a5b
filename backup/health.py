"""Whether backups can be relied on now."""

import select
import time
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped]  # not in .venv
from psycopg2 import extensions

from backup import collations, history, live, server, settings
from backup.catalog import lsn
from backup.server import LIVE, Failure, recall

# What `serve` found last, for the health check, backup/healthy: the second of the machine's life, and what is wrong in
# one line, nothing if nothing is.
FILE = Path("/tmp/health")  # noqa: S108 - a tmpfs of the container
# Seconds that streaming may be interrupted: a Postgres that starts again takes some.
PATIENCE = 60
# Seconds since the receiver's last word: it reports every 10 s.
SILENCE = 30
STREAM = """
SELECT coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'barman'), 'none'),
    count(*), coalesce(extract(epoch FROM clock_timestamp() - max(reply_time)), 0),
    coalesce(bool_or(sent_lsn >= %(before)s), false), coalesce(max(write_lsn), '0/0'),
    clock_timestamp(), pg_current_wal_flush_lsn(), pg_walfile_name(pg_current_wal_lsn())
FROM pg_stat_replication WHERE application_name = 'barman_receive_wal' AND state = 'streaming'
"""
# What is remembered of each job, and its name in a sentence.
JOBS = {
    "full": "full backup",
    "backup": "backup",
    "verify": "verification",
    "housekeeping": "housekeeping",
    "offsite": "copy of the log elsewhere",
    "upload": "copy of a backup elsewhere",
}
# Seconds that the server may take to answer.
ANSWER = 20
# Kept open: each psql would be a process here and one of the server's, every few seconds for years.
connection: Any = None
# How far the server's WAL was at the last look, and its timeline; None when its WAL was not being received.
before = "0/0"
timeline: int | None = None
# Since when WAL has not been received.
interrupted: float | None = None


def wait(asked: Any) -> None:
    """How psycopg2 waits for the server: no longer than ANSWER. Raises Failure."""
    while (state := asked.poll()) != extensions.POLL_OK:
        ways = ([asked], []) if state == extensions.POLL_READ else ([], [asked])
        if not any(select.select(*ways, [], ANSWER)):
            raise Failure(f"no answer within {ANSWER} s.")


extensions.set_wait_callback(wait)


def ask() -> Any:
    """The row that STREAM gives. Raises Failure."""
    global connection
    try:
        if not connection:
            connection = psycopg2.connect(LIVE)
            connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(STREAM, {"before": before})
            return cursor.fetchone()
    except (psycopg2.Error, Failure) as error:
        # The next look makes another.
        connection = None
        raise Failure(f"Postgres can't be asked: {error}") from None


def stream() -> int:
    """The timeline whose WAL is being received. Raises Failure when none is."""
    global before
    status, streams, silent, sent, written, moment, end, name = ask()
    before = end
    if status == "lost":
        raise Failure("Postgres gave up the WAL that it kept for the backups; they begin anew.")
    if not streams:
        raise Failure(recall("stream").get("said") or "WAL is not being received.")
    if silent > SILENCE or not sent:
        raise Failure("WAL is received too slowly.")
    live.noted(int(name[:8], 16), moment, lsn(end), lsn(written))
    return int(name[:8], 16)


def streaming() -> str | None:
    """What is wrong with the stream of WAL; None when nothing is."""
    global timeline
    try:
        timeline = stream()
    except Failure as failure:
        timeline = None
        return str(failure)
    return None


def look(due: dict[str, Any]) -> str | None:
    """What is wrong, in one sentence; None when nothing is. `due`: by when each job should have been done."""
    global interrupted
    wrong = streaming()
    interrupted = (interrupted or time.monotonic()) if wrong else None
    if interrupted and time.monotonic() - interrupted > PATIENCE:
        return wrong
    for job, name in JOBS.items():
        state = recall(job)
        if state.get("ok") is False and not state.get("interrupted"):
            return f"The last {name} failed: {state['said']}"
        if job in due and server.now() > due[job]:
            return f"The {name} of {due[job]:%Y-%m-%d %H:%M} UTC has not been made."
    return None


def write(wrong: str | None) -> None:
    """Put it in the place of what was found before: a reader sees the one or the other."""
    uptime = Path("/proc/uptime").read_text().partition(".")[0]
    server.write(FILE, f"{uptime}\n{' '.join((wrong or '').split())}\n")


def status() -> dict[str, Any]:
    """What `./stack up` and `deploy` show."""
    newest = history.listing()[:1]
    try:
        wrong = FILE.read_text().splitlines()[1] or None
    except FileNotFoundError:
        wrong = None
    try:
        sorted_otherwise = collations.databases(server.psql)
    except Failure:
        sorted_otherwise = []
    return {
        "newest": newest[0] if newest else None,
        "verify": recall("verify"),
        "offsite": bool(settings.bucket()),
        "wrong": wrong,
        "collations": sorted_otherwise,
    }
