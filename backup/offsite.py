"""The copy elsewhere: each backup and all WAL, encrypted on this machine, in a bucket.

An object that was sent never changes, so its name is kept, and it is sent once. The WAL that is still being received
changes: it is sent again each time, compressed.
"""

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard  # type: ignore[import-not-found]  # not in .venv

from backup import bucket, catalog, server, settings
from backup.bucket import BUCKET, rclone
from backup.fetch import ZSTD
from backup.server import HOME, STATE, STREAMING, Failure, recall, remember

TAIL = STATE / "tail"
# Facts that are only of this machine, or change all the time.
SENT = ("sent-wal", "sent-backups")
PASSING = (*SENT, "offsite", "upload", "stream", "housekeeping", "promoted", "received", "taking")
# The names of segments, parts of them, and the files that say what a timeline grew out of.
LATER = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
# Two jobs would take the bucket over twice.
claiming = threading.Lock()
# Seconds between two looks whether all that was sent is there.
CHECKED = 3600
NEVER = "2000-01-01T00:00+00:00"


def copy() -> None:
    """Copy the WAL that is new, and what is still being received."""
    remembering("offsite", send_wal)


def upload() -> None:
    """Copy the backups that are new; once a day remove what the window has passed.

    Apart from the WAL, which must not wait for it.
    """
    remembering("upload", send_backups)


def alive() -> None:
    """Leave a sign of life, however seldom something is copied."""
    known = server.identity()
    if known and recall("timelines").get("seen"):
        pushed("sent-wal", known)


def remembering(name: str, work: Callable[[str], None]) -> None:
    try:
        known = server.identity()
        # Before the first is received nothing is known of this database.
        if not known or not recall("timelines").get("seen"):
            return
        work(known)
    except (Failure, OSError) as failure:
        server.failed(name, failure)
        raise
    server.outcome(name, {})


def pushed(name: str, known: str, *folders: str) -> tuple[dict[str, Any], dict[str, int] | None]:
    """What was sent to the bucket; what of it is there, when it is time to look. Raises Failure for a foreign one."""
    with claiming:
        owner = bucket.claim(known)
        left = recall("taking").get("owner")
        if left is not None and (left or recall(name).get("place") != bucket.place(known)):
            step_aside()
            bucket.adopt(left)
            # Later it would be this volume's own.
            keep_tail()
            for one in (*SENT, "taking"):
                remember(one)
        elif owner.get("alone", True):
            # New, or emptied by somebody.
            for one in SENT:
                remember(one, **{**recall(one), "checked": NEVER})
    state = recall(name)
    if state.get("place") != bucket.place(known):
        state = {"place": bucket.place(known), "names": [], "tail": {}, "day": ""}
    elif server.age(state.get("checked", NEVER)) < CHECKED:
        return state, None
    there = {path: size for folder in folders for path, size in bucket.files(folder).items()}
    return {**state, "checked": server.now().isoformat()}, there


def missing(what: str, count: int) -> None:
    if count:
        print(f"Missing in the bucket, and sent again: {count} {what}.", flush=True)


def send_wal(known: str) -> None:
    state, there = pushed("sent-wal", known, "wals", "tail", "stack", "identity.json")
    # In this order: what is received up to then is in the tail; what is archived meanwhile is in both, not in neither.
    received = {name: one for name, one in recall("received").items() if name != "at"}
    tail = squeeze()
    facts = {path.name: path.stat().st_mtime for path in STATE.glob("*.json") if path.stem not in PASSING}
    archived = {str(path.relative_to(HOME)) for path in (HOME / "wals").rglob("*") if path.is_file()}
    archived.discard("wals/main-xlog.db")
    if there is not None:
        rest = {"wals/main-xlog.db", "identity.json/identity.json", *(f"stack/{one}" for one in facts)}
        gone = (set(state["names"]) & archived) - there.keys()
        lost = {*rest, *(f"tail/{one}" for one in state["tail"] if one in tail)} - there.keys()
        missing("file(s) of the log", len(gone) + (len(lost) if state["tail"] else 0))
        state |= {"names": sorted(archived & there.keys()), "tail": {} if lost else state["tail"]}
    send(sorted(archived - set(state["names"])))
    if {**tail, **facts} != state["tail"]:
        send(["identity.json", "wals/main-xlog.db", *(f"stack/{name}" for name in facts)])
        rclone("sync", "--ignore-times", str(TAIL), f"{BUCKET}/tail")
    # It may have taken long.
    bucket.claim(known)
    bucket.sign(known, received)
    remember("sent-wal", **{**state, "names": sorted(archived), "tail": {**tail, **facts}})


def send_backups(known: str) -> None:
    state, there = pushed("sent-backups", known, "base", "meta", "stack/folders")
    complete = {one.name for one in catalog.backups()}
    if there is not None:
        whole = {name for name in complete if all(there.get(path) == size for path, size in wanted(name).items())}
        missing("backup(s)", len((set(state["names"]) & complete) - whole))
        state["names"] = sorted(whole)
        # What is said of them changes when another one rests on them.
        send([one for name in whole for one in (f"meta/{name}-backup.info", f"base/{name}/backup.info")])
    for name in sorted(complete - set(state["names"])):
        # A bucket keeps no empty folder, and Postgres wants some.
        data = HOME / "base" / name
        folders = [str(path.relative_to(data)) for path in data.rglob("*") if path.is_dir()]
        (STATE / "folders").mkdir(exist_ok=True)
        server.write(STATE / "folders" / name, json.dumps(folders))
        rclone("copy", "--size-only", str(data), f"{BUCKET}/base/{name}")
        # Last: it is what makes a backup one.
        send([f"stack/folders/{name}", f"meta/{name}-backup.info"])
    # Whatever comes of the rest: these are there.
    state = {**state, "names": sorted(complete)}
    remember("sent-backups", **state)
    today = server.now().date().isoformat()
    if complete and state["day"] != today:
        remove_there(complete)
        # A fetch of older backups brings the files of one before its folders.
        for path in (STATE / "folders").glob("*"):
            if not (HOME / "base" / path.name).exists():
                path.unlink()
    remember("sent-backups", **{**state, "day": today})


def wanted(name: str) -> dict[str, int]:
    """A backup's files that never change, by their names in the bucket, and their sizes."""
    paths = [path for path in (HOME / "base" / name).rglob("*") if path.is_file() and path.name != "backup.info"]
    paths.append(STATE / "folders" / name)
    # What is not here, or goes just now, is in no bucket.
    return {str(path.relative_to(HOME)): path.stat().st_size if path.exists() else -1 for path in paths}


def step_aside() -> None:
    """Move aside what another volume wrote after its database's way and ours parted: we use those names again."""
    newest = max(int(name[:8], 16) for name in {*catalog.segments(), f"{recall('timelines')['seen'][-1][1]:08X}"})
    history = f"wals/{newest:08X}.history"
    names = [*bucket.files("wals"), *bucket.files("tail")]
    if history in names and catalog.ancestors(newest):
        # The same number, maybe of another restore.
        with tempfile.NamedTemporaryFile("rb") as file:
            rclone("copyto", f"{BUCKET}/{history}", file.name)
            stored = Path(file.name).read_bytes()
        if stored.startswith(ZSTD):
            stored = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
        newest -= catalog.parents(stored.decode()) != catalog.ancestors(newest)
    foreign = [name for name in names if LATER.match(Path(name).name) and int(Path(name).name[:8], 16) > newest]
    here = {one.name for one in catalog.backups()}
    for meta in bucket.files("meta"):
        name = meta[5:].removesuffix("-backup.info")
        found = catalog.facts(rclone("cat", f"{BUCKET}/{meta}"))
        if name not in here and int(found["timeline"]) > newest:
            foreign += [meta, f"base/{name}"]
    aside = f"{BUCKET}-aside-{server.now():%Y%m%d%H%M%S}"
    for name in foreign:
        rclone("move" if name.startswith("base/") else "moveto", f"{BUCKET}/{name}", f"{aside}/{name}")
    if foreign:
        print(
            f"{len(foreign)} files of another stack's timelines are now in the bucket's folder {aside[5:]}.", flush=True
        )


def keep_tail() -> None:
    """Put what another backup volume was receiving last with the archived WAL: this one will never have it.

    Barman keeps no WAL from before its first backup.
    """
    for name in bucket.files("tail"):
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
    # Any of them may be archived meanwhile.
    gone, times = contextlib.suppress(FileNotFoundError), dict[str, float]()
    for path in STREAMING.glob("*"):
        with gone:
            times[path.name] = path.stat().st_mtime
    for path in TAIL.iterdir():
        if path.name not in times:
            path.unlink()
    for name in times:
        # One that is keeps the copy that it had, if it had one.
        with gone, (STREAMING / name).open("rb") as source, (TAIL / name).open("wb") as target:
            zstandard.ZstdCompressor(level=1).copy_stream(source, target)
    return times


def remove_there(complete: set[str]) -> None:
    """Remove from the bucket what the recovery window has passed, once the backups here reach over all of it.

    Before that they may be those of a new volume, and what is in the bucket the only history. Any part of a backup may
    be there: its upload was cut short, or the last call of this was.
    """
    oldest = min((one for one in catalog.backups() if one.name in complete), key=lambda one: one.name)
    if server.age(oldest.ended) < settings.keep_days() * 86400:
        return
    paths = [*bucket.files("stack/folders"), *rclone("lsf", "--dirs-only", f"{BUCKET}/base").split()]
    # Increments before what they rest on.
    for name in sorted({Path(path).name for path in paths}, reverse=True):
        if name < oldest.name:
            remove(BUCKET, f"meta/{name}-backup.info")
            rclone("purge", f"{BUCKET}/base/{name}")
            remove(BUCKET, f"stack/folders/{name}")
    first = catalog.number(oldest.first_segment, oldest.segment_size)
    there = rclone("lsf", "--recursive", "--files-only", f"{BUCKET}/wals").split()
    segments = [name for name in there if catalog.SEGMENT.fullmatch(name[-24:])]
    passed = [name for name in segments if catalog.number(name[-24:], oldest.segment_size) < first]
    if passed:
        remove(f"{BUCKET}/wals", *passed)


def remove(folder: str, *names: str) -> None:
    """Remove those of these files that are there."""
    rclone("delete", "--files-from-raw=-", folder, input="\n".join([*names, ""]))
