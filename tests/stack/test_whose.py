"""Whoever may use Docker: root in a user's folder, that user after root, and a user in a folder of root's."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.backups import ok
from tests.stack.stacks import CLEAN, Clone, run
from tests.stack.test_refusals import python_for_anyone

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
SOCKET = Path("/var/run/docker.sock")
# Nobody's in /etc/passwd.
SOMEBODY = 54321


@pytest.fixture(scope="module")
def shared() -> Iterator[Clone]:
    """A clone where any user may come."""
    folder = Path("/tmp") / f"stack-of-somebody-{os.getpid()}"  # noqa: S108 - pytest's folders are closed to others
    folder.mkdir()
    clone = Clone(folder, "whose")
    clone.remove()
    try:
        yield clone
    finally:
        clone.remove()
        shutil.rmtree(folder)


def give(clone: Clone, user: int) -> None:
    for path in [clone.folder, *clone.folder.rglob("*")]:
        os.chown(path, user, user)


def somebody(clone: Clone, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `./stack` as a user of whom nothing is known, but for the group that may use Docker."""
    done = subprocess.run(
        [python_for_anyone(), "stack", *words],
        cwd=clone.folder,
        user=SOMEBODY,
        group=SOMEBODY,
        extra_groups=[SOCKET.stat().st_gid],
        env={**CLEAN, "HOME": str(clone.folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(*words, done.stdout, done.stderr, sep="\n")
    return done


def test_root_and_the_owner_in_turn(shared: Clone) -> None:
    """What root made in a user's folder is the user's: each goes on where the other stopped."""
    give(shared, SOMEBODY)
    ok(shared.stack("up"))
    for words in ("deploy", "releases", "up", "backups", "plan"):
        ok(somebody(shared, *words.split()))
    ok(shared.stack("deploy"))
    ok(somebody(shared, "deploy"))
    assert {path.stat().st_uid for path in (shared.folder / ".stack").rglob("*")} == {SOMEBODY}


@pytest.mark.long
def test_revision_for_a_folder_of_roots(shared: Clone) -> None:
    """Nothing is compared whose result could not be written."""
    give(shared, SOMEBODY)
    versions = shared.folder / "migrations/versions"
    os.chown(versions, 0, 0)
    versions.chmod(0o755)
    done = somebody(shared, "migration", "nothing")
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"{versions} belongs to root, and uid {SOMEBODY} may not read or write it. Run this as root.\n"
    )
    assert "==> Migrate" not in done.stderr


@pytest.mark.parametrize("closed", [".env", ".stack", ""])
def test_folder_of_roots(shared: Clone, closed: str) -> None:
    """A user who may use Docker, and not these files, is told whose they are; nothing has begun."""
    if not (shared.folder / ".stack").exists():
        ok(shared.stack("up"))
    give(shared, 0)
    run("chmod", "-R", "a+rX", str(shared.folder))
    (shared.folder / closed).chmod(0o700 if closed else 0o755)
    before = {name: one["Id"] for name, one in shared.containers().items()}
    for verb in ("deploy", "up", "rollback", *(["releases", "backups"] if closed else [])):
        done = somebody(shared, verb)
        path = shared.folder / closed
        sentence = f"{path} belongs to root, and uid {SOMEBODY} may not read or write it. Run this as root.\n"
        assert (done.returncode, done.stderr[-len(sentence) :]) == (1, sentence)
        assert "Traceback" not in done.stderr
        assert "==>" not in done.stderr
    assert {name: one["Id"] for name, one in shared.containers().items()} == before
