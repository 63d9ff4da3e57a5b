"""The bucket of the copy elsewhere: whose it is, what it holds, and how that comes back (rclone's crypt over S3).

One backup volume owns it and writes there; every other one only reads. The owner's sign of life is in owner.json.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import zstandard  # type: ignore[import-not-found]  # not in .venv

from backup import catalog, server, settings, signs
from backup.server import HOME, MAJOR, VOLUME, Failure, recall, run

AUTHORITY = Path("/tmp/ca.pem")  # noqa: S108 - a tmpfs of the container
BUCKET = f"away:{MAJOR}"
# Where a fetch goes, until all of it is there.
FETCHED = VOLUME / f"{MAJOR}.fetched"
# Seconds between two signs of life, and without one after which the owner is taken for lost.
ALIVE, LOST = 60, 900
# The same by the clocks of two machines, which may differ.
LONG_LOST = 3600
# How rclone ends without a bucket or a folder; not every version says so in words: https://rclone.org/docs/#exit-code
NOT_FOUND = 3
# The foreign owner's last sign of life, and since when it is that one, by our clock.
watched: tuple[str, float] = ("", 0)


def environment() -> dict[str, str]:
    """rclone's configuration: none of it is on a disk or on a command line. Raises Failure."""
    keys, authority = settings.keys()
    found = {
        "PLAIN_TYPE": "s3",
        "PLAIN_PROVIDER": "Other",
        "PLAIN_ENDPOINT": os.environ.get("BACKUP_S3_ENDPOINT", ""),
        "PLAIN_REGION": os.environ.get("BACKUP_S3_REGION", ""),
        # Neither looked for nor made: keys that may use one bucket may do neither.
        "PLAIN_NO_CHECK_BUCKET": "true",
        "PLAIN_ACCESS_KEY_ID": keys["ACCESS_KEY_ID"],
        "PLAIN_SECRET_ACCESS_KEY": keys["SECRET_ACCESS_KEY"],
        "AWAY_TYPE": "crypt",
        "AWAY_REMOTE": f"plain:{os.environ['BACKUP_S3_BUCKET']}",
        "AWAY_PASSWORD": obscured(keys["PASSWORD"]),
    }
    configuration = {f"RCLONE_CONFIG_{name}": value for name, value in found.items()}
    # The certificate of the authority that the endpoint's own is of.
    if authority:
        server.write(AUTHORITY, authority)
        configuration["RCLONE_CA_CERT"] = str(AUTHORITY)
    return {**os.environ, **configuration, "RCLONE_CONFIG": "", "RCLONE_RETRIES": "2", "RCLONE_LOW_LEVEL_RETRIES": "3"}


@cache
def obscured(password: str) -> str:
    """As rclone wants it in its configuration."""
    return run("rclone", "obscure", "-", input=password).strip()


def rclone(*argv: str, **options: Any) -> str:
    flags = ("--transfers=8", "--contimeout=10s", "--timeout=60s", "--stats=0", "--log-level=ERROR")
    return run("rclone", *argv, *flags, env=environment(), **options)


def files(folder: str) -> dict[str, int]:
    """Every file below the bucket's folder, by its name in the bucket, and its size."""
    try:
        listed = rclone("lsf", "--recursive", "--files-only", "--format=sp", "--separator= ", f"{BUCKET}/{folder}")
    except Failure as failure:
        if failure.code == NOT_FOUND:
            return {}
        raise
    lines = [line.split(" ", 1) for line in listed.splitlines()]
    return {f"{folder}/{name}": int(size) for size, name in lines}


def whose() -> tuple[str | None, dict[str, Any]]:
    """The database whose backups the bucket holds, and its owner. Raises Failure when it can't be asked."""
    try:
        text = rclone("cat", "--max-depth=1", "--include=/identity.json", "--include=/owner.json", BUCKET)
    except Failure as failure:
        if failure.code != NOT_FOUND:
            raise
        text = ""
    found: dict[str, Any] = {}
    # One after the other, as they come.
    while text.strip():
        one, end = json.JSONDecoder().raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        found["identity" if "systemid" in one else "owner"] = one
    owner = found.get("owner", {})
    if owner:
        # Somebody deleted the rest, or it has not been sent yet.
        owner["alone"] = "identity" not in found
    identity = found.get("identity", {}).get("systemid") or owner.get("identity")
    return str(identity) if identity else None, owner


def sign(known: str, received: dict[str, Any]) -> None:
    """Leave a sign of life, with up to when the log is there that was copied."""
    facts = {"project": os.environ.get("PROJECT"), "at": server.now().isoformat(timespec="seconds"), "identity": known}
    with signs.word(place(known)) as word:
        text = json.dumps({"id": signs.ours(), "sign": word, **facts, "received": received})
        rclone("rcat", f"{BUCKET}/owner.json", input=text)


def claim(known: str) -> dict[str, Any]:
    """Be the owner; the last sign of life. One that is taken over is remembered, with its owner. Raises Failure."""
    identity, owner = whose()
    if identity and identity != known:
        raise Failure(elsewhere(identity, known))
    mine = signs.is_ours(owner, place(known))
    if owner and not mine and not silent(owner["at"]):
        taken = "Another stack has taken this bucket over, so this one stopped copying. "
        replaced = taken if recall("sent-wal").get("place") == place(known) else ""
        where = ", on a copy of this machine" if owner.get("id") == signs.ours() else ""
        raise Failure(
            f"The bucket is in use by the project {owner['project']}{where}, last at {owner['at']}, so from here "
            f"nothing is copied there. {replaced}Name a folder of its own for this one: "
            f"BACKUP_S3_BUCKET=bucket/folder. If that machine is lost, wait: {LOST // 60} minutes after its last sign "
            "of life the bucket is taken over."
        )
    if mine and server.age(owner["at"]) < ALIVE:
        return owner
    if not mine and identity:
        # Until all that is to be done then is done.
        server.remember("taking", owner=owner)
    sign(known, owner.get("received", {}))
    if not mine:
        # Of two that do this at once, the last one has it.
        time.sleep(2)
        if not signs.is_ours(whose()[1], place(known)):
            raise Failure("Another stack took the bucket at the same moment.")
    if owner and not mine:
        print(f"The bucket was of the project {owner['project']}, last at {owner['at']}: taken over.", flush=True)
    return owner


def place(known: str) -> list[str]:
    """What is remembered of the bucket holds for this one and this database."""
    return [os.environ["BACKUP_S3_BUCKET"], os.environ.get("BACKUP_S3_ENDPOINT", ""), known]


def silent(sign_of_life: str) -> bool:
    """Whether the owner is lost: no new sign of life for so long, by our own clock alone."""
    global watched
    if watched[0] != sign_of_life:
        watched = (sign_of_life, time.monotonic())
    return time.monotonic() - watched[1] > LOST or server.age(sign_of_life) > LONG_LOST


def elsewhere(there: str | None, here: str | None) -> str:
    """Why the bucket's backups and those here don't go together."""
    return (
        f"The bucket holds backups of another database ({there}; here it is {here}). `./stack restore --bucket --to "
        "latest` brings that one back. For this one name a folder of its own: BACKUP_S3_BUCKET=bucket/folder."
    )


def main() -> dict[str, Any]:
    """What the bucket holds, for who begins with an empty volume."""
    found: dict[str, Any] = {"configured": bool(settings.bucket()), "local_identity": server.identity()}
    newest = None
    identity, owner = whose() if settings.bucket() else (None, {})
    names = sorted(files("meta")) if settings.bucket() else []
    if names:
        ended = [catalog.facts(rclone("cat", f"{BUCKET}/{names[-1]}")).get("end_time", "None")]
        untils = [one["until"] for one in owner.get("received", {}).values() if isinstance(one, dict)]
        times = [datetime.fromisoformat(one) for one in [*ended, *untils] if one != "None"]
        newest = max(times).isoformat() if times else None
    said = {name: owner[name] for name in ("id", "project", "at")} if owner else None
    return {**found, "identity": identity, "newest": newest, "backups": len(names), "owner": said}


def fetch() -> Path:
    """Bring all of it, and nothing else, into a folder of its own; one that was interrupted goes on. Raises Failure.

    What is there from before may be another bucket's.
    """
    os.umask(0o077)
    state, streaming = FETCHED / "stack", FETCHED / "streaming"
    # First what says how far the log reaches that comes after it. Last what makes a backup one.
    received = whose()[1].get("received", {})
    shutil.rmtree(FETCHED / "tail", ignore_errors=True)
    rclone("sync", "--exclude=/meta/**", "--exclude=/owner.json", BUCKET, str(FETCHED))
    state.mkdir(parents=True, exist_ok=True)
    server.write(state / "received.json", json.dumps(received))
    shutil.rmtree(streaming, ignore_errors=True)
    streaming.mkdir()
    for path in (FETCHED / "tail").glob("*"):
        with path.open("rb") as source, (streaming / path.name).open("wb") as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)
    make_folders(FETCHED)
    rclone("sync", f"{BUCKET}/meta", str(FETCHED / "meta"))
    for path in (FETCHED / "base").glob("*"):
        # Copied without its last file: it was not complete.
        if not (FETCHED / "meta" / f"{path.name}-backup.info").exists():
            shutil.rmtree(path)
    return FETCHED


@contextmanager
def taken() -> Iterator[list[str]]:
    """Have the bucket's backups as this volume's; those of another database are moved aside. What is to be said.

    When the restore fails, all is where it was: the database that is served then is the other one.
    """
    known, aside, said = server.identity(), None, []
    fetched = fetch()
    if known or any((HOME / "base").glob("*")) or any((HOME / "wals").glob("*")):
        aside = VOLUME / f"{MAJOR}-{known or 'unknown'}-{server.now():%Y%m%d%H%M%S}"
        HOME.rename(aside)
        said = [f"The backups of the database {known} are now in the backup volume's folder {aside.name}."]
    else:
        shutil.rmtree(HOME, ignore_errors=True)
    fetched.rename(HOME)
    shutil.rmtree(HOME / "tail", ignore_errors=True)
    try:
        yield said
    except BaseException:
        HOME.rename(fetched)
        if aside:
            aside.rename(HOME)
        raise


def adopt(owner: dict[str, Any]) -> None:
    """Have what is known in the bucket of the time before this volume: timelines, points, how far the log is."""
    known = {}
    for name in ("timelines", "points"):
        if files(f"stack/{name}.json"):
            known[name] = json.loads(rclone("cat", f"{BUCKET}/stack/{name}.json"))
    here, there = recall("timelines"), known.get("timelines", {})
    if here.get("seen"):
        first = here["seen"][0]
        before = [one for one in there.get("seen", []) if one[0] < first[0]]
        # Seen from when this volume was new, it had begun earlier.
        rest = here["seen"][1:] if before and before[-1][1] == first[1] else here["seen"]
        lost = [one for one in there.get("lost", []) if one not in here.get("lost", [])]
        server.remember("timelines", seen=[*before, *rest], lost=[*lost, *here.get("lost", [])])
    points = {**known.get("points", {}).get("points", {}), **recall("points").get("points", {})}
    server.remember("points", points=points)
    server.remember("received", **{**owner.get("received", {}), **recall("received")})


def fetch_older() -> bool:
    """Bring back the bucket's backups that are not here, and their WAL; whether there were any. Raises Failure."""
    identity, owner = whose()
    if identity != server.identity():
        raise Failure(elsewhere(identity, server.identity()))
    there = {Path(name).name.removesuffix("-backup.info") for name in files("meta")}
    missing = there - {one.name for one in catalog.backups()}
    if not missing:
        return False
    print("fetch older backups from the bucket", file=sys.stderr, flush=True)
    os.umask(0o077)

    def bring(folder: str, *flags: str) -> None:
        rclone("copy", "--ignore-existing", *flags, f"{BUCKET}/{folder}", str(HOME / folder))

    # What else is there is no backup: an upload may be under way, or was cut short. Nothing would ever remove it here.
    chosen = [f"--include=/{name}{rest}" for name in sorted(missing) for rest in ("/**", "*")]
    bring("wals", "--exclude=main-xlog.db")
    bring("base", *chosen)
    bring("stack/folders", *chosen)
    make_folders(HOME)
    adopt(owner)
    bring("meta", *chosen)
    # Barman's list of the WAL: what isn't in it would never be removed.
    server.barman("rebuild-xlogdb", "main")
    return True


def make_folders(home: Path) -> None:
    """Those that are empty in a backup: a bucket keeps none."""
    for path in (home / "stack/folders").glob("*"):
        for folder in json.loads(path.read_text()):
            (home / "base" / path.name / folder).mkdir(parents=True, exist_ok=True)
