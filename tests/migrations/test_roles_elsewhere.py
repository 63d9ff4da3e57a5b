"""deploy/postgres/roles.sql on a Postgres as a managed one is: by TCP and SCRAM, and nobody is superuser.

PyPI's Postgres has no TLS: tests/stack/test_elsewhere.py has it, and a certificate that is verified.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.conftest import NOBODY, REPO, Database, Server
from tests.stack.stacks import free_ports

PASSWORDS = {"OWNER_PASSWORD": "of the 'owner'", "APP_PASSWORD": "of-the-app"}
HBA = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@dataclass
class Managed:
    port: int
    binaries: Path

    def conninfo(self, role: str, password: str) -> str:
        quoted = password.replace("'", "\\'")
        return f"host=127.0.0.1 port={self.port} dbname=shop user={role} password='{quoted}'"

    def roles(self, **environment: str) -> str:
        """What psql complains of."""
        argv = [str(self.binaries / "psql"), "-Xq", "--set=owner=shop_owner", "--set=app=shop_app"]
        argv += ["--file", str(REPO / "deploy/postgres/roles.sql"), self.conninfo("admin", "of-the-admin")]
        here = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(argv, env=here, capture_output=True, text=True, timeout=60).stderr


@pytest.fixture(scope="module")
def managed(database: Database) -> Iterator[Managed]:
    if not database.server:
        pytest.skip("needs a server of our own")
    folder = Path(f"/tmp/fastapi-stack-managed-{os.getpid()}")  # noqa: S108 - a socket's path has 107 bytes
    folder.mkdir()
    server, [port] = Server(database.server.binaries, folder), free_ports(1)
    try:
        (folder / "hba").write_text(HBA)
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        server.run("initdb", "-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync")
        places = f"-c unix_socket_directories={folder} -c hba_file={folder}/hba"
        options = f"-c listen_addresses=127.0.0.1 -p {port} {places}"
        server.run("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
        made = "CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'of-the-admin'"
        for statement in (made, "CREATE DATABASE shop OWNER admin"):
            server.run("psql", "-Xq", "-h", str(folder), "-p", str(port), "-U", "postgres", "-c", statement, "postgres")
        yield Managed(port, server.binaries)
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


def test_roles_where_nobody_is_superuser(managed: Managed) -> None:
    """Twice: the owner then makes tables, and the app may use what it made and nothing else."""
    assert [managed.roles(**PASSWORDS), managed.roles(**PASSWORDS)] == ["", ""]
    owner = managed.conninfo("shop_owner", PASSWORDS["OWNER_PASSWORD"])
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE TABLE things (id serial PRIMARY KEY)")
    with psycopg.connect(managed.conninfo("shop_app", "of-the-app"), autocommit=True) as connection:
        connection.execute("INSERT INTO things DEFAULT VALUES")
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (1,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == []
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1min",)
        for statement in (
            b"CREATE TABLE mine (id int)",
            b"CREATE TEMPORARY TABLE mine (id int)",
            b"CREATE SCHEMA mine",
            b"DROP TABLE things",
            b"TRUNCATE things",
            b"INSERT INTO alembic_version VALUES ('x')",
            b"SET ROLE shop_owner",
            b"CREATE ROLE mine",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement)
