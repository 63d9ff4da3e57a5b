"""A restore: which backup, how far, and the recovery itself, on a Postgres that nobody else can reach."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from backup import bucket, catalog, history, server, settings, timelines
from backup.history import Plan
from backup.instance import Instance
from backup.server import Failure, barman, recall

FETCH = "/opt/backup/bin/python -m backup.fetch %f %p"
# Where ./stack mounts the new volume; below it what the Postgres image expects at /var/lib/postgresql.
TARGET = Path("/restore", server.MAJOR, "docker")


def choose(to: str, without: frozenset[str] = frozenset()) -> Plan:
    """The way there; what is older than what is here is fetched from the bucket. Raises Failure when there is none."""
    try:
        return history.answer(to, without)
    except history.Early:
        if settings.bucket() and bucket.fetch_older():
            return history.answer(to, without)
        raise


def sound(to: str, folder: Path, way: Callable[[str, frozenset[str]], Plan] = choose) -> Plan:
    """The way there from the newest backup whose files are as they were made. Raises Failure.

    Before anything is written into the folder: it must have room.
    """
    whole, damaged = set[str](), dict[str, str]()
    while True:
        try:
            plan = way(to, frozenset(damaged))
        except Failure as failure:
            raise Failure(" ".join([*damaged.values(), str(failure)])) from None
        check_room(plan, folder)
        say("check the backup's files")
        for name in (link.name for link in catalog.chain(plan.backup)):
            if name in whole:
                continue
            try:
                barman("verify-backup", "main", name)
            except Failure as failure:
                damaged[name] = f"The backup {name} is damaged: {str(failure).rstrip('.')}."
                say(damaged[name])
                break
            whole.add(name)
        else:
            plan.passed = list(damaged.values())
            return plan


def absent(source: str) -> bool:
    """Whether the backups must come from the bucket: those here are another database's, or there are none.

    Raises Failure when it is to be said which of two databases is meant.
    """
    if "BACKUP_FOLDER" in os.environ or not settings.bucket():
        if source:
            raise Failure("No bucket is set: BACKUP_S3_BUCKET.")
        return False
    if catalog.backups() and not source:
        return False
    there, here = bucket.whose()[0], server.identity()
    if not there:
        raise Failure("There is no complete backup to restore, neither here nor in the bucket.")
    if here == there and not catalog.backups():
        # Its newest log is here.
        bucket.fetch_older()
    elif here and here != there and not source:
        raise Failure(bucket.elsewhere(there, here))
    return here != there


def check_room(plan: Plan, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent if folder.parent.exists() else folder.parents[1]).free
    if free < plan.bytes * 1.1:
        raise Failure(f"The disk has {free / 1e9:.1f} GB left, and the restored database takes {plan.bytes / 1e9:.1f}.")


def recover(plan: Plan, folder: Path, durable: bool) -> Instance:
    """Restore into the empty folder, replay the WAL, and return the server that runs on it. Raises Failure."""
    say("copy the files")
    target = [*plan.options, "--target-action", "promote"]
    wal = ["--get-wal", "--restore-command", FETCH]
    folder.mkdir(parents=True, mode=0o700)
    barman("restore", *wal, *target, "main", plan.backup.name, str(folder))
    instance = Instance(folder, durable)
    try:
        instance.recover(say)
        check(plan, instance)
    except BaseException:
        instance.stop()
        raise
    return instance


def check(plan: Plan, instance: Instance) -> None:
    """Raise Failure unless the restored database is what was asked for: nothing more, nothing less, of this one."""
    identity, timeline, end = instance.origin()
    if identity != server.identity():
        raise Failure(f"The restored database is {identity}, and the backups are said to be of {server.identity()}.")
    if timeline != plan.timeline:
        raise Failure(f"The restored database is of timeline {timeline}, and {plan.words} is on {plan.timeline}.")
    last = instance.last_transaction and datetime.fromisoformat(instance.last_transaction)
    if plan.moment and last and last > plan.moment:
        raise Failure(f"The restored database holds a transaction of {last}, which is after {plan.words}.")
    # One that stopped at what came later has everything from before it.
    if (instance.ran_out or not plan.stops) and end < plan.place:
        size = plan.backup.segment_size
        missing = catalog.segment(plan.timeline, instance.redone // size + 1, size)
        raise Failure(
            f"The WAL ends before {plan.words}: of {missing}, or what comes before it, nothing more can be read. "
            "`./stack restore --to TIME` with a time before that can."
        )


def say(words: str) -> None:
    """One line of progress, for whoever started this."""
    print(words, file=sys.stderr, flush=True)


def plan(to: str, source: str = "") -> Any:
    """What a restore would do; `source`: `bucket` for its database, although the backups here are another one's."""
    if absent(source):
        say("fetch the backups from the bucket")
        beside = {**os.environ, "BACKUP_FOLDER": bucket.fetch().name}
        return json.loads(server.run(sys.executable, "-m", "backup", "plan", to, env=beside))
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
        "warnings": [*chosen.warnings, *not_elsewhere()],
        # The schema's, as the last verification found it.
        "revision": recall("verify").get("revision"),
    }


def not_elsewhere() -> list[str]:
    """What is wrong with the copy elsewhere: it may be another database's."""
    state = recall("offsite")
    return (
        [f"The copy elsewhere is not well: {state['said']}"] if settings.bucket() and state.get("ok") is False else []
    )


def main(to: str, source: str = "") -> dict[str, Any]:
    """Restore into the new volume; what was found there is printed. `source` as for a plan."""
    server.hold()
    if not absent(source):
        return restored(to)
    say("fetch the backups from the bucket")
    # Ctrl-C under ./stack: an exception, so that they come back, which a second signal does not end.
    signal.signal(signal.SIGTERM, interrupted)
    with bucket.taken() as moved:
        found = restored(to)
    return {**found, "warnings": [*moved, *found["warnings"]]}


def interrupted(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("The restore was stopped.")


def restored(to: str) -> dict[str, Any]:
    barman("archive-wal", "main")
    plan = sound(to, TARGET)
    instance = recover(plan, TARGET, durable=True)
    try:
        say("check")
        found = instance.check()
        timelines.promoted(instance.timeline())
    finally:
        instance.stop()
    return {
        "last_transaction": instance.last_transaction,
        **found,
        "timeline": plan.timeline,
        "warnings": [*plan.warnings, *plan.passed, *instead(plan)],
    }


def instead(plan: Plan) -> list[str]:
    """What a restore begins with, where it is not what its plan said."""
    one = plan.backup
    return (
        [f"The restore began with the backup {one.name} of {one.ended:%Y-%m-%d %H:%M:%S} UTC."] if plan.passed else []
    )
