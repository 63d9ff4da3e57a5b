"""Alembic in the tests' own process, on the project's revisions or on another folder of them."""

import io
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.conftest import REPO

# What a revision's part ends with, unless it is the last.
NEXT = "BEGIN;\n\n"
SQUAWK = Path(sys.executable).with_name("squawk")


@dataclass
class Chain:
    """The revisions of a folder, oldest first, and what can be done with them. DATABASE_URL says where."""

    versions: Path = REPO / "migrations/versions"

    def config(self, output: TextIO = sys.stdout) -> Config:
        config = Config(output_buffer=output)
        config.set_main_option("script_location", str(REPO / "migrations"))
        config.set_main_option("version_locations", str(self.versions))
        config.set_main_option("path_separator", "newline")
        return config

    def file(self, folder: Path) -> str:
        """The same as a file, for Alembic in a process of its own."""
        ini = folder / "alembic.ini"
        ini.write_text(
            f"[alembic]\nscript_location={REPO}/migrations\nversion_locations={self.versions}\n"
            f"prepend_sys_path={REPO}\npath_separator=newline\n"
        )
        return str(ini)

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

    def sql(self) -> dict[str, str]:
        """Each revision's statements, as `--sql` prints them, with the timeouts, without Alembic's own table."""
        printed = io.StringIO()
        command.upgrade(self.config(printed), "head", sql=True)
        head, *parts = re.split(r"^-- Running upgrade .*-> (.*)$", printed.getvalue(), flags=re.MULTILINE)
        timeouts = head.partition("BEGIN;")[0]
        begun = [f"{timeouts}BEGIN;{part.removesuffix(NEXT)}" for part in parts[1::2]]
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
