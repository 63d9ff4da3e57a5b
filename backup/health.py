"""Whether backups can be relied on now."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from backup import history, live, server, settings
from backup.catalog import lsn
from backup.server import Failure, psql, recall

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
    coalesce(bool_or(sent_lsn >= :'before'), false), coalesce(max(write_lsn), '0/0'),
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
# How far the server's WAL was at the last look.
before = "0/0"
# Since when WAL has not been received.
interrupted: float | None = None


def streaming() -> str | None:
    """What is wrong with the stream of WAL; None when nothing is."""
    global before
    try:
        [[status, streams, silent, sent, written, moment, end, name]] = psql(STREAM, before=before)
    except Failure as failure:
        return f"Postgres can't be asked: {failure}"
    before = end
    if status == "lost":
        return "Postgres gave up the WAL that it kept for the backups; they begin anew."
    if streams == "0":
        return recall("stream").get("said") or "WAL is not being received."
    if float(silent) > SILENCE or sent == "f":
        return "WAL is received too slowly."
    live.noted(int(name[:8], 16), datetime.fromisoformat(moment), lsn(end), lsn(written))
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
        if state.get("ok") is False:
            return f"The last {name} failed: {state['said']}"
        if job in due and server.now() > due[job]:
            return f"The {name} of {due[job]:%Y-%m-%d %H:%M} UTC has not been made."
    return None


def write(wrong: str | None) -> None:
    """Put it in the place of what was found before: a reader sees the one or the other."""
    uptime = Path("/proc/uptime").read_text().partition(".")[0]
    draft = FILE.with_suffix(".new")
    draft.write_text(f"{uptime}\n{' '.join((wrong or '').split())}\n")
    draft.rename(FILE)


def status() -> dict[str, Any]:
    """What `./stack up` and `deploy` show."""
    newest = history.listing()[:1]
    try:
        wrong = FILE.read_text().splitlines()[1] or None
    except FileNotFoundError:
        wrong = None
    return {
        "newest": newest[0] if newest else None,
        "verify": recall("verify"),
        "offsite": bool(settings.bucket()),
        "wrong": wrong,
    }
