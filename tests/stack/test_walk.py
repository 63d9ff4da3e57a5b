"""The verbs in any order: what was acknowledged is there, or was given up by name.

WALK_SEED chooses the way, WALK_SECONDS how long (150), WALK_STEPS how far at most.
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.backups import listing, ok
from tests.stack.ledger import Ledger
from tests.stack.s3 import serve
from tests.stack.stacks import Repository, run, wait_until
from tests.stack.steps import STEPS
from tests.stack.walk import Walk


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    """At its beginning: a stack with a backup, and a bucket that it doesn't use yet."""
    seed = int(os.environ.get("WALK_SEED") or random.randrange(10**6))  # noqa: S311
    print(f"WALK_SEED={seed}")
    repository = Repository(tmp_path / "walk", "walk")
    repository.remove()
    disk, stored = tmp_path / "disk", tmp_path / "s3"
    for folder in (disk, stored):
        folder.mkdir()
    # Not in memory: that would be the backup service's own, of which it has little.
    with (tmp_path / "image").open("wb") as image:
        image.truncate(2 * 2**30)
    run("mkfs.ext4", "-q", "-E", "root_owner=10003:10003", image.name)
    run("mount", "-o", "loop", image.name, str(disk))
    try:
        repository.compose("build", "--quiet", "backup")
        with (
            serve(f"{repository.project}-s3", f"{repository.project}-backup", stored) as server,
            Ledger(repository) as ledger,
        ):
            walk = Walk(repository, ledger, seed, server, disk)
            walk.make_backup_volume()
            ok(repository.stack("up"))
            wait_until(lambda: bool(listing(repository)))
            try:
                yield walk
            finally:
                print(f"WALK_SEED={seed}: {walk.report()}")
                # Its containers are on the server's network.
                repository.remove()
    finally:
        repository.remove()
        run("umount", str(disk))


@pytest.mark.timeout(2400)
def test_walk(walk: Walk) -> None:
    """For so long, step by step."""
    begun, seconds = time.monotonic(), int(os.environ.get("WALK_SECONDS") or 150)
    most = int(os.environ.get("WALK_STEPS") or 1000)
    walk.ledger.wait_for_writes(20)
    while time.monotonic() - begun < seconds and walk.counts["steps"] < most:
        walk.step(STEPS)
    assert walk.counts["checks"]
