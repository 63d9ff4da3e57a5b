"""One bucket, and who else comes to it: a new machine, a recovery drill, somebody who deletes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.backups import health, said
from tests.stack.databases import Database
from tests.stack.s3 import OWNER_LOST, Server, serve
from tests.stack.stacks import run, wait_until
from tests.stack.test_backup_schedule import AGE

pytestmark = pytest.mark.timeout(900)

# As if the hour had passed.
LOOK_AGAIN = """
for name in ("sent-wal", "sent-backups"):
    server.remember(name, **{**server.recall(name), "checked": "2026-01-01T00:00:00+00:00"})
"""
DELETE_A_THIRD = """
from backup import bucket
names = bucket.rclone("lsf", "--recursive", "--files-only", "away:").splitlines()
bucket.rclone("delete", "--files-from-raw=-", "away:", input="\\n".join([*sorted(names)[::3], ""]))
"""
# A restore that is told to end when the bucket's backups have taken the place of the others.
ENDED = """
import os, signal
from backup import restore, server
server.configure(14)
restore.restored = lambda to: os.kill(os.getpid(), signal.{})
restore.main("latest", "bucket")
"""
# A copy to a bucket that nobody has made.
ELSEWHERE = """
import os
from backup import bucket
os.environ["BACKUP_S3_BUCKET"] = "nosuch"
try:
    bucket.rclone("rcat", f"{bucket.BUCKET}/file", input="text")
except server.Failure as failure:
    print("ended:", failure)
"""
# What must be there, by its own name.
THERE = """
from backup import bucket
for folder in ("base", "wals", "meta", "tail", "stack", "identity.json", "owner.json"):
    print(*bucket.files(folder), sep="\\n")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bucket's server, and what every database here needs to use it."""
    builder = Database(tmp_path_factory.mktemp("s3-image"), "bucket-image")
    builder.compose("build", "--quiet", "backup")
    try:
        with serve(f"{builder.project}-s3", f"{builder.project}-backup", tmp_path_factory.mktemp("s3")) as server:
            yield server
    finally:
        builder.remove()


def database(name: str, folder: Path, server: Server) -> Iterator[Database]:
    made = Database(folder, name)
    with made.env_file.open("a") as dotenv:
        dotenv.write(f"{server.settings}BACKUP_S3_EVERY=10\n")
    made.remove()
    try:
        made.begin()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def production(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from database("bucket", tmp_path_factory.mktemp("production"), server)


@pytest.fixture(scope="module")
def machine(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Another one with the same settings, which was begun with an empty database."""
    yield from database("bucket-other", tmp_path_factory.mktemp("machine"), server)


@pytest.fixture(scope="module")
def copy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Another machine, which has only its images."""
    made = Database(tmp_path_factory.mktemp("copy"), "bucket-copy")
    with made.env_file.open("a") as dotenv:
        dotenv.write(f"{server.settings}BACKUP_S3_EVERY=10\n")
    made.remove()
    try:
        made.compose("build", "--quiet", "postgres", "backup")
        yield made
    finally:
        made.remove()


def complete(one: Database) -> bool:
    """Whether all that the service has is in the bucket, as it last saw."""
    copied = one.python("print(all(server.recall(name).get('ok') for name in ('offsite', 'upload')))")
    sent = one.python("print(len(server.recall('sent-backups').get('names', [])))")
    return copied.strip() == "True" and int(sent) == len(one.verb("list"))


def names(one: Database) -> set[str]:
    """The bucket's files, but for those that come and go."""
    return {name for name in one.python(THERE).split() if not name.startswith("tail/")}


def test_emptied_and_partly_deleted(production: Database) -> None:
    """What was sent is looked for there, said when it is gone, and sent again; loud while it can't be."""
    wait_until(lambda: complete(production))
    before = names(production)
    production.python("from backup import bucket; bucket.rclone('delete', 'away:')")
    wait_until(lambda: "sent again: 1 backup(s)." in production.compose("logs", "backup"))

    def healed() -> bool:
        # Its next look may have been before the last was deleted.
        production.python(LOOK_AGAIN)
        here = production.compose("exec", "-T", "backup", "find", "/backup/18", "-type", "f", "-printf", "%P\\n")
        # But for the log of before the first backup, which is kept nowhere.
        return not (before & set(here.split())) - names(production)

    wait_until(healed)
    production.python(DELETE_A_THIRD)
    wait_until(healed)
    wait_until(lambda: health(production) == "healthy")


def test_no_bucket_is_made(production: Database, server: Server) -> None:
    """One that is not there is an error: keys for one bucket alone may neither make another nor list them."""
    assert "ended: " in production.python(ELSEWHERE)
    assert [path.name for path in server.data.iterdir()] == ["backups"]


@pytest.mark.long
def test_new_machine_and_drill(production: Database, request: pytest.FixtureRequest) -> None:
    """Two databases are never mixed, and one that has an owner is left alone, until the owner is lost."""
    wait_until(lambda: complete(production))
    early = production.write(1, 2)
    production.write(3)
    wait_until(lambda: production.plan("latest")["warnings"] == [])
    identity = production.verb("bucket")["local_identity"]
    wait_until(lambda: (production.verb("bucket")["newest"] or "") > early.replace(" ", "T"))

    # Begun with an empty database, and backed up: never into the same place.
    machine: Database = request.getfixturevalue("machine")
    machine.write(100)
    wait_until(lambda: health(machine) == "unhealthy")
    assert "The bucket holds backups of another database" in said(machine)
    found = machine.verb("bucket")
    assert (found["configured"], found["identity"], found["backups"]) == (True, identity, 1)
    assert found["owner"]["project"] == production.project
    own = found["local_identity"]
    assert own != identity
    assert "`./stack restore --bucket --to latest` brings that one back" in machine.plan("latest")["warnings"][0]
    assert "`./stack restore --bucket --to latest` brings that one back" in machine.refused(early)
    # What another bucket's backups left there, which were fetched and not taken.
    machine.compose("exec", "-T", "backup", "cp", "-r", "/backup/18", "/backup/18.fetched", check=False)
    plan = machine.plan("latest", "bucket")
    assert plan["backup"] in {one["name"] for one in production.verb("list")}
    assert "may be missing" in plan["warnings"][0]
    # Nothing has been changed by it.
    assert machine.verb("bucket")["local_identity"] == own
    # Nor by a restore that fails, or is stopped.
    assert machine.recover("nonsense", "bucket").returncode == 1
    assert machine.alone("bucket")["local_identity"] == own
    argv = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "backup", "-c")
    assert "The restore was stopped." in machine.compose(*argv, ENDED.format("SIGTERM"), check=False)
    assert machine.alone("bucket")["local_identity"] == own
    # Who is killed can't undo anything: the service does, once the database runs that the backups are of.
    machine.compose(*argv, ENDED.format("SIGKILL"), check=False)
    assert machine.alone("bucket")["local_identity"] == identity
    machine.start()
    wait_until(lambda: machine.verb("bucket")["local_identity"] == own)
    restored = machine.restore("latest", "bucket")
    assert machine.notes() == {1, 2, 3}
    assert (
        f"The backups of the database {own} are now in the backup volume's folder 18-{own}-" in restored["warnings"][0]
    )

    # Now it is a drill: the same database, the same bucket, another volume.
    machine.write(101)
    wait_until(lambda: health(machine) == "unhealthy" and "is in use by the project" in said(machine))
    assert production.project in said(machine)
    wait_until(lambda: machine.verb("list")[0]["timeline"] == 2)
    assert not [name for name in names(production) if "/00000002" in name]
    assert production.verb("bucket")["owner"]["project"] == production.project
    assert health(production) == "healthy"

    # Production is lost: its place is taken, and it stands back when it returns.
    run("docker", "kill", production.container("backup"))
    machine.python(OWNER_LOST)
    wait_until(lambda: machine.verb("bucket")["owner"]["project"] == machine.project)
    assert "taken over" in machine.compose("logs", "backup")
    wait_until(lambda: complete(machine) and health(machine) == "healthy")
    production.compose("start", "backup")
    wait_until(lambda: health(production) == "unhealthy")
    assert "Another stack has taken this bucket over, so this one stopped copying." in said(production)

    # And the other way round: what the other one wrote on a timeline of its own is not this one's.
    run("docker", "kill", machine.container("backup"))
    production.python(OWNER_LOST)
    wait_until(lambda: production.verb("bucket")["owner"]["project"] == production.project)
    wait_until(lambda: complete(production) and health(production) == "healthy")
    assert not [name for name in names(production) if "/00000002" in name]


@pytest.mark.long
def test_copy_of_the_machine(production: Database, copy: Database) -> None:
    """A snapshot of all volumes that is started elsewhere never writes there, while production goes on."""
    wait_until(lambda: complete(production) and health(production) == "healthy", 120)
    copy.compose("up", "--no-start", "--no-deps", "postgres", "backup")
    # What a provider's snapshot holds is of one moment.
    production.compose("stop", "backup", "postgres")
    for volume in ("postgres-data", "backup"):
        mounts = (f"--volume={production.project}_{volume}:/from:ro", f"--volume={copy.project}_{volume}:/to")
        rights = ("--rm", "--user", "root", "--entrypoint", "cp", *mounts)
        run("docker", "run", *rights, f"{copy.project}-postgres", "-a", "/from/.", "/to")
    production.start()
    # The first sign may be the one that was about to be sent.
    for _ in range(2):
        wait_for_a_sign(production)
    copy.start()
    wait_until(lambda: health(copy) == "unhealthy" and ", on a copy of this machine" in said(copy), 120)
    for _ in range(2):
        wait_for_a_sign(production)
    assert health(production) == "healthy"
    assert copy.verb("bucket")["owner"]["project"] == production.project


def wait_for_a_sign(one: Database) -> None:
    """The owner's next sign of life."""

    def sign() -> str:
        return one.python("from backup import bucket; print(bucket.whose()[1]['sign'])")

    last = sign()
    wait_until(lambda: sign() != last, 120)


@pytest.mark.long
def test_what_no_restore_needs_is_removed_there(production: Database) -> None:
    """Once the backups here reach over all of BACKUP_KEEP_DAYS, and not before; also what is half removed."""
    gone = {one["name"] for one in production.verb("list")}
    kept, newest = (production.verb("backup", "full", "--immediate-checkpoint")["name"] for _ in range(2))
    wait_until(lambda: complete(production), 90)

    def there() -> set[str]:
        """The backups that are in the bucket, by what makes each one, or any of its files."""
        found = re.findall(r"(?m)^(?:base|meta|stack/folders)/(\w{15})", "\n".join(names(production)))
        return set(found) & {*gone, kept, newest}

    def look_the_next_day() -> None:
        production.python("server.remember('sent-backups', **{**server.recall('sent-backups'), 'day': ''})")
        wait_until(lambda: production.python("print(server.recall('sent-backups')['day'])").strip() != "", 60)

    # As if they had been too old for this volume.
    folders = [f"/backup/18/{part}" for one in gone for part in (f"base/{one}", f"meta/{one}-backup.info")]
    production.compose("exec", "-T", "backup", "rm", "-r", *folders)
    look_the_next_day()
    assert there() == {*gone, kept, newest}
    # As if a look had ended after its first step, or an upload before its last.
    production.python(f"from backup import offsite; offsite.remove(offsite.BUCKET, 'meta/{max(gone)}-backup.info')")
    before = segments(production)
    production.compose("exec", "-T", "backup", "python", "-c", AGE, "20", kept)
    look_the_next_day()
    assert there() == {kept, newest}
    assert not gone & set(production.compose("exec", "-T", "backup", "ls", "/backup/18/stack/folders").split())
    assert segments(production) < before


def segments(one: Database) -> set[str]:
    """The bucket's WAL."""
    return {name for name in names(one) if name.startswith("wals/") and "xlog" not in name}
