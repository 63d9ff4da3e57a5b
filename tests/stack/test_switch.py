"""A restore that is stopped on its way: back to what was, or on to what was asked for; never in between.

What was acknowledged since somebody could reach the app is there, whatever becomes of the command.
"""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.stack.backups import (
    health,
    is_well,
    listing,
    ok,
    served_volume,
    settled,
    stored,
    two_notes,
    used_volume,
    volumes,
)
from tests.stack.ledger import FOREVER, Ledger
from tests.stack.stacks import CLEAN, Clone, run, wait_until


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "copy the files"),
        (signal.SIGTERM, "copy the files"),
        (signal.SIGHUP, "==> Stop the slots"),
    ],
)
def test_interrupted_while_it_fills_goes_back(backed_up: Clone, number: signal.Signals, moment: str) -> None:
    """Ctrl-C, SIGTERM and a lost terminal, and again while it goes back: the old volume serves, no other is left."""
    target = two_notes(backed_up)
    before, there = volumes(backed_up), stored(backed_up)
    done = backed_up.interrupted(number, moment, "restore", "--to", target, "--yes", again=number != signal.SIGHUP)
    assert done.returncode == 130
    assert stored(backed_up) == there
    assert is_well(backed_up)
    assert volumes(backed_up) == before
    wait_until(lambda: health(backed_up) == "healthy")


@pytest.mark.long
def test_interrupted_while_the_slots_drain(backed_up: Clone) -> None:
    """They look well and are on their way out: they are started once they have ended, and serve."""
    target = two_notes(backed_up)
    before, there = volumes(backed_up), stored(backed_up)
    argv = ("restore", "--to", target, "--yes")
    done = backed_up.interrupted(
        signal.SIGINT, "==> Check the settings", *argv, then=lambda: wait_until(lambda: drains(backed_up))
    )
    assert done.returncode == 130
    assert is_well(backed_up)
    assert stored(backed_up) == there
    assert volumes(backed_up) == before


def drains(clone: Clone) -> bool:
    said = run("docker", "exec", clone.container("app-1"), "cat", "/tmp/.stack/workers", check=False)  # noqa: S108
    return "draining" in said


@pytest.mark.long
@pytest.mark.parametrize("moment", ["==> Start Postgres on it", "==> Start the slots"])
def test_interrupted_once_it_starts_goes_on(backed_up: Clone, moment: str) -> None:
    """Somebody may have written to it by then: it serves, with all that was acknowledged, and the backups follow."""
    target = two_notes(backed_up)
    with Ledger(backed_up) as ledger:
        ledger.wait_for_writes(10)
        done = backed_up.interrupted(signal.SIGINT, moment, "restore", "--to", target, "--yes")
        after = len(ledger.epochs[-1].writes)
        ledger.wait_for_writes(10)
        ledger.pause()
        marks = {one.mark for one in ledger.epochs[-1].writes[after:] if one.answered < FOREVER}
        # Not ledger.stored(): the other notes here are not the ledger's.
        assert marks
        assert marks <= set(backed_up.psql("SELECT text FROM notes").split())
    assert done.returncode == 0, done.stderr
    wait_until(lambda: settled(backed_up) and health(backed_up) == "healthy")


@pytest.mark.parametrize("moment", ["==> Stop the slots", "copy the files", "==> Start Postgres on it"])
def test_killed_restore(backed_up: Clone, moment: str) -> None:
    """kill -9: the next command goes back while the volume was being filled, and on from there."""
    target = two_notes(backed_up)
    there = stored(backed_up)
    before = volumes(backed_up)
    backed_up.interrupted(signal.SIGKILL, moment, "restore", "--to", target, "--yes")
    phase = json.loads((backed_up.folder / ".stack/journal.json").read_text())["phase"]
    assert phase == ("starting" if "Postgres" in moment else "filling")
    assert '"by": "restore"' in (backed_up.folder / "traefik/dynamic/maintenance.yaml").read_text()
    if phase == "starting":
        # One that has nothing to do, but for what was under way: a failed `up` after it goes back to the same volume.
        assert "did not come to its end: going on with " in backed_up.stack("upgrade-postgres", "--yes").stderr
        assert served_volume(backed_up) == used_volume(backed_up)
    done = backed_up.stack("up")
    assert done.returncode == 0, done.stderr
    assert is_well(backed_up)
    assert not (backed_up.folder / "traefik/dynamic/maintenance.yaml").exists()
    with backed_up.client() as client:
        assert client.get("/").status_code == 200
    assert stored(backed_up) == (there - {max(there)} if phase == "starting" else there)
    assert len(volumes(backed_up)) == len(before) + (phase == "starting")
    wait_until(lambda: settled(backed_up) and health(backed_up) == "healthy")


def test_program_that_is_at_work(backed_up: Clone) -> None:
    """What it writes would be in the old volume alone: nothing begins beside it."""
    there = backed_up.compose("ps", "--quiet")
    other = subprocess.Popen([sys.executable, "stack", "run", "--", "sleep", "99"], cwd=backed_up.folder, env=CLEAN)
    try:
        wait_until(lambda: f"{backed_up.project}-run-" in run("docker", "ps", "--format", "{{.Names}}"))
        done = backed_up.stack("restore", "--to", "latest", "--yes")
    finally:
        other.terminate()
        other.wait(60)
    assert done.returncode == 1
    assert "A program of `./stack run` is at work. Wait for its end, or end it: docker stop " in done.stderr
    assert backed_up.compose("ps", "--quiet") == there


def test_maintenance_by_hand_outlives_a_restore(backed_up: Clone) -> None:
    """What a restore did not switch on it leaves on, with who is let in."""
    target = two_notes(backed_up)
    ok(backed_up.stack("maintenance", "on", "--allow", "192.0.2.7"))
    ok(backed_up.stack("restore", "--to", target, "--yes"))
    with backed_up.client() as client:
        assert client.get("/").status_code == 503
    assert "let in: 192.0.2.7/32: `./stack maintenance off`" in ok(backed_up.stack("releases"))
    ok(backed_up.stack("maintenance", "off"))
    with backed_up.client() as client:
        assert client.get("/").status_code == 200


@pytest.mark.long
def test_killed_before_the_backups_follow(backed_up: Clone) -> None:
    """The slots serve, the backup service is stopped: the WAL since is kept for it, and the backups go on."""
    target = two_notes(backed_up)
    backed_up.interrupted(signal.SIGKILL, "==> Start the slots", "restore", "--to", target, "--yes")
    for _ in range(4):
        backed_up.psql("SELECT pg_create_restore_point('x'), pg_switch_wal()", "postgres", "postgres")
        backed_up.psql("CHECKPOINT", "postgres", "postgres")
    ok(backed_up.stack("up"))
    wait_until(lambda: settled(backed_up) and health(backed_up) == "healthy")
    there = stored(backed_up)
    ok(backed_up.stack("verify"))
    ok(backed_up.stack("restore", "--to", "latest", "--yes"))
    assert stored(backed_up) == there


def test_volumes_are_listed_and_removed(backed_up: Clone) -> None:
    """Those that restores left, with what became of them; never the one that is in use."""
    target = two_notes(backed_up)
    [current] = re.findall(r"(?m)^POSTGRES_VOLUME=(.*)$", backed_up.env_file.read_text()) or [
        f"{backed_up.project}_postgres-data"
    ]
    ok(backed_up.stack("restore", "--to", target, "--yes"))
    listed = ok(backed_up.stack("volumes"))
    assert re.search(rf"  {current}  [\d.]+[kMG]?B, .* old", listed)
    assert f"{current} was in use before" in listed
    [in_use] = re.findall(r"(\S+) is in use\.", listed)
    done = backed_up.stack("volumes", "--remove", in_use, "--yes")
    assert done.returncode == 2
    done = backed_up.stack("volumes", "--remove", current)
    assert done.returncode == 2
    assert current in volumes(backed_up)
    # As a command leaves it that is killed while it begins to look into the volume.
    opened = ("--name", f"{current}-opened", "--volume", f"{current}:/volume")
    run("docker", "create", *opened, f"{backed_up.project}-postgres")
    ok(backed_up.stack("volumes", "--remove", current, "--yes"))
    assert current not in volumes(backed_up)


@pytest.mark.long
def test_new_machine(backed_up: Clone) -> None:
    """No database, the backups alone: a restore that is interrupted leaves none that is empty; the next one works."""
    two_notes(backed_up)
    there = stored(backed_up)
    wait_until(lambda: bool(listing(backed_up)))
    backed_up.compose("down", "--timeout", "5")
    for volume in volumes(backed_up):
        if not volume.endswith("-socket"):
            run("docker", "volume", "rm", volume)
    shutil.rmtree(backed_up.folder / ".stack")
    # As a clone under a strict umask has them.
    for routes in (backed_up.folder / "traefik/dynamic").glob("*.yaml"):
        routes.chmod(0o600)
    env = backed_up.env_file.read_text()
    backed_up.env_file.write_text(re.sub(r"(?m)^(POSTGRES_VOLUME|RELEASE)=.*\n", "", env))
    done = backed_up.stack("up")
    assert done.returncode == 2
    assert "The volume of the backups holds a database that isn't here: `./stack restore --to latest`" in done.stderr
    assert not backed_up.compose("ps", "--quiet", "postgres")
    done = backed_up.interrupted(signal.SIGINT, "copy the files", "restore", "--to", "latest", "--yes")
    assert done.returncode == 130
    assert "nothing was started" in done.stderr
    done = backed_up.stack("up")
    assert done.returncode == 2
    assert "`./stack restore` did not come to its end, and there was no database before it" in done.stderr
    assert not backed_up.compose("ps", "--quiet", "postgres")
    ok(backed_up.stack("restore", "--to", "latest", "--yes"))
    assert stored(backed_up) == there
    assert is_well(backed_up)


@pytest.mark.long
def test_down_leaves_older_volumes(backed_up: Clone) -> None:
    """`docker compose down --volumes` takes the database in use and the backups, and none that a restore has left."""
    before = volumes(backed_up)
    ok(backed_up.stack("restore", "--to", two_notes(backed_up), "--yes"))
    [new] = volumes(backed_up) - before
    backed_up.compose("down", "--volumes", "--timeout", "5")
    assert volumes(backed_up) == {name for name in before if not name.endswith("-socket")}
    assert new not in volumes(backed_up)
    assert run("docker", "volume", "ls", "--quiet", "--filter", f"name={backed_up.project}_backup") == ""
