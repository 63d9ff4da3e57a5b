"""The steps of a walk: the operator's verbs, and what comes from outside."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from tests.stack.backups import listing
from tests.stack.ledger import FOREVER, now
from tests.stack.s3 import OWNER_LOST
from tests.stack.stacks import inspect, prune, run, wait_until
from tests.stack.walk import EVERY, Walk

# Seconds of acknowledged writes that may be lost with Postgres's disk.
PROMISE = timedelta(seconds=5)
# What a release before can live with.
MIGRATION = """
from alembic import op

revision = "{name}"
down_revision = "{head}"


def upgrade():
    op.execute("ALTER TABLE notes ADD COLUMN walked_{name} integer")
"""
# Programs for the backup service's container.
FILL = """
with open("/backup/filler", "wb", buffering=0) as file:
    while True: file.write(bytes(2**20))
"""
DELETE_OLDEST = """
full = [one.name for one in catalog.backups() if one.kind == "full"]
if len(full) > 1: server.barman("delete", "main", full[0])
"""
COPIED = """
done = all(server.recall(name).get("ok") for name in ("offsite", "upload"))
sent = server.recall("sent-backups").get("names", [])
print(server.recall("offsite").get("at") if done and len(sent) == len(catalog.backups()) else "")
"""


# The verbs


def backup(walk: Walk) -> None:
    walk.stack("backup", *walk.dice.choice(((), ("--full",), ("--fast",))))
    walk.unchanged()


def deploy(walk: Walk) -> None:
    walk.commits += 1
    walk.repository.commit(**{"app__walked.py": f"# {walk.commits}\n"})
    walk.well("deploy")
    walk.unchanged()


def deploy_with_migration(walk: Walk) -> None:
    versions = walk.repository.folder / "migrations/versions"
    head = max(path.name[:4] for path in versions.glob("[0-9]*_*.py"))
    name = f"{int(head) + 1:04}"
    text = MIGRATION.format(name=name, head=head)
    walk.repository.commit(**{f"migrations__versions__{name}_walked.py": text})
    walk.well("deploy")
    walk.unchanged()


def rollback(walk: Walk) -> None:
    code, lines = walk.stack("rollback")
    assert code in (0, None, 130) or "no earlier release" in lines[-1][1], lines
    if code is None:
        walk.well("up")
    walk.unchanged()


def up(walk: Walk) -> None:
    walk.well("up")
    walk.unchanged()


def down_and_up(walk: Walk) -> None:
    walk.repository.compose("down", "--timeout", "10")
    walk.well("up")
    walk.unchanged()


def bucket_on_or_off(walk: Walk) -> None:
    on = walk.has_bucket
    walk.settings(("BACKUP_S3_", "BACKUP_NETWORK="), "" if on else f"{walk.server.settings}BACKUP_S3_EVERY={EVERY}\n")
    walk.well("up")
    walk.unchanged()


# Restores


def restore_latest(walk: Walk) -> None:
    walk.restored(["latest"], walk.ledger.epochs[-1], FOREVER, FOREVER)


def restore_time(walk: Walk) -> None:
    """Some moment of the past, often near an epoch's beginning or end, the present, or the last one asked for."""
    epochs, dice = walk.ledger.epochs, walk.dice
    epoch = dice.choice(epochs)
    begun = [one.begun for one in epochs] + [now()]
    ended = begun[epochs.index(epoch) + 1]
    # From when it could be written to.
    first = min((one.answered for one in epoch.writes), default=epoch.begun)
    span = max(ended - first, timedelta(0))
    moment = dice.choice(
        [
            first + span * dice.random(),
            first + timedelta(seconds=dice.random() * 2),
            ended - timedelta(seconds=dice.random() * 2),
            now() - timedelta(seconds=dice.random() * 5),
            *walk.targets[-1:],
        ]
    )
    restore_moment(walk, moment)


def restore_moment(walk: Walk, moment: datetime) -> None:
    walk.targets.append(moment)
    zone = timezone(timedelta(hours=walk.dice.randrange(-11, 13)))
    to = moment.astimezone(zone).isoformat(sep=walk.dice.choice(" T"))
    walk.restored([to], walk.ledger.epoch_at(moment), moment, moment)


def restore_name(walk: Walk) -> None:
    walk.settle()
    one = walk.dice.choice(listing(walk.repository))
    ended = datetime.fromisoformat(one["ended"]) + timedelta(seconds=1)
    begun = ended - timedelta(seconds=one["seconds"] + 2)
    walk.restored([one["name"]], walk.ledger.epoch_at(begun), begun, ended)


def restore_while_backups_expire(walk: Walk) -> None:
    """The oldest is removed, as once a day, at some moment of the command's beginning."""
    delay = walk.dice.random() * 8
    removing = threading.Timer(delay, walk.backup_service, (DELETE_OLDEST, False))
    removing.start()
    try:
        restore_time(walk)
    finally:
        removing.join()


# What comes from outside


def kill_postgres(walk: Walk) -> None:
    container = walk.repository.container("postgres")
    before = inspect(container)["RestartCount"]
    os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: inspect(container)["RestartCount"] > before)
    walk.ledger.wait_for_writes(1)
    walk.unchanged()


def kill_backup(walk: Walk) -> None:
    """It stays away, as after `docker kill`, or comes back by its restart policy."""
    container = walk.repository.container("backup")
    if walk.dice.random() < 0.5:
        run("docker", "kill", container, check=False)
    elif inspect(container)["State"]["Running"]:
        os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
    walk.ledger.wait_for_writes(50)


def kill_receiver(walk: Walk) -> None:
    lines = run("docker", "top", walk.repository.container("backup"), "-o", "pid,args", check=False).splitlines()
    for line in lines:
        if "bin/pg_receivewal" in line:
            os.kill(int(line.split()[0]), signal.SIGKILL)


def fill_backup_volume(walk: Walk) -> None:
    """The app goes on; a restore to before that is what it says, or refused; with room again nothing is missing."""
    walk.settle()
    before = now()
    walk.ledger.wait_for_writes(10)
    said = walk.backup_service(FILL, check=False)
    assert "No space left" in said
    walk.ledger.wait_for_writes(100)
    if walk.dice.random() < 0.5:
        restore_moment(walk, before)
    else:
        backup(walk)
    (walk.disk / "filler").unlink()
    walk.settle()
    walk.unchanged()


def lose_disk(walk: Walk) -> None:
    """Postgres's volume is destroyed: the newest that was received comes back, at most PROMISE before."""
    walk.settle()
    [volume] = [
        mount["Name"]
        for mount in walk.repository.containers()["postgres"]["Mounts"]
        if mount["Destination"] == "/var/lib/postgresql"
    ]
    first = walk.ledger.epochs[-1]
    os.kill(inspect(walk.repository.container("postgres"))["State"]["Pid"], signal.SIGKILL)
    lost = now()
    walk.repository.compose("rm", "--stop", "--force", "postgres")
    run("docker", "volume", "rm", volume)
    walk.calm = True
    walk.restored(["latest"], first, lost - PROMISE, FOREVER)
    walk.calm = False


def move(walk: Walk) -> None:
    """The whole machine is lost once all is in the bucket: a new one has all of it, however often it is interrupted."""
    if not walk.has_bucket:
        bucket_on_or_off(walk)
    walk.settle()
    walk.ledger.pause()
    # The second one began after that.
    copies: list[str] = []

    def copied_twice() -> bool:
        at = walk.backup_service(COPIED, check=False).strip()
        if at.startswith("20") and at not in copies:
            copies.append(at)
        return len(copies) > 2

    # The first copy is of all that there is.
    wait_until(copied_twice, 600)
    since = now()
    repository = walk.repository
    repository.compose("down", "--volumes", "--timeout", "1")
    label = f"label=com.docker.compose.project={repository.project}"
    prune("volume", label, "--all")
    for path in walk.disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(repository.folder / ".stack")
    walk.settings(("POSTGRES_VOLUME=", "RELEASE="))
    walk.make_backup_volume()
    code, _ = walk.stack("up")
    assert code in (None, 130, 2), code
    walk.well("restore", "--to", "latest", "--yes")
    walk.same(walk.ledger.wrong(walk.ledger.epochs[-1], FOREVER, FOREVER))
    walk.ledger.divide(since)
    walk.backup_service(OWNER_LOST)
    walk.ledger.go_on()


STEPS: dict[Callable[[Walk], None], int] = {
    backup: 3,
    restore_latest: 2,
    restore_time: 5,
    restore_name: 2,
    restore_while_backups_expire: 1,
    deploy: 1,
    deploy_with_migration: 1,
    rollback: 1,
    up: 1,
    down_and_up: 1,
    bucket_on_or_off: 1,
    kill_postgres: 1,
    kill_backup: 2,
    kill_receiver: 1,
    fill_backup_volume: 1,
    lose_disk: 1,
    move: 1,
}
