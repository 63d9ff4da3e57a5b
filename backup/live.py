"""The running server: its timeline, and up to when its log has been received."""

import contextlib
import fcntl
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from backup import catalog, server
from backup.server import STATE, STREAMING, Failure, psql, recall

# Seconds to wait for a receiver that is about to begin, or a bit late.
PATIENCE = 10
NOW = """
SELECT clock_timestamp(), pg_logical_emit_message(false, 'backup', :'token', true),
    pg_walfile_name(pg_current_wal_lsn()), system_identifier FROM pg_control_system()
"""
# At the last look: the server's time, and where its log ended then.
pending: tuple[int, datetime, int] | None = None


def timeline() -> int | None:
    """The timeline of the running server, when it can be asked and is the database that the backups are of."""
    try:
        [[running, name]] = psql(
            "SELECT system_identifier, pg_walfile_name(pg_current_wal_lsn()) FROM pg_control_system()", timeout=10
        )
    except Failure:
        return None
    return int(name[:8], 16) if server.identity() in (None, running) else None


def started() -> datetime:
    [[moment]] = psql("SELECT pg_postmaster_start_time()")
    return datetime.fromisoformat(moment).astimezone(UTC)


def keep(number: int, until: datetime, place: int, closed: bool = False) -> None:
    """Remember that all of the timeline's log up to this time, which ends at this place, has been received."""
    facts = {"until": until.astimezone(UTC).isoformat(), "lsn": catalog.text(place), "closed": closed}
    # The service does it, and a restore's plan, at the same time. Without room on the volume it stays as it was.
    with contextlib.suppress(OSError), (STATE / "received.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = recall("received")
        if kept.get(str(number), {}).get("until", "") < facts["until"]:
            server.remember("received", **{**kept, str(number): facts})


def noted(number: int, moment: datetime, place: int, written: int) -> None:
    """Keep what the scheduler's look found: where the log ended, once as much of it has been written here."""
    global pending
    # At the beginning of a page a record may go on, which nobody has been told is there.
    newest = (number, moment, place) if place % 8192 > 40 else None
    if newest and written >= place:
        keep(*newest)
        pending = None
    elif pending and written >= pending[2]:
        keep(*pending)
        pending = newest
    else:
        pending = pending or newest


def catch_up() -> str | None:
    """Wait until the log up to now has been received, and keep that; return why it is not."""
    deadline = time.monotonic() + PATIENCE
    while True:
        # Found in what was received, it proves that all before it is there.
        token = secrets.token_hex(16)
        try:
            [[moment, place, name, running]] = psql(NOW, token=token, timeout=10)
        except Failure as failure:
            return f"Postgres can't be asked: {failure}"
        if server.identity() not in (None, running):
            return "the database that runs is another one"
        again = min(time.monotonic() + 2, deadline)
        while not arrived(name, catalog.lsn(place), token):
            if time.monotonic() > again:
                break
            time.sleep(0.05)
        else:
            keep(int(name[:8], 16), datetime.fromisoformat(moment), catalog.lsn(place))
            return None
        if time.monotonic() > deadline:
            return (
                "the service `backup` does not receive it: ./stack up starts it, `docker compose logs backup` says more"
            )


def arrived(name: str, place: int, token: str) -> bool:
    """Whether the record that ends at the place has been received into this segment."""
    for path in (STREAMING / f"{name}.partial", STREAMING / name):
        try:
            with path.open("rb") as file:
                size = Path(path).stat().st_size
                file.seek(max(place % size - 8192, 0))
                return token.encode() in file.read(8192)
        except (FileNotFoundError, ZeroDivisionError):
            continue
    return False
