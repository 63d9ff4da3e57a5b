"""Postgres's restore_command: one WAL segment or history file from the backup volume, uncompressed.

`barman get-wal` does the same, in 0.3 s a segment of which Python's start is the most; this takes a fifth.
"""

import shutil
import sys
from pathlib import Path

from backup.server import HOME, STREAMING

ZSTD = bytes.fromhex("28b52ffd")


def fetch(name: str, target: str) -> bool:
    """Whether there was such a file; it is now at `target`."""
    folder = HOME / "wals" / (name[:16] if len(name) > 16 else "")
    archived, streamed = folder / name, STREAMING / name
    # The newest is still being received, and a timeline that was left ends with a part of a segment. Each moves on to
    # the next place while this looks, so the first two are looked at once more.
    parts = [STREAMING / f"{name}.partial", archived, streamed, folder / f"{name}.partial"]
    for source in (archived, streamed, *parts):
        try:
            with source.open("rb") as stored, Path(target).open("wb") as segment:
                compressed = stored.read(4) == ZSTD
                stored.seek(0)
                if compressed:
                    import zstandard  # type: ignore[import-not-found]  # not in .venv

                    zstandard.ZstdDecompressor().copy_stream(stored, segment)
                else:
                    shutil.copyfileobj(stored, segment)
        except FileNotFoundError:
            continue
        return True
    return False


if __name__ == "__main__":
    try:
        code = 0 if fetch(*sys.argv[1:]) else 1
    except Exception as error:
        # To Postgres any exit code up to 125 is the end of the WAL, where it stops and serves.
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        code = 255
    sys.exit(code)
