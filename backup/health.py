"""Whether backups can be relied on now."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from backup import history, live, server, settings
from backup.catalog import lsn
from backup.server import Failure, psql, recall

# What `serve` found last; the health check reads it, because it runs often and should cost nothing.
FILE = Path("/tmp/health")  # noqa: S108 - a tmpfs of the container
# Seconds without a look after which the scheduler itself hangs.
STALE = 60
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
    FILE.write_text(json.dumps({"at": time.monotonic(), "wrong": wrong}))


def main() -> None:
    """The container's health check. Raises Failure with what is wrong."""
    try:
        found = json.loads(FILE.read_text())
    except FileNotFoundError:
        raise Failure("Still starting.") from None
    if time.monotonic() - found["at"] > STALE:
        raise Failure("The scheduler hangs.")
    if found["wrong"]:
        raise Failure(found["wrong"])
    print("WAL is received, backups and verifications are as they should be.")


def status() -> dict[str, Any]:
    """What `./stack up` and `deploy` show."""
    newest = history.listing()[:1]
    try:
        wrong = json.loads(FILE.read_text())["wrong"]
    except FileNotFoundError:
        wrong = None
    return {
        "newest": newest[0] if newest else None,
        "verify": recall("verify"),
        "offsite": bool(settings.bucket()),
        "wrong": wrong,
    }
