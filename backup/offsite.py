"""The copy elsewhere: each backup and all WAL, encrypted on this machine, in a bucket (rclone's crypt over S3).

Named are objects that never change, once there; the one that does, the WAL that is being received, goes compressed.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import zstandard  # type: ignore[import-not-found]  # not in .venv

from backup import catalog, server, settings
from backup.server import HOME, MAJOR, STATE, STREAMING, Failure, recall, remember, run

AUTHORITY = Path("/tmp/ca.pem")  # noqa: S108 - a tmpfs of the container
TAIL = STATE / "tail"
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
    """Copy what is new; once a day look whether all is there, and remove there what was removed here."""
    try:
        known = server.identity()
        if not known:
            return
        push(known)
    except Failure as failure:
        server.failed("offsite", failure)
        raise
    server.outcome("offsite", {})


def push(known: str) -> None:
    state = recall("pushed")
    # Another bucket, or another database: everything is new to it.
    place = [os.environ["BACKUP_S3_BUCKET"], os.environ.get("BACKUP_S3_ENDPOINT", ""), known]
    if state.get("place") != place:
        check_place(known)
        state = {"place": place, "files": [], "backups": [], "tail": {}, "day": ""}
    pushed = set(state["files"])
    archived = {str(path.relative_to(HOME)) for path in (HOME / "wals").rglob("*") if path.is_file()}
    archived.discard("wals/main-xlog.db")
    send(sorted(archived - pushed))
    tail = {path.name: path.stat().st_mtime for path in STREAMING.glob("*")}
    facts = [path for path in STATE.glob("*.json") if path.name != "pushed.json"]
    tail |= {path.name: path.stat().st_mtime for path in facts if path.name not in ("offsite.json", "stream.json")}
    if tail != state["tail"]:
        squeeze()
        send(["identity.json", "wals/main-xlog.db", *(str(path.relative_to(HOME)) for path in facts)])
        rclone("sync", "--ignore-times", str(TAIL), f"{BUCKET}/tail")
    complete = {one.name: one for one in catalog.backups()}
    for name in sorted(set(complete) - set(state["backups"])):
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
        compare(complete)
    remember("pushed", place=place, files=sorted(archived), backups=sorted(complete), tail=tail, day=today)


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


def send(names: list[str]) -> None:
    """Copy these files of HOME, whatever is there."""
    if names:
        argv = ("copy", "--no-traverse", "--ignore-times", "--files-from-raw=-", str(HOME), BUCKET)
        rclone(*argv, input="\n".join([*names, ""]))


def squeeze() -> None:
    """A compressed copy of what is being received, of one moment: 16 MB that are mostly zeros, or have been sent."""
    TAIL.mkdir(exist_ok=True)
    names = {path.name for path in STREAMING.glob("*")}
    for path in TAIL.iterdir():
        if path.name not in names:
            path.unlink()
    for name in names:
        try:
            with (STREAMING / name).open("rb") as source, (TAIL / name).open("wb") as target:
                zstandard.ZstdCompressor(level=1).copy_stream(source, target)
        except FileNotFoundError:
            # Archived since; it is sent as such next time.
            (TAIL / name).unlink(missing_ok=True)


def compare(complete: dict[str, catalog.Backup]) -> None:
    """Make the bucket the same as here, by names and sizes, both ways."""
    rclone("sync", "--size-only", str(HOME / "wals"), f"{BUCKET}/wals")
    for name in complete:
        rclone("copy", "--size-only", str(HOME / "base" / name), f"{BUCKET}/base/{name}")
    for name in rclone("lsf", "--dirs-only", f"{BUCKET}/base").split():
        if name.rstrip("/") not in complete:
            rclone("deletefile", f"{BUCKET}/meta/{name.rstrip('/')}-backup.info")
            rclone("purge", f"{BUCKET}/base/{name}")


def fetch() -> None:
    """Bring everything back into an empty backup volume. Raises Failure."""
    os.umask(0o077)
    rclone("copy", BUCKET, str(HOME))
    tail = HOME / "tail"
    STREAMING.mkdir(parents=True, exist_ok=True)
    for path in tail.glob("*") if tail.exists() else []:
        with path.open("rb") as source, (STREAMING / path.name).open("wb") as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)
    shutil.rmtree(tail, ignore_errors=True)
    for path in (STATE / "folders").glob("*"):
        for folder in json.loads(path.read_text()):
            (HOME / "base" / path.name / folder).mkdir(parents=True, exist_ok=True)
    for path in (HOME / "base").glob("*"):
        # Copied without its last file: it was not complete.
        if not (catalog.META / f"{path.name}-backup.info").exists():
            shutil.rmtree(path)
