"""Debian's PgBouncer in transaction mode between the app and Postgres, as docs/growing.md has it."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from runtime import schema
from tests.conftest import NOBODY, REPO, Database, Server
from tests.runtime.slots import Slot
from tests.stack.stacks import free_ports, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces")

NOTES = REPO / "tests/apps/notes"
# Connections of Postgres's. The app's two workers open up to thirty.
POOL = 3
# Its defaults but for what the page says.
INI = """
[databases]
* = host={folder}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool}
"""
APP = f"import sys\nsys.path.insert(0, {str(NOTES)!r})\n{{before}}\nfrom app.main import app\n"
# What the page says of psycopg, without another line in the app.
PREPARES_NOTHING = """
from functools import partial
from sqlalchemy.ext import asyncio
asyncio.create_async_engine = partial(asyncio.create_async_engine, connect_args={"prepare_threshold": None})
"""
MIGRATE = "import sys; sys.path.insert(0, {!r}); from runtime import migrate; sys.exit(migrate.main())"


@dataclass
class Pooler:
    server: Server
    program: Path
    port: int
    version: tuple[int, ...]

    def url(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/app"


def unpacked(folder: Path) -> Path:
    """PgBouncer and the libraries of its own, from this machine's Debian, in `folder` alone."""
    if not shutil.which("apt-get"):
        pytest.skip("PgBouncer is Debian's, and there is no apt-get")
    listed = subprocess.run(["apt-cache", "depends", "pgbouncer"], capture_output=True, text=True, timeout=60).stdout
    names = re.findall(r"Depends: (libevent-[\w.-]+|libc-ares\w+)", listed)
    argv = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "pgbouncer", *names]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"Debian's PgBouncer can't be reached: {done.stderr}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, timeout=60)
    return folder / "usr/sbin/pgbouncer"


def answers(url: str) -> bool:
    asker = schema.Asker(url)
    found: bool = asker.ask()["database"] == "ok"
    if found:
        assert asker.connection
        asker.connection.close()
    return found


@pytest.fixture
def pooler(empty: Database) -> Iterator[Pooler]:
    """Keeps no prepared statements: as before 1.22, and as a setting has it since."""
    if not empty.server:
        pytest.skip("needs a server of our own")
    folder, [port] = Path(f"/tmp/fastapi-stack-pooler-{os.getpid()}"), free_ports(1)  # noqa: S108 - open to another user
    folder.mkdir()
    process = None
    try:
        program = unpacked(folder)
        libraries = {"LD_LIBRARY_PATH": str(next(folder.glob("usr/lib/*/libevent*")).parent)}
        said = subprocess.run([program, "--version"], env=libraries, capture_output=True, text=True, timeout=30).stdout
        version = tuple(map(int, re.findall(r"\d+", said)[:2]))
        ini = INI.format(folder=empty.server.folder, port=port, pool=POOL)
        (folder / "ini").write_text(f"{ini}max_prepared_statements = 0\n" if version >= (1, 21) else ini)
        (empty.server.folder / "users").write_text('"app" ""\n"owner" ""\n')
        process = subprocess.Popen(
            [program, folder / "ini"], env=libraries, user=NOBODY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        found = Pooler(empty.server, program, port, version)
        wait_until(lambda: answers(found.url("app")), 20)
        yield found
    finally:
        if process:
            process.terminate()
            process.wait(10)
        shutil.rmtree(folder)


def migrate(url: str) -> tuple[int, str]:
    argv = [sys.executable, "-c", MIGRATE.format(str(REPO))]
    settings = {"STACK_DATABASE_URL": url, "STACK_MIGRATE": "alembic upgrade heads"}
    here = {"PATH": os.environ["PATH"], "PYTHONPATH": str(NOTES), "PYTHONDONTWRITEBYTECODE": "1", **settings}
    done = subprocess.run(argv, cwd=NOTES, env=here, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def write(slot: Slot, clients: int, times: int) -> "Counter[int]":
    """The statuses of notes written by each client, and of as many lists read; 0 where none came in time."""

    def one(client: httpx2.Client, method: str, body: "dict[str, str] | None") -> int:
        try:
            return client.request(method, "/notes", json=body).status_code
        except httpx2.TimeoutException:
            return 0

    def many(_: int) -> list[int]:
        with httpx2.Client(base_url=f"http://127.0.0.1:{slot.port}", timeout=5) as client:
            # One kind after the other: a read ends with a rollback, by which psycopg forgets what it was to prepare.
            written = [one(client, "POST", {"text": "by the pooler"}) for _ in range(times)]
            return [*written, *(one(client, "GET", None) for _ in range(times))]

    with ThreadPoolExecutor(clients) as pool:
        return Counter(status for found in pool.map(many, range(clients)) for status in found)


def test_health_needs_nothing_of_a_session(pooler: Pooler) -> None:
    """However often it is asked, through one connection of Postgres's for many of its own."""
    askers = [schema.Asker(pooler.url("app")) for _ in range(20)]
    for _ in range(8):
        assert {one.ask()["database"] for one in askers} == {"ok"}
    assert int(pooler.server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")) <= POOL
    for one in askers:
        assert one.connection
        one.connection.close()


def test_migration_by_way_of_it_is_refused(pooler: Pooler, empty: Database) -> None:
    """At once, with what to set, and no lock is left; past it, it runs."""
    code, said = migrate(pooler.url("owner"))
    assert code == 1
    assert "This is a pooler: let MIGRATION_DATABASE_URL lead past it, to Postgres itself." in said
    assert pooler.server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").strip() == "0"
    code, said = migrate(empty.owner_url)
    assert code == 0, said


def test_app_behind_a_pooler(pooler: Pooler, empty: Database, tmp_path: Path) -> None:
    """Where the pooler keeps no prepared statements the app must have none: then nothing fails, and many connections
    are few of Postgres's."""
    assert migrate(empty.owner_url)[0] == 0
    for before, fails, clients, times in ((PREPARES_NOTHING, False, 12, 25), ("", True, 4, 10)):
        slot = Slot(tmp_path, app=APP.format(before=before), WORKERS="2", DATABASE_URL=pooler.url("app"))
        try:
            slot.starts()
            failed = 0
            # psycopg prepares what a connection has sent five times: when that is depends on who got which connection.
            for _ in range(10 if fails else 1):
                found = write(slot, clients, times)
                failed += found.total() - found[200] - found[201]
                print(f"pooler: {found}")
                if failed:
                    break
            servers = pooler.server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
            assert 1 <= int(servers) <= POOL
        finally:
            slot.stop()
        assert bool(failed) == fails
