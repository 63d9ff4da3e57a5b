"""Puts the static files of the release's image where the file server reads them (fileserver/nginx.conf).

    publish            its pages are served from now on
    publish --next     its files can be read, and the pages stay those of the release that serves
    publish --alone    as the first, and nothing of earlier releases can be read any more

Each set of files is a folder with a name by its content. Links lead to them: 0 serves, 1 served before it, and so on.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import sys
import zlib
from pathlib import Path, PurePath

from . import lines, settings
from .limits import Wrong

PLACE = Path("/opt/stack/static")
# How many sets of files stay readable: nginx.conf names as many.
KEPT = 5
# A hash as webpack, Parcel and Django write it, as esbuild does, and as Vite and Rollup do: `index-BfRq3kZ2.js`.
HASHED = re.compile(
    r".+[.-](?:(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}"
    r"|(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z2-7]{8}"
    r"|(?=[\w-]*\d)(?=[\w-]*[a-z])(?=[\w-]*[a-z\d][A-Z])[\w-]{8})(?:\.[A-Za-z0-9]+)+"
)
# What may be one: some have no digit, and look like a word.
MAYBE = re.compile(r".+[.-][\w-]{8,}(?:\.[A-Za-z0-9]+)+")
PAGE = (".html", ".htm")


def published(folder: Path) -> dict[str, Path]:
    """The files that anybody may read, by their path below the folder.

    No name that begins with a dot but .well-known, no link to such a name, or out of the folder.
    """
    found, top = {}, folder.resolve()
    for parent, _, names in os.walk(top):
        for path in (Path(parent, name) for name in names):
            target = path.resolve()
            if not target.is_file() or top not in target.parents:
                continue
            parts = {*path.relative_to(top).parts, *target.relative_to(top).parts} - {".well-known"}
            if not any(part.startswith(".") for part in parts):
                found[str(path.relative_to(top))] = target
    return found


def hashed(names: list[str]) -> set[str]:
    """Those whose name holds a hash of their content.

    In a folder where one surely does and each other may, as in a build's folder of assets, all do.
    """
    folders: dict[PurePath, list[str]] = {}
    for name in names:
        folders.setdefault(PurePath(name).parent, []).append(name)
    found = set()
    for inside in folders.values():
        sure = {name for name in inside if HASHED.fullmatch(PurePath(name).name)}
        all_may = all(MAYBE.fullmatch(PurePath(name).name) for name in inside)
        found |= {*inside} if sure and all_may else sure
    return {name for name in found if not name.endswith(PAGE)}


def bring(files: dict[str, Path], fallback: str, place: Path) -> str:
    """Copy the files into a folder of their own, unless it is there; return its name."""
    whole, marks = hashlib.sha256(fallback.encode()), {}
    for name in sorted(files):
        digest, marks[name] = read(files[name])
        whole.update(os.fsencode(name) + b"\0" + digest)
    made = whole.hexdigest()[:16]
    if (place / "sets" / made).exists():
        return made
    draft = place / "sets/draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with_hash = hashed(list(files))
    for name, path in files.items():
        kind = "hashed" if name in with_hash else "page" if name.endswith(PAGE) else "plain"
        copy(path, draft / kind / name, marks[name])
    if fallback in files:
        copy(files[fallback], draft / "fallback.html", marks[fallback])
    draft.rename(place / "sets" / made)
    return made


def read(path: Path) -> tuple[bytes, int]:
    """A file's SHA-256 and CRC-32, without holding all of it: a film may be larger than the container's memory."""
    digest, mark = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            mark = zlib.crc32(part, mark)
    return digest.digest(), mark


def copy(path: Path, target: Path, mark: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    # nginx makes an ETag of the time and the length. Two builds may give two contents the same of both.
    moment = mark & 0x7FFFFFFF
    os.utime(target, (moment, moment))


def point(link: Path, made: str) -> None:
    """Have the link lead to that set, from one moment to the next."""
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(f"sets/{made}")
    new.replace(link)


def serve(made: str, place: Path, alone: bool) -> None:
    """Have that set serve; those that served before stay readable behind it, and others go."""
    links = [place / str(number) for number in range(KEPT)]
    # Where this was killed two of them lead to the same.
    before = list(dict.fromkeys(link.readlink().name for link in links if link.is_symlink()))
    order = [made, *(one for one in before if one != made and not alone)][:KEPT]
    for link in links[len(order) :]:
        link.unlink(missing_ok=True)
    # The one that serves last: until then what it had is found as before.
    for number in reversed(range(len(order))):
        point(links[number], order[number])
    (place / "next").unlink(missing_ok=True)
    for path in (place / "sets").iterdir():
        if path.name not in order:
            # Half of one must not have its name.
            draft = place / "sets/draft"
            shutil.rmtree(draft, ignore_errors=True)
            path.rename(draft)
            shutil.rmtree(draft)


def publish(folder: str, fallback: str, option: str, place: Path = PLACE) -> None:
    """Raises Wrong, and OSError for what can't be read or written."""
    if not Path(folder).is_dir():
        raise Wrong(f"STATIC_DIR={folder} is wrong: the app's image has no such folder.")
    files = published(Path(folder))
    if not files:
        raise Wrong(f"STATIC_DIR={folder} is wrong: that folder of the app's image has no file.")
    os.umask(0o022)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = bring(files, fallback, place)
        if option == "--next" and (place / "0").exists():
            point(place / "next", made)
        else:
            serve(made, place, alone=option == "--alone")
    print(f"{len(files)} files of {folder} can be read.")


@settings.program
def main() -> int:
    try:
        publish(os.environ["STATIC_DIR"], os.environ.get("STATIC_FALLBACK", ""), "".join(sys.argv[1:2]))
    except OSError as error:
        lines.say(f"The static files can't be put in place: {error}", logging.ERROR)
        return 1
    return 0
