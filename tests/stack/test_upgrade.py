"""`./stack upgrade-postgres` from 17 to 18, with servers of both."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from offline import images
from tests.stack.backups import listing, ok
from tests.stack.clients import Clients
from tests.stack.planted import PLANT, caught
from tests.stack.stacks import CLEAN, Clone, base_images, run, wait_until

pytestmark = pytest.mark.timeout(900)
# Debian's release whose Postgres is 17.
SUITE, OLD = "trixie", "stack-offline/postgres:17-trixie"
# A table that 17 takes and 18 doesn't.
UNWANTED = "CREATE TABLE unwanted (n int CHECK (current_setting('server_version_num')::int < 180000))"
# As a new cluster was made before it had rules for text of its own.
LIBC = "services: {postgres: {environment: [POSTGRES_INITDB_ARGS=--locale=en_US.utf8]}}\n"
RULES = "SELECT datname, datlocprovider, datcollate, datctype FROM pg_database ORDER BY 1"
# Whose things are, and who may do what with them.
RIGHTS = [
    "SELECT datname, datdba::regrole, datacl FROM pg_database WHERE NOT datistemplate ORDER BY datname",
    "SELECT nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY nspname",
    "SELECT extname, extowner::regrole, extnamespace::regnamespace FROM pg_extension ORDER BY extname",
    "SELECT proname, proowner::regrole, proacl FROM pg_proc WHERE proacl::text ~ '(app|barman)=' ORDER BY proname",
    "SELECT relname, relowner::regrole, relacl FROM pg_class WHERE relacl::text ~ 'app=' ORDER BY relname",
    "SELECT count(*), pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'evil'::regnamespace GROUP BY 2",
    "SELECT oid, lomowner::regrole FROM pg_largeobject_metadata",
    "SELECT rolname, roleid::regrole FROM pg_auth_members JOIN pg_roles r ON r.oid = member ORDER BY rolname, roleid",
]


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
    (clone.folder / "compose.override.yaml").write_text(LIBC)
    clone.remove()
    try:
        ok(clone.stack("up"))
        wait_until(lambda: bool(listing(clone)))
        yield clone
    finally:
        clone.remove()


def choose(stack: Clone, image: str) -> None:
    lines = [line for line in stack.env_file.read_text().splitlines() if not line.startswith("POSTGRES_IMAGE=")]
    stack.env_file.write_text("\n".join([*lines, f"POSTGRES_IMAGE={image}", ""]))


def volumes(stack: Clone) -> set[str]:
    """Those that hold a database."""
    label = "label=com.docker.compose.volume=postgres-data"
    argv = ("docker", "volume", "ls", "--quiet", "--filter", label, "--filter", f"name={stack.project}_")
    return set(run(*argv).split())


@pytest.mark.long
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


@pytest.mark.long
def test_server_refuses_by_itself(old: Clone) -> None:
    """Under plain Compose too: it makes no empty database beside the other one."""
    choose(old, base_images()["POSTGRES_IMAGE"])
    old.compose("build", "--quiet", "postgres")
    # Beside the one that runs it would refuse the volume anyway.
    old.compose("stop", "postgres")
    said = old.compose("run", "--rm", "--no-deps", "-T", "postgres", check=False)
    old.compose("start", "postgres")
    assert old.stack("up").returncode == 2
    assert "This volume holds a database of Postgres 17, and this is 18: ./stack upgrade-postgres" in said


def test_failed_upgrade_goes_back(old: Clone) -> None:
    """What the new version does not take ends it: the old one serves again, and nothing of the new one is left."""
    old.psql(UNWANTED)
    old.psql("INSERT INTO unwanted VALUES (1)")
    before = volumes(old)
    choose(old, base_images()["POSTGRES_IMAGE"])
    done = old.stack("upgrade-postgres", "--yes")
    assert done.returncode == 1
    assert 'violates check constraint "unwanted_check"' in done.stderr
    assert old.psql("SHOW server_version").startswith("17.")
    wait_until(old.both_slots_answer)
    assert volumes(old) == before
    old.psql("DROP TABLE unwanted")


@pytest.mark.long
def test_what_the_owner_can_not_restore_is_named(old: Clone) -> None:
    """A table that the superuser made by hand: the sentence names it and what to do, and the old one serves again."""
    old.psql("CREATE TABLE public.by_hand (n int)", "postgres")
    choose(old, base_images()["POSTGRES_IMAGE"])
    done = old.stack("upgrade-postgres", "--yes")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        "In the database app these do not belong to owner, so it can't restore them: TABLE public by_hand"
    )
    assert "ALTER … OWNER TO owner" in said
    wait_until(old.both_slots_answer)
    old.psql("DROP TABLE public.by_hand", "postgres")


@pytest.mark.long
def test_setting_that_the_new_version_does_not_know(old: Clone) -> None:
    """What somebody set for the server, and the new one does not take, is named, and the old one serves again."""
    settings = '"$PGDATA/postgresql.auto.conf"'

    def spoil() -> None:
        old.compose("exec", "-T", "postgres", "sh", "-c", f"cp {settings} /tmp/kept && echo 'gone = 1' >> {settings}")

    choose(old, base_images()["POSTGRES_IMAGE"])
    # The old version would not start with it, either. Once that is verified, nobody starts it. The signal is none.
    moment = "==> Verify the newest backup"
    done = old.interrupted(signal.SIGCONT, moment, "upgrade-postgres", "--yes", then=spoil)
    old.compose("exec", "-T", "postgres", "sh", "-c", f"cat /tmp/kept > {settings}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'Postgres 18 does not take what ALTER SYSTEM has set: unrecognized configuration parameter "gone". '
    )
    assert old.psql("SHOW server_version").startswith("17.")
    wait_until(old.both_slots_answer)


@pytest.mark.long
def test_open_session_is_named(old: Clone) -> None:
    """What somebody writes in a session that stays open would be in no copy: the sentence names it, and 17 serves."""
    choose(old, base_images()["POSTGRES_IMAGE"])
    argv = ["docker", "compose", "exec", "-T", "-u", "owner", "postgres", "psql", "-X", "app"]
    with subprocess.Popen(argv, cwd=old.folder, env=CLEAN, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as session:
        try:
            wait_until(lambda: old.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner'") == "2")
            done = old.stack("upgrade-postgres", "--yes")
        finally:
            # The end of its input is its own.
            session.communicate(timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Open sessions could write to the old database, and")
    assert "psql as owner. End them" in done.stderr
    assert old.psql("SHOW server_version").startswith("17.")
    wait_until(old.both_slots_answer)


@pytest.mark.long
def test_upgrade(old: Clone) -> None:
    """Every row, role, right and setting is there under 18, requests got 503 meanwhile, and backups go on.

    Nothing that the schema's owner planted ran as another role.
    """
    choose(old, base_images()["POSTGRES_IMAGE"])
    [volume] = volumes(old)
    old.psql("ALTER DATABASE app SET role = owner", "postgres")
    old.psql(f"{PLANT}; COMMENT ON TABLE notes IS 'kept'; CREATE EXTENSION citext SCHEMA evil")
    # Made by others, where the owner may not.
    old.psql("SELECT lo_from_bytea(4711, 'kept')", "app")
    extension = "CREATE EXTENSION dblink SCHEMA evil; GRANT EXECUTE ON FUNCTION evil.dblink_connect_u(text) TO app"
    old.psql(f"SET ROLE none; {extension}; GRANT EXECUTE ON FUNCTION pg_ls_logdir() TO app", "postgres")
    old.psql("ALTER SYSTEM SET log_min_duration_statement = '7s'", "postgres", "postgres")
    before = [old.psql(question) for question in [RULES, *RIGHTS]]
    assert "template1|c|en_US.utf8|en_US.utf8" in before[0]
    clients = Clients(old)
    with clients.at_work():
        said = ok(old.stack("upgrade-postgres", "--yes"))
        wait_until(lambda: clients.answers[-1].status in (200, 201))
    assert caught(old) == []
    assert old.psql("SHOW server_version").startswith("18.")
    assert [old.psql(question) for question in [RULES, *RIGHTS]] == before
    assert old.psql("SHOW log_min_duration_statement") == "7s"
    assert old.psql("SELECT obj_description('notes'::regclass)") == "kept"
    assert old.psql("SELECT convert_from(lo_get(4711), 'utf8')", "app") == "kept"
    assert "role=owner" in old.psql("SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0")
    acknowledged = [one.text for one in clients.of("write") if one.status == 201]
    stored = old.psql("SELECT text FROM notes").splitlines()
    assert sorted(set(acknowledged) - set(stored)) == []
    assert len(stored) == len(set(stored))
    # The app's way in is away, or its slots are: never a connection that fails.
    assert [one for one in clients.answers if not one.status] == []
    assert {one.status for one in clients.answers} == {200, 201, 503}
    assert {one.retry_after for one in clients.answers if one.status == 503} <= {"1", "10"}
    assert f"database is in the volume {volume}: `./stack volumes`" in said
    assert volume in volumes(old)
    assert "before-upgrade" not in run("docker", "image", "ls", f"{old.project}-*")

    wait_until(lambda: bool(listing(old)))
    ok(old.stack("backup"))
    ok(old.stack("verify"))
    assert "Nothing changed" in ok(old.stack("up"))
    twice = old.stack("upgrade-postgres", "--yes")
    assert twice.returncode == 1
    assert "nothing is to be done" in twice.stderr
