"""A restore that is stopped on its way: the database is whole, as it was before or as it was to be."""

import re
import signal

import pytest

from ops.database.major import WAY_BACK
from tests.stack.backups import inside, is_well, ok, served_volume, settled, stored, two_notes, used_volume
from tests.stack.stacks import Clone, run, wait_until


def archive_two(clone: Clone) -> str:
    """Fill two segments with a bit; the path of the first of them in the archive."""
    program = "from backup.server import barman; barman('switch-wal', '--force', '--archive', 'main')"
    for _ in range(3):
        inside(clone, "python", "-c", program)
    return inside(clone, "sh", "-c", "ls /backup/18/wals/*/* | grep -v history | sort | tail -3").split()[0]


@pytest.mark.long
@pytest.mark.parametrize("damage", ["rm", "truncate -s 3000"])
def test_hole_in_the_wal(backed_up: Clone, damage: str) -> None:
    """A segment that is gone, or can't be read: what comes after it can't be restored, and that is said."""
    two_notes(backed_up)
    segment = archive_two(backed_up)
    target = two_notes(backed_up)
    there = stored(backed_up)
    inside(backed_up, "sh", "-c", f"{damage} {segment}")
    for to in (target, "latest"):
        done = backed_up.stack("restore", "--to", to, "--yes")
        assert done.returncode == 1
        assert segment[-24:] in done.stderr
        assert stored(backed_up) == there
        assert is_well(backed_up)
    ok(backed_up.stack("backup", "--full"))
    ok(backed_up.stack("verify"))


def test_back_to_the_old_volume(backed_up: Clone) -> None:
    """By hand, as the restore said that it could be: the backups follow, and "latest" is what was written since."""
    before, target = used_volume(backed_up), two_notes(backed_up)
    there = stored(backed_up)
    ok(backed_up.stack("restore", "--to", target, "--yes"))
    wait_until(lambda: settled(backed_up))
    assert stored(backed_up) != there
    dotenv = backed_up.env_file.read_text()
    # One that was copied over has no line of the command's.
    backed_up.env_file.write_text(re.sub("(?m)^(POSTGRES_VOLUME|RELEASE)=.*$", "", dotenv))
    restored = stored(backed_up)
    # One that somebody has started by hand changes nothing in that.
    labels = {"project": backed_up.project, "service": "by-hand", "oneoff": "False"}
    named = [f"--label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    by_hand = run("docker", "run", "--detach", "--entrypoint", "sleep", *named, f"{backed_up.project}-postgres", "600")
    done = backed_up.stack("up")
    run("docker", "rm", "--force", "--volumes", by_hand.strip())
    assert done.returncode == 2
    assert "POSTGRES_VOLUME is not set any more, and this stack served from " in done.stderr
    assert stored(backed_up) == restored
    backed_up.env_file.write_text(re.sub("(?m)^POSTGRES_VOLUME=.*$", f"POSTGRES_VOLUME={before}", dotenv))
    ok(backed_up.stack("up"))
    assert stored(backed_up) == there
    two_notes(backed_up)
    assert "is good" in ok(backed_up.stack("verify"))
    newest = stored(backed_up)
    ok(backed_up.stack("restore", "--to", "latest", "--yes"))
    assert stored(backed_up) == newest


def test_postgres_that_does_not_start(backed_up: Clone) -> None:
    """A restore that builds another Postgres, which ends: what served serves again, of the image that it had."""
    target = two_notes(backed_up)
    there, before = stored(backed_up), {name: one["Image"] for name, one in backed_up.containers().items()}
    dockerfile = backed_up.folder / "postgres/Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good + 'CMD ["false"]\n')
    try:
        done = backed_up.stack("restore", "--to", target, "--yes")
    finally:
        dockerfile.write_text(good)
    assert done.returncode == 1
    assert "==> Go back to the old volume: " in done.stderr
    assert {name: one["Image"] for name, one in backed_up.containers().items()} == before
    assert is_well(backed_up)
    assert stored(backed_up) == there
    assert WAY_BACK not in run("docker", "image", "ls", f"{backed_up.project}-*")
    ok(backed_up.stack("up"))
    assert stored(backed_up) == there


def test_volume_that_is_named_and_not_in_use(backed_up: Clone) -> None:
    """A restore would take it for what serves, and go back to it: it is refused before anything is touched."""
    there, env = stored(backed_up), backed_up.env_file.read_text()
    try:
        backed_up.env_file.write_text(f"{env}\nPOSTGRES_VOLUME={backed_up.project}_mistyped\n")
        for verb in (("restore", "--to", "latest", "--yes"), ("deploy",)):
            done = backed_up.stack(*verb)
            assert done.returncode == 2
            assert f"Postgres runs on another volume than {backed_up.project}_mistyped, which .env" in done.stderr
    finally:
        backed_up.env_file.write_text(env)
    assert stored(backed_up) == there
    assert is_well(backed_up)


@pytest.mark.long
def test_nothing_answers_on_the_old_volume_either(backed_up: Clone) -> None:
    """An interrupted restore goes back as far as it can, and is over: another one runs."""
    two_notes(backed_up)
    wait_until(lambda: settled(backed_up))
    there = stored(backed_up)
    # Postgres runs on, and will not start again.
    spoil = 'echo "nonsense = 1" >> "$PGDATA/postgresql.auto.conf"'
    backed_up.compose("exec", "-T", "--user", "postgres", "postgres", "sh", "-c", spoil)
    done = backed_up.interrupted(signal.SIGINT, "==> Stop Postgres", "restore", "--to", "latest", "--yes")
    assert done.returncode == 130
    assert "is in use again: `./stack up` tries again." in done.stderr
    ok(backed_up.stack("restore", "--to", "latest", "--yes"))
    assert stored(backed_up) == there
    assert is_well(backed_up)


def test_setting_that_is_wrong(backed_up: Clone) -> None:
    """It is refused before anything is stopped."""
    target, before = two_notes(backed_up), backed_up.compose("ps", "--quiet")
    for setting, sentence in (("APP", "APP=nosuch:app is wrong: "), ("WORKERS", "Set WORKERS=")):
        value = {"APP": "nosuch:app", "WORKERS": "50"}[setting]
        done = backed_up.stack("restore", "--to", target, "--yes", **{setting: value})
        assert (done.returncode, sentence in done.stderr) == (2, True)
    assert backed_up.compose("ps", "--quiet") == before


@pytest.mark.long
def test_way_back_is_with_what_served(backed_up: Clone) -> None:
    """A setting that nobody can try before breaks the start on the new volume: the old one serves, as it was served.

    And whoever is killed on that way goes it to its end: nobody goes on to the new volume then.
    """
    target = two_notes(backed_up)
    there, good = stored(backed_up), backed_up.env_file.read_text()
    backed_up.env_file.write_text(f"{good}MIGRATE=false\n")
    done = backed_up.stack("restore", "--to", target, "--yes")
    assert done.returncode == 1
    assert "==> Go back to the old volume: " in done.stderr
    assert is_well(backed_up)
    assert stored(backed_up) == there

    backed_up.interrupted(signal.SIGKILL, "stays: Postgres ran on it", "restore", "--to", target, "--yes")
    # What its restore has written there stays.
    backed_up.env_file.write_text(backed_up.env_file.read_text().replace("MIGRATE=false\n", ""))
    assert "did not come to its end: back to " in backed_up.stack("up").stderr
    assert is_well(backed_up)
    assert stored(backed_up) == there
    assert served_volume(backed_up) == used_volume(backed_up)


@pytest.mark.long
def test_revision_that_the_release_does_not_know(backed_up: Clone) -> None:
    """A schema that is newer than the code, as after a rollback: a warning each time, and the database comes back."""
    wait_until(lambda: settled(backed_up))
    backed_up.psql("UPDATE alembic_version SET version_num = 'f00'")
    backed_up.psql("COMMENT ON TABLE alembic_version IS 'Contains the revisions 0001 f00'")
    there = stored(backed_up)
    warning = "The schema is at revision f00, which the release "
    done = backed_up.stack("verify")
    assert done.returncode == 0
    assert warning in done.stderr
    done = backed_up.stack("restore", "--to", "latest", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"But          {warning}" in done.stdout
    assert warning in done.stderr
    assert stored(backed_up) == there
