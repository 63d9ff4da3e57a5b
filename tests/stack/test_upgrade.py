"""`./stack upgrade-postgres` from 17 to 18, with servers of both."""

from collections.abc import Iterator

import pytest

from offline import images
from tests.stack.backups import listing, ok
from tests.stack.clients import Clients
from tests.stack.stacks import Clone, base_images, run, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
# Debian's release whose Postgres is 17.
SUITE, OLD = "trixie", "stack-offline/postgres:17"
# A table that 17 takes and 18 doesn't.
UNWANTED = "CREATE TABLE unwanted (n int CHECK (current_setting('server_version_num')::int < 180000))"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A stack on Postgres 17 that serves."""
    if not images.exists(OLD):
        base = f"stack-offline/debian:{SUITE}"
        if not images.exists(base):
            images.build_base(SUITE, base)
        arguments = ("--build-arg", f"BASE={base}", "--build-arg", "PG_MAJOR=17")
        run("docker", "build", "--quiet", *arguments, "--target", "postgres", "--tag", OLD, str(images.HERE))
    clone = Clone(tmp_path_factory.mktemp("upgrade"), "upgrade", POSTGRES_IMAGE=OLD)
    clone.remove()
    try:
        ok(clone.stack("up"))
        wait_until(lambda: bool(listing(clone)), 60)
        yield clone
    finally:
        clone.remove()


def sql(stack: Clone, statement: str) -> str:
    argv = ("exec", "-T", "postgres", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "app")
    return stack.compose(*argv, "-c", statement).strip()


def choose(stack: Clone, image: str) -> None:
    lines = [line for line in stack.env_file.read_text().splitlines() if not line.startswith("POSTGRES_IMAGE=")]
    stack.env_file.write_text("\n".join([*lines, f"POSTGRES_IMAGE={image}", ""]))


def volumes(stack: Clone) -> set[str]:
    """Those that hold a database."""
    label = "label=com.docker.compose.volume=postgres-data"
    argv = ("docker", "volume", "ls", "--quiet", "--filter", label, "--filter", f"name={stack.project}_")
    return set(run(*argv).split())


def test_another_major_is_refused(old: Clone) -> None:
    """`./stack up` with another version's image names the command, and nothing is touched."""
    before = old.containers()
    choose(old, base_images()["POSTGRES_IMAGE"])
    done = old.stack("up")
    assert done.returncode == 2
    assert "Postgres 17 runs, and POSTGRES_IMAGE is of 18: ./stack upgrade-postgres" in done.stderr
    assert {name: one["Id"] for name, one in before.items()} == {n: one["Id"] for n, one in old.containers().items()}
    # Nor would plain Compose start the new one on the old database.
    old.compose("up", "--detach", "--wait", "--no-build", "traefik", "app-1", "app-2")
    assert old.containers()["postgres"]["Id"] == before["postgres"]["Id"]


def test_server_refuses_by_itself(old: Clone) -> None:
    """Under plain Compose too: it makes no empty database beside the other one."""
    old.compose("build", "--quiet", "postgres")
    said = old.compose("run", "--rm", "--no-deps", "-T", "postgres", check=False)
    assert old.stack("up").returncode == 2
    assert "This volume holds a database of Postgres 17, and this is 18: ./stack upgrade-postgres" in said


def test_failed_upgrade_goes_back(old: Clone) -> None:
    """What the new version does not take ends it: the old one serves again, and nothing of the new one is left."""
    sql(old, UNWANTED)
    sql(old, "INSERT INTO unwanted VALUES (1)")
    before = volumes(old)
    choose(old, base_images()["POSTGRES_IMAGE"])
    done = old.stack("upgrade-postgres", "--yes")
    assert done.returncode == 1
    assert 'violates check constraint "unwanted_check"' in done.stderr
    assert sql(old, "SHOW server_version").startswith("17.")
    wait_until(old.both_slots_answer)
    assert volumes(old) == before
    sql(old, "DROP TABLE unwanted")


def test_upgrade(old: Clone) -> None:
    """Every row, role and right is there under 18, requests got 503 meanwhile, and backups go on."""
    choose(old, base_images()["POSTGRES_IMAGE"])
    [volume] = volumes(old)
    sql(old, "COMMENT ON TABLE notes IS 'kept'; ALTER ROLE app SET search_path TO public, pg_temp")
    clients = Clients(old)
    with clients.at_work():
        said = ok(old.stack("upgrade-postgres", "--yes"))
        wait_until(lambda: clients.answers[-1].status in (200, 201))
    assert sql(old, "SHOW server_version").startswith("18.")
    assert sql(old, "SELECT obj_description('notes'::regclass)") == "kept"
    assert "search_path=public" in sql(old, "SELECT useconfig FROM pg_user WHERE usename = 'app'")
    acknowledged = [one.text for one in clients.of("write") if one.status == 201]
    stored = sql(old, "SELECT text FROM notes").splitlines()
    assert sorted(set(acknowledged) - set(stored)) == []
    assert len(stored) == len(set(stored))
    # The app's way in is away, or its slots are: never a connection that fails.
    assert {one.status for one in clients.answers} == {200, 201, 503}
    assert {one.retry_after for one in clients.answers if one.status == 503} <= {"1", "10"}
    assert f"database is in the volume {volume}: `./stack volumes`" in said
    assert volume in volumes(old)

    wait_until(lambda: bool(listing(old)), 60)
    ok(old.stack("backup"))
    ok(old.stack("verify"))
    assert "Nothing changed" in ok(old.stack("up"))
    twice = old.stack("upgrade-postgres", "--yes")
    assert twice.returncode == 1
    assert "nothing is to be done" in twice.stderr
