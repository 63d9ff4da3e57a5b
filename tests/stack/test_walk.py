"""The verbs in any order: what was acknowledged is there, or was given up by name.

WALK_SEED chooses the way, WALK_SECONDS how long.
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.backups import listing, ok
from tests.stack.ledger import Ledger
from tests.stack.stacks import Repository, wait_until
from tests.stack.walk import Walk


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "walk", "walk")
    repository.remove()
    try:
        ok(repository.stack("up"))
        wait_until(lambda: bool(listing(repository)), 90)
        yield repository
    finally:
        repository.remove()


@pytest.mark.parametrize(
    "seconds", [pytest.param(150, id="short"), pytest.param(1200, id="long", marks=pytest.mark.long)]
)
@pytest.mark.timeout(2400)
def test_walk(walked: Repository, seconds: int) -> None:
    """For so long, step by step."""
    seed = int(os.environ.get("WALK_SEED") or random.randrange(10**6))  # noqa: S311
    print(f"WALK_SEED={seed}")
    begun, seconds = time.monotonic(), int(os.environ.get("WALK_SECONDS") or seconds)
    with Ledger(walked) as ledger:
        walk = Walk(walked, ledger, seed)
        ledger.wait_for_writes(20)
        while time.monotonic() - begun < seconds:
            walk.step()
        print(f"WALK_SEED={seed}: {walk.report()}")
        assert walk.counts["checks"]
