"""The copy elsewhere, on a real S3 server with TLS; and a machine that is lost, rebuilt from it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.stack.backups import health, inside, listing, ok, settled, stored
from tests.stack.s3 import OWNER_LOST, serve
from tests.stack.stacks import Clone, run, wait_until
from tests.stack.test_backup import Writer

# BACKUP_S3_EVERY: seconds of writes that may be lost with the machine.
EVERY = 20
# An upload that was cut short.
CUT_SHORT = """
from backup.bucket import BUCKET, rclone
rclone("copyto", f"{BUCKET}/identity.json", f"{BUCKET}/base/20200101T000000/data/PG_VERSION")
"""


@pytest.fixture(scope="module")
def bucket(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What an S3 server stores, whose settings the clone has."""
    clone.compose("build", "--quiet", "backup")
    with serve(f"{clone.project}-s3", f"{clone.project}-backup", tmp_path_factory.mktemp("s3")) as server:
        with (clone.folder / ".env").open("a") as dotenv:
            dotenv.write(f"{server.settings}BACKUP_S3_EVERY={EVERY}\n")
        yield server.data
        # Its containers are on the network.
        clone.remove()


def copied(clone: Clone) -> datetime:
    """When the last copy was made, and was well."""
    state = json.loads(inside(clone, "sh", "-c", "cat /backup/18/stack/offsite.json || echo {}"))
    return datetime.fromisoformat(state["at"]) if state.get("ok") else datetime.min.replace(tzinfo=UTC)


def test_machine_lost(clone: Clone, bucket: Path) -> None:
    """Rebuilt from the bucket and the keys alone: at most BACKUP_S3_EVERY lost; nothing legible was ever there."""
    up = ok(clone.stack("up"))
    assert "share the server's disk" not in up
    wait_until(lambda: bool(listing(clone)))
    with Writer(clone) as writer:
        wait_until(lambda: len(writer.acknowledged) > 20)
        ok(clone.stack("backup"))
        begun = datetime.now(UTC)
        wait_until(lambda: copied(clone) > begun)
        wait_until(lambda: (datetime.now(UTC) - begun).total_seconds() > EVERY)
        # All at once: what is stopped first must not be the writer.
        run("docker", "kill", *clone.compose("ps", "--quiet").split())
        lost_at = datetime.now(UTC)
    files = [path for path in bucket.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert not [path for path in files if "base" in path.name or b"one of many" in path.read_bytes()]

    clone.compose("down", "--volumes", "--timeout", "1")
    # Killed while it fetches, at whatever moment that is: the next one goes on.
    argv = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "timeout", "backup", "-s", "KILL", "1.5")
    clone.compose(*argv, "python", "-m", "backup", "plan", "latest", check=False)
    restored = ok(clone.stack("restore", "--to", "latest", "--yes"))
    assert "Restored to the newest that was received" in restored
    there = stored(clone)
    assert there
    lost = [asked for number, (asked, _) in writer.acknowledged.items() if number not in there]
    assert not lost or (lost_at - min(lost)).total_seconds() <= EVERY
    inside(clone, "python", "-c", OWNER_LOST)
    wait_until(lambda: health(clone) == "healthy")


@pytest.mark.long
@pytest.mark.usefixtures("bucket")
def test_backup_volume_lost(clone: Clone) -> None:
    """The history is in the bucket, stays there, and can be restored from there."""
    with clone.client() as client:
        assert client.post("/notes", json={"text": "of old"}).status_code == 201
        wait_until(lambda: settled(clone) and copied(clone) > datetime.fromisoformat(listing(clone)[0]["ended"]))
        target, begun, there = str(datetime.now(UTC)), datetime.now(UTC), stored(clone)
        assert client.post("/notes", json={"text": "of now"}).status_code == 201
    wait_until(lambda: copied(clone) > begun + timedelta(seconds=EVERY))
    history = elsewhere(clone)
    assert history
    clone.compose("rm", "--stop", "--force", "backup")
    run("docker", "volume", "rm", f"{clone.project}_backup")
    clone.compose("up", "--detach", "--no-deps", "backup")
    inside(clone, "python", "-c", OWNER_LOST)
    wait_until(lambda: health(clone) == "healthy" and bool(listing(clone)))
    wait_until(lambda: sent(clone) == {one["name"] for one in listing(clone)})
    assert history <= elsewhere(clone)
    inside(clone, "python", "-c", CUT_SHORT)
    ok(clone.stack("restore", "--to", target, "--yes"))
    assert stored(clone) == there
    assert "20200101T000000" not in inside(clone, "ls", "/backup/18/base").split()
    wait_until(lambda: settled(clone) and health(clone) == "healthy")


def elsewhere(clone: Clone) -> set[str]:
    """The bucket's files of base backups and of the WAL, by their own names."""
    program = (
        "from backup import offsite\n"
        "for folder in ('base', 'wals'): print(offsite.rclone('lsf', '-R', f'{offsite.BUCKET}/{folder}'))"
    )
    return set(inside(clone, "python", "-c", program).split()) - {"main-xlog.db"}


def sent(clone: Clone) -> set[str]:
    """The backups that the service has copied elsewhere."""
    state = json.loads(inside(clone, "sh", "-c", "cat /backup/18/stack/sent-backups.json || echo {}"))
    return set(state.get("names", []))


@pytest.mark.long
def test_bucket_that_is_away(clone: Clone, bucket: Path) -> None:
    """A copy that can't be made is loud, and heals by itself."""
    server = f"{clone.project}-s3"
    run("docker", "stop", "--timeout", "1", server)
    with clone.client() as client:
        client.post("/notes", json={"text": "to be copied"})
    wait_until(lambda: health(clone) == "unhealthy")
    assert "elsewhere failed" in inside_health(clone)
    run("docker", "start", server)
    wait_until(lambda: health(clone) == "healthy")


def inside_health(clone: Clone) -> str:
    argv = ("exec", "-T", "backup", "healthy")
    return clone.compose(*argv, check=False)
