"""Alembic in the tests' own process, on a folder of revisions."""

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from runtime.migrate import LOCK_TIMEOUT
from tests.conftest import REPO

# What a revision's part ends with, unless it is the last.
NEXT = "BEGIN;\n\n"
# What runtime/migrate.py has every revision run with.
TIMEOUTS = f"SET lock_timeout = '{LOCK_TIMEOUT}';\nSET statement_timeout = '300s';\n"
SQUAWK = Path(sys.executable).with_name("squawk")


@dataclass
class Chain:
    """The revisions of a folder, oldest first, and what can be done with them. DATABASE_URL says where.

    `location` is the folder of their env.py.
    """

    versions: Path
    location: Path = REPO / "tests/migrations"

    def config(self, output: TextIO = sys.stdout) -> Config:
        # Of no file: its logging would become the tests'.
        config = Config(output_buffer=output)
        config.set_main_option("script_location", str(self.location))
        config.set_main_option("version_locations", str(self.versions))
        config.set_main_option("path_separator", "newline")
        return config

    @property
    def script(self) -> ScriptDirectory:
        return ScriptDirectory.from_config(self.config())

    @property
    def revisions(self) -> list[str]:
        return [script.revision for script in self.script.walk_revisions()][::-1]

    def upgrade(self, revision: str = "head") -> None:
        command.upgrade(self.config(), revision)

    def downgrade(self, revision: str = "base") -> None:
        command.downgrade(self.config(), revision)

    def check(self) -> None:
        """Raise CommandError when models and schema differ."""
        command.check(self.config())

    def stairway(self, owner: psycopg.Connection, rows: Mapping[str, str]) -> None:
        """Take each revision up, down and up again, with rows in every table; fail where one is lost.

        `rows` are SQL for the schema as it is at a revision, for every table that it makes.
        """
        for revision in self.revisions:
            self.upgrade(revision)
            fill(owner, rows.get(revision))
            full = counts(owner)
            bare = [table for table, count in full.items() if not count]
            assert not bare, f"No row to try revision {revision} on: there are none for {bare}."
            self.downgrade("-1")
            before = counts(owner)
            kept = {table: full[table] for table in before}
            assert before == kept, f"The way back of revision {revision} leaves rows {before}, and there were {kept}."
            self.upgrade(revision)
            after = {table: count for table, count in counts(owner).items() if table in before}
            assert after == before, f"Revision {revision} leaves rows {after}, and there were {before}."
            if 0 in counts(owner).values():
                fill(owner, rows.get(revision))

    def sql(self) -> dict[str, str]:
        """Each revision's statements, as `--sql` prints them, with the timeouts, without Alembic's own table."""
        printed = io.StringIO()
        command.upgrade(self.config(printed), "head", sql=True)
        _, *parts = re.split(r"^-- Running upgrade .*-> (.*)$", printed.getvalue(), flags=re.MULTILINE)
        begun = [f"{TIMEOUTS}BEGIN;{part.removesuffix(NEXT)}" for part in parts[1::2]]
        return dict(zip(parts[::2], begun, strict=True))

    def lint(self, folder: Path) -> str:
        """What Squawk has to say of each revision; nothing is good."""
        for revision, statements in self.sql().items():
            (folder / f"{revision}.sql").write_text(statements)
        done = subprocess.run(
            [SQUAWK, "--pg-version", "18", "--reporter", "gcc", *(f"{revision}.sql" for revision in self.revisions)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout


def fill(owner: psycopg.Connection, statements: str | None) -> None:
    if statements:
        owner.execute(statements.encode())


def counts(owner: psycopg.Connection) -> dict[str, int]:
    """How many rows each table has."""
    tables = owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    found = {}
    for (table,) in tables:
        counted = owner.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 - a name of the catalogue
        assert counted
        found[table] = counted[0]
    found.pop("alembic_version", None)
    return found
