"""An app that takes long to start: `./stack up` waits for it as long as a deploy does."""

import pytest

from tests.stack.stacks import Clone

SLOW = """
import asyncio
import contextlib

from fastapi import FastAPI


@contextlib.asynccontextmanager
async def lifespan(app):
    await asyncio.sleep({seconds})
    yield


app = FastAPI(lifespan=lifespan)
"""
# A worker whose own check is well when it has run for as long.
WORKER = """
services:
  worker:
    extends: {{file: process.yaml, service: process}}
    command: [sh, -c, "sleep {seconds}; touch /tmp/up; exec sleep 9999"]
    healthcheck: {{test: [CMD, test, -e, /tmp/up]}}
"""


def slow(clone: Clone, seconds: int) -> None:
    (clone.folder / "app/main.py").write_text(SLOW.format(seconds=seconds))
    (clone.folder / "compose.override.yaml").write_text(WORKER.format(seconds=seconds))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_up_gives_up_when_a_deploy_would(clone: Clone) -> None:
    """Not ready within DEPLOY_TIMEOUT is a sentence that names it, and nothing half-started is left."""
    slow(clone, 120)
    done = clone.stack("up", DEPLOY_TIMEOUT="30")
    assert done.returncode == 1
    assert "app-1 was not ready within DEPLOY_TIMEOUT=30 s." in done.stderr
    assert clone.left_behind() == ""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_up_waits_for_as_long_as_a_deploy(clone: Clone) -> None:
    """160 s of a lifespan, and of a worker's own check, with DEPLOY_TIMEOUT=200: plain Compose and `up` both wait."""
    slow(clone, 160)
    with clone.env_file.open("a") as env:
        env.write("DEPLOY_TIMEOUT=200\n")
    done = clone.stack("up")
    assert done.returncode == 0, done.stderr
    clone.compose("restart", "--timeout", "1", "worker")
    clone.compose("up", "--detach", "--wait", "worker")
