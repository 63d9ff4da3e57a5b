"""A verification: the newest backup restored from the stored copy, with all WAL since, and looked through."""

import shutil
from datetime import datetime
from typing import Any

from backup import catalog, collations, history, jobs, restore, server
from backup.server import HOME, PROMISE, Failure, barman, psql

SCRATCH = HOME / "stack" / "verify"


def mark() -> datetime:
    """Commit a transaction that changes nothing, on the running server; when. The restored copy must hold it.

    Raises Failure when it is not received in time.
    """
    # It may just have been interrupted, by a restart of Postgres, which is no reason to call the backups bad.
    jobs.wait_until_received()
    [[moment]] = psql("SELECT clock_timestamp() FROM pg_logical_emit_message(true, 'backup', 'verify', true)")
    jobs.wait_until_received(PROMISE)
    return datetime.fromisoformat(moment)


def main() -> dict[str, Any]:
    """Restore, check, count; the outcome is remembered. Raises Failure."""
    # One after the other: they would use the same folder.
    with server.alone("verification", wait=True):
        if not catalog.backups():
            # Not that one failed: the service is well, and makes the first by itself.
            raise Failure("There is no backup to verify yet: `./stack backups` shows the first when it is done.")
        return verify()


def verify() -> dict[str, Any]:
    begun = server.now()
    try:
        marked = mark()
        barman("archive-wal", "main")
        shutil.rmtree(SCRATCH, ignore_errors=True)
        # What is here: a bucket's older backups are fetched for a restore alone.
        plan = restore.sound("latest", SCRATCH / "data", history.answer)
        found = look(plan, marked)
        verified = server.recall("verified").get("backups", {})
        here = {one.name for one in catalog.backups()}
        kept = {name: when for name, when in verified.items() if name in here}
        server.remember("verified", backups={**kept, plan.backup.name: begun.isoformat(timespec="seconds")})
        if plan.passed:
            raise Failure(
                f"{' '.join(plan.passed)} A restore begins with the backup {plan.backup.name} instead, which is good, "
                "as is all that was received since. `./stack backup --full` makes another."
            )
    except (Failure, OSError) as failure:
        server.failed("verify", failure)
        raise
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    seconds = (server.now() - begun).total_seconds()
    warnings = [*plan.warnings, *found.pop("collations")]
    facts = {"backup": plan.backup.name, "seconds": seconds, **found, "warnings": warnings}
    return server.outcome("verify", facts)


def look(plan: history.Plan, marked: datetime) -> dict[str, Any]:
    instance = restore.recover(plan, SCRATCH / "data", durable=False)
    try:
        restore.say("check every table and index")
        found = instance.check()
        sorted_otherwise = collations.databases(instance.sql) + collations.named(lambda ask: instance.sql(ask, "app"))
        instance.amcheck()
        rows = instance.counts()
    finally:
        instance.stop()
    if not instance.last_transaction:
        raise Failure("The restored copy holds no transaction of after the backup.")
    newest = datetime.fromisoformat(instance.last_transaction)
    # Both times are the server's own.
    lost = (marked - newest).total_seconds()
    if lost > PROMISE:
        raise Failure(f"The newest transaction in the restored copy is {lost:.0f} s older than the database's.")
    return {**found, "rows": rows, "newest": newest.isoformat(), "collations": sorted_otherwise}
