"""The example of docs/database.md: an old release and a new one serve side by side while a column gets another name."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psycopg

from tests.conftest import REPO, Database
from tests.migrations.runs import build_from
from tests.migrations.test_changes import CHANGES, ROWS
from tests.stack.stacks import free_ports


@contextmanager
def serving(database: Database, column: str) -> Iterator[str]:
    """A release on a port of its own; its address. It ends with the requests in flight answered."""
    [port] = free_ports(1)
    argv = [sys.executable, "-m", "uvicorn", "tests.migrations.people:app", "--port", str(port), "--no-access-log"]
    environment = {**os.environ, "DATABASE_URL": database.app_url, "NAME_COLUMN": column}
    process = subprocess.Popen(argv, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        while "Uvicorn running" not in (line := process.stderr.readline()):
            assert line, "Uvicorn ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said, said


@dataclass
class Clients:
    """Threads that each write through one release and read through another, and check every answer."""

    stored: dict[int, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    requests: int = 0

    def run(self, writes: str, reads: str, done: threading.Event) -> None:
        with httpx2.Client(timeout=10) as client:
            while not done.is_set():
                name = f"{time.monotonic_ns()}"
                person = self.ask(client, "POST", f"{writes}/people?name={name}", name)
                self.ask(client, "GET", f"{reads}/people/{person}", name)
                self.ask(client, "PUT", f"{writes}/people/{person}?name={name}-again", f"{name}-again")
                self.ask(client, "GET", f"{reads}/people/{person}", f"{name}-again")
                self.stored[person] = f"{name}-again"
                # One of those that were there before: they are backfilled under our hands.
                old = 1 + time.monotonic_ns() % 2500
                self.ask(client, "GET", f"{reads}/people/{old}", f"person {old}")

    def ask(self, client: httpx2.Client, verb: str, url: str, name: str) -> int:
        answer = client.request(verb, url)
        self.requests += 1
        if not answer.is_success or answer.json()["name"] != name:
            self.failed.append(f"{verb} {url}: {answer.status_code} {answer.text}, not {name}")
            return 0
        return int(answer.json()["id"])

    @contextmanager
    def at_work(self, *pairs: tuple[str, str]) -> Iterator[None]:
        """While the block runs, a thread for each (writes, reads), and some time of it after the block too."""
        done = threading.Event()
        threads = [threading.Thread(target=self.run, args=(*pair, done)) for pair in pairs]
        for thread in threads:
            thread.start()
        try:
            yield
            target = self.requests + 100
            while self.requests < target and not self.failed and all(thread.is_alive() for thread in threads):
                time.sleep(0.05)
        finally:
            done.set()
            for thread in threads:
                thread.join()


def test_rename_with_both_releases_serving(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """Expand, backfill, contract: no request fails, and each release reads what the other wrote."""
    clients = Clients()
    migration = build_from(tmp_path, empty, CHANGES.versions)
    migration.migrate(MIGRATE="alembic upgrade 02")
    owner.execute(ROWS["01"].encode())
    with serving(empty, "full_name") as new:
        with serving(empty, "name") as old:
            with clients.at_work((old, old), (old, old)):
                migration.migrate(MIGRATE="alembic upgrade 04")
            with clients.at_work((old, new), (new, old), (new, new)):
                migration.migrate(MIGRATE="alembic upgrade 06")
        with clients.at_work((new, new), (new, new)):
            migration.migrate()
    assert clients.failed == []
    assert clients.requests > 300
    rows = owner.execute("SELECT id, full_name FROM people WHERE id > 2500").fetchall()
    assert dict(rows) == clients.stored
