"""`./stack backup`, `backups` and `verify`: asks the backup container, and says it in words."""

from __future__ import annotations

import json
import sys
from typing import Any

from ops import dotenv
from ops.machine.checks import check_folder
from ops.release import releases
from ops.run import Stop, compose, docker_json, running, step
from ops.words import duration, since, size

PROGRAM = ("python", "-m", "backup")
IS_ELSEWHERE = (
    "DATABASE_URL names another Postgres: its backups are made where it runs. The stack's own, and the service "
    "`backup`, are not in use."
)


def refuse_elsewhere() -> None:
    """Raises Stop with 2 where the app's database is not the stack's own, of which alone these verbs know."""
    if not dotenv.own_postgres():
        raise Stop(IS_ELSEWHERE, 2)


def backup(project: str, full: bool = False, fast: bool = False) -> None:
    """Take one now; `fast`: whatever BACKUP_RATE is."""
    with step("Take a full backup" if full else "Take a backup"):
        rate = ["--bwlimit=0"] if fast else []
        made = inside(project, "backup", "full" if full else "incremental", "--immediate-checkpoint", *rate)
    print(f"{made['name']}: {made['kind']}, {size(made['bytes'])}, {made['took']:.1f} s.")


def backups(project: str, as_json: bool = False) -> None:
    """What there is to restore."""
    found, sizes = inside(project, "list"), disk()
    if as_json:
        print(json.dumps({"backups": found, **sizes}, indent=2))
        return
    row = "{:<17} {:<12} {:>9} {:>7}  {}"
    print(row.format("NAME", "KIND", "SIZE", "AGE", "VERIFIED"))
    for one in found:
        verified = f"{since(one['verified'])} ago" if one["verified"] else "not by itself"
        print(row.format(one["name"], one["kind"], size(one["bytes"]), duration(one["age_seconds"]), verified))
        if one["restorable"]:
            print(f"  {one['restorable']}")
    for what, key in (
        ("The volume of the backups", "volume_bytes"),
        ("The log in Postgres's own volume", "pg_wal_bytes"),
    ):
        print(f"{what}: {size(sizes[key] or 0) if sizes[key] is not None else 'not known'}")
    print(state_of_backups(project))


def disk() -> dict[str, int | None]:
    """Bytes that the volume of the backups takes, and pg_wal in Postgres's own; None where nobody can be asked."""
    asked = {"volume_bytes": ("backup", "du -sk /backup"), "pg_wal_bytes": ("postgres", 'du -sk "$PGDATA/pg_wal"')}
    found: dict[str, int | None] = {}
    for name, (service, command) in asked.items():
        # That a file went while it was counted is no failure.
        said = compose("exec", "-T", service, "sh", "-c", command, check=False).stdout.split()
        found[name] = int(said[0]) * 1024 if said else None
    return found


def verify(project: str) -> None:
    """Restore the newest backup into a Postgres of its own, and check it."""
    with step("Verify the newest backup"):
        found = inside(project, "verify")
    for table, count in found["rows"].items():
        print(f"{count:>12} rows in {table}")
    for warning in [*found["warnings"], *releases.unknown_revision(project, found["revision"])]:
        print(warning, file=sys.stderr)
    print(f"Schema revision: {found['revision'] or 'none'}. Newest transaction: {found['newest']}.")
    print(f"{found['backup']} is good: restored and checked in {found['seconds']:.1f} s.")


def state_of_backups(project: str, first: bool = False) -> str:
    """The age of the newest backup and of the last verification; `first`: and that there is no copy elsewhere."""
    try:
        state = inside(project, "status")
    except Stop as stop:
        return f"Backups: {stop}"
    newest, verified = state["newest"], state["verify"]
    parts = [f"newest backup {since(newest['ended'])} old" if newest else "the first backup has not been made yet"]
    if verified:
        parts.append(f"verified {since(verified['at'])} ago" if verified["ok"] else "the last verification failed")
    else:
        parts.append("not verified yet (./stack verify)")
    words = [f"Backups: {', '.join(parts)}."]
    if state["wrong"]:
        words.append(f"Not well: {state['wrong']}")
    if first and not state["offsite"]:
        words.append("They share the server's disk: BACKUP_S3_BUCKET names a place elsewhere.")
    # A service of before an update has none.
    return "\n".join([" ".join(words), *state.get("collations", [])])


def restore_point(project: str, name: str) -> str:
    """Name this moment in the WAL; return the command that goes back to it. Raises Stop."""
    inside(project, "point", name)
    return f"./stack restore --to {name}"


def inside(project: str, *verb: str) -> Any:
    """What the running backup container answers to a verb. Raises Stop with what it said."""
    check_folder(project)
    refuse_elsewhere()
    for container in running(project, "backup"):
        return docker_json("exec", container, *PROGRAM, *verb)
    raise Stop("The service `backup` isn't running: ./stack up")
