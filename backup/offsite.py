"""The copy elsewhere: each backup and all WAL, encrypted on this machine, in a bucket (rclone's crypt over S3).

Named are objects that never change, once there; the one that does, the WAL that is being received, goes compressed.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard  # type: ignore[import-not-found]  # not in .venv

from backup import catalog, server, settings
from backup.server import HOME, MAJOR, STATE, STREAMING, Failure, recall, remember, run

AUTHORITY = Path("/tmp/ca.pem")  # noqa: S108 - a tmpfs of the container
TAIL = STATE / "tail"
# There while a fetch is not complete.
FETCHING = STATE / "fetching"
# Facts that are only of this machine, or change all the time.
PASSING = ("sent-wal", "sent-backups", "offsite", "upload", "stream", "housekeeping", "promoted")
BUCKET = f"away:{MAJOR}"


def environment() -> dict[str, str]:
    """rclone's configuration: none of it is on a disk or on a command line. Raises Failure."""
    keys, authority = settings.keys()
    password = run("rclone", "obscure", "-", input=keys["PASSWORD"]).strip()
    found = {
        "PLAIN_TYPE": "s3",
        "PLAIN_PROVIDER": "Other",
        "PLAIN_ENDPOINT": os.environ.get("BACKUP_S3_ENDPOINT", ""),
        "PLAIN_ACCESS_KEY_ID": keys["ACCESS_KEY_ID"],
        "PLAIN_SECRET_ACCESS_KEY": keys["SECRET_ACCESS_KEY"],
        "AWAY_TYPE": "crypt",
        "AWAY_REMOTE": f"plain:{os.environ['BACKUP_S3_BUCKET']}",
        "AWAY_PASSWORD": password,
    }
    configuration = {f"RCLONE_CONFIG_{name}": value for name, value in found.items()}
    # The certificate of the authority that the endpoint's own is of.
    if authority:
        AUTHORITY.write_text(authority)
        configuration["RCLONE_CA_CERT"] = str(AUTHORITY)
    return {**os.environ, **configuration, "RCLONE_CONFIG": "", "RCLONE_RETRIES": "2", "RCLONE_LOW_LEVEL_RETRIES": "3"}


def rclone(*argv: str, **options: Any) -> str:
    flags = ("--transfers=8", "--contimeout=10s", "--timeout=60s", "--stats=0", "--log-level=ERROR")
    return run("rclone", *argv, *flags, env=environment(), **options)


def copy() -> None:
    """Copy the WAL that is new, and what is still being received."""
    remembering("offsite", send_wal)


def upload() -> None:
    """Copy the backups that are new; once a day look whether all is there, and remove what the window has passed.

    Apart from the WAL, which must not wait for it.
    """
    remembering("upload", send_backups)


def remembering(name: str, work: Callable[[str], None]) -> None:
    try:
        known = server.identity()
        if not known:
            return
        work(known)
    except Failure as failure:
        server.failed(name, failure)
        raise
    server.outcome(name, {})


def pushed(name: str, known: str) -> dict[str, Any]:
    """What is in the bucket; nothing, where it is another bucket than before. Raises Failure for another database's."""
    place = [os.environ["BACKUP_S3_BUCKET"], os.environ.get("BACKUP_S3_ENDPOINT", ""), known]
    state = recall(name)
    if state.get("place") == place:
        return state
    check_place(known)
    return {"place": place, "names": [], "tail": {}, "day": ""}


def send_wal(known: str) -> None:
    state = pushed("sent-wal", known)
    if "at" not in state:
        # New to this bucket; later it would be this volume's own.
        keep_tail()
    # In this order: what is archived meanwhile is in both, not in neither.
    tail = squeeze()
    facts = {path.name: path.stat().st_mtime for path in STATE.glob("*.json") if path.stem not in PASSING}
    archived = {str(path.relative_to(HOME)) for path in (HOME / "wals").rglob("*") if path.is_file()}
    archived.discard("wals/main-xlog.db")
    send(sorted(archived - set(state["names"])))
    if {**tail, **facts} != state["tail"]:
        send(["identity.json", "wals/main-xlog.db", *(f"stack/{name}" for name in facts)])
        rclone("sync", "--ignore-times", str(TAIL), f"{BUCKET}/tail")
    remember("sent-wal", place=state["place"], names=sorted(archived), tail={**tail, **facts})


def send_backups(known: str) -> None:
    state = pushed("sent-backups", known)
    complete = {one.name for one in catalog.backups()}
    for name in sorted(complete - set(state["names"])):
        # A bucket keeps no empty folder, and Postgres wants some.
        data = HOME / "base" / name
        folders = [str(path.relative_to(data)) for path in data.rglob("*") if path.is_dir()]
        (STATE / "folders").mkdir(exist_ok=True)
        (STATE / "folders" / name).write_text(json.dumps(folders))
        rclone("copy", "--size-only", str(data), f"{BUCKET}/base/{name}")
        # Last: it is what makes a backup one.
        send([f"stack/folders/{name}", f"meta/{name}-backup.info"])
    today = server.now().date().isoformat()
    if complete and state["day"] != today:
        complete_there(complete)
        remove_there(complete)
    remember("sent-backups", place=state["place"], names=sorted(complete), day=today)


def check_place(known: str) -> None:
    """Raise Failure when the bucket holds another database's backups: they would be mixed."""
    # A folder that isn't there can't be listed, and so isn't a bucket.
    rclone("mkdir", "away:")
    if rclone("lsf", "--recursive", "--files-only", "--include", f"/{MAJOR}/identity.json", "away:").strip():
        there = json.loads(rclone("cat", f"{BUCKET}/identity.json"))["systemid"]
        if str(there) != known:
            raise Failure(
                "The bucket holds backups of another database: give this one a bucket or a folder of its own."
            )


def keep_tail() -> None:
    """Put what another backup volume was receiving last with the archived WAL: this one will never have it.

    Barman keeps no WAL from before its first backup.
    """
    for name in rclone("lsf", "--files-only", "--include=/tail/*", "--recursive", BUCKET).split():
        segment = name.removeprefix("tail/")
        folder = f"wals/{segment[:16]}" if catalog.SEGMENT.match(segment) else "wals"
        rclone("moveto", f"{BUCKET}/{name}", f"{BUCKET}/{folder}/{segment}")


def send(names: list[str]) -> None:
    """Copy these files of HOME, whatever is there."""
    if names:
        argv = ("copy", "--no-traverse", "--ignore-times", "--files-from-raw=-", str(HOME), BUCKET)
        rclone(*argv, input="\n".join([*names, ""]))


def squeeze() -> dict[str, float]:
    """A compressed copy of what is being received, of one moment: 16 MB that are mostly zeros; when each changed."""
    TAIL.mkdir(exist_ok=True)
    times = {path.name: path.stat().st_mtime for path in STREAMING.glob("*")}
    for path in TAIL.iterdir():
        if path.name not in times:
            path.unlink()
    for name in times:
        # One that is archived by now keeps the copy that it had, if it had one.
        gone = contextlib.suppress(FileNotFoundError)
        with gone, (STREAMING / name).open("rb") as source, (TAIL / name).open("wb") as target:
            zstandard.ZstdCompressor(level=1).copy_stream(source, target)
    return times


def complete_there(complete: set[str]) -> None:
    """Send what should be in the bucket and isn't, by names and sizes. What is there of the WAL is never changed."""
    rclone("copy", "--ignore-existing", "--exclude=main-xlog.db", str(HOME / "wals"), f"{BUCKET}/wals")
    for name in complete:
        rclone("copy", "--size-only", str(HOME / "base" / name), f"{BUCKET}/base/{name}")


def remove_there(complete: set[str]) -> None:
    """Remove from the bucket what the recovery window has passed, once the backups here reach over all of it.

    Before that they may be those of a new volume, and what is in the bucket the only history.
    """
    oldest = min((one for one in catalog.backups() if one.name in complete), key=lambda one: one.name)
    if server.age(oldest.ended) < settings.keep_days() * 86400:
        return
    for name in (line.rstrip("/") for line in rclone("lsf", "--dirs-only", f"{BUCKET}/base").split()):
        if name < oldest.name:
            rclone("deletefile", f"{BUCKET}/meta/{name}-backup.info")
            rclone("purge", f"{BUCKET}/base/{name}")
    first = catalog.number(oldest.first_segment, oldest.segment_size)
    there = rclone("lsf", "--recursive", "--files-only", f"{BUCKET}/wals").split()
    segments = [name for name in there if catalog.SEGMENT.fullmatch(name[-24:])]
    passed = [name for name in segments if catalog.number(name[-24:], oldest.segment_size) < first]
    if passed:
        rclone("delete", "--files-from-raw=-", f"{BUCKET}/wals", input="\n".join([*passed, ""]))


def fetch() -> None:
    """Bring everything back into an empty backup volume; one that was interrupted goes on. Raises Failure."""
    os.umask(0o077)
    STATE.mkdir(parents=True, exist_ok=True)
    FETCHING.touch()
    # Last what makes a backup one.
    rclone("copy", "--exclude=/meta/**", BUCKET, str(HOME))
    tail = HOME / "tail"
    STREAMING.mkdir(parents=True, exist_ok=True)
    for path in tail.glob("*") if tail.exists() else []:
        with path.open("rb") as source, (STREAMING / path.name).open("wb") as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)
    shutil.rmtree(tail, ignore_errors=True)
    make_folders()
    rclone("copy", f"{BUCKET}/meta", str(catalog.META))
    for path in (HOME / "base").glob("*"):
        # Copied without its last file: it was not complete.
        if not (catalog.META / f"{path.name}-backup.info").exists():
            shutil.rmtree(path)
    FETCHING.unlink()


def fetch_older() -> bool:
    """Bring back the bucket's backups that are not here, and their WAL; whether there were any. Raises Failure."""
    there = {name.removesuffix("-backup.info") for name in rclone("lsf", "--files-only", f"{BUCKET}/meta").split()}
    missing = there - {one.name for one in catalog.backups()}
    if not missing:
        return False
    print("fetch older backups from the bucket", file=sys.stderr, flush=True)
    os.umask(0o077)
    for folder in ("wals", "base", "stack/folders"):
        rclone("copy", "--ignore-existing", "--exclude=main-xlog.db", f"{BUCKET}/{folder}", str(HOME / folder))
    make_folders()
    rclone("copy", "--ignore-existing", f"{BUCKET}/meta", str(catalog.META))
    # Barman's list of the WAL: what isn't in it would never be removed.
    server.barman("rebuild-xlogdb", "main")
    return True


def make_folders() -> None:
    """Those that are empty in a backup: a bucket keeps none."""
    for path in (STATE / "folders").glob("*"):
        for folder in json.loads(path.read_text()):
            (HOME / "base" / path.name / folder).mkdir(parents=True, exist_ok=True)
