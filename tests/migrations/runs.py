"""Migrations as `migrate` runs them: in processes of their own, in the folder of an app with Alembic's plain files."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPO, Database

INI = """\
[alembic]
script_location = %(here)s/migrations
version_locations = {versions}
path_separator = newline

[loggers]
keys = root, alembic
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = console
[logger_alembic]
level = INFO
handlers =
qualname = alembic
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(levelname)s %(message)s
"""
# What runtime/install.py does when the image is built, and its programs when the container runs.
PROGRAM = """
import sys
sys.path[0] = {repository!r}
from pathlib import Path
from runtime import environment, install, migrate
environment.STACK = install.STACK = Path({stack!r})
sys.exit({call})
"""
REVISION = """
from alembic import op

revision = "{revision}"
down_revision = {down!r}


def upgrade():
    {upgrade}


def downgrade():
    op.execute("DROP TABLE IF EXISTS {revision}")
"""
# A revision that makes a table by its name, and takes a while in between.
WHOLE = 'op.execute("CREATE TABLE {0} (id int)"); op.execute("{1}"); op.execute("INSERT INTO {0} VALUES (1)")'


class Run(subprocess.Popen[str]):
    """A migration that runs."""

    def wait_for(self, line: str) -> None:
        assert self.stderr
        while line not in (said := self.stderr.readline()):
            assert said, f"ended without {line!r}"

    def end_container(self) -> None:
        """Kill the migration and all that it started, as the end of its container does."""
        os.killpg(self.pid, signal.SIGKILL)
        self.communicate(timeout=60)

    def said(self) -> str:
        return self.communicate(timeout=120)[1]


@dataclass
class App:
    """The folder of an app, of which an image was built."""

    folder: Path
    database: Database
    # What the app's own environment has, where that isn't the setting's.
    url: str = ""

    def start(self, *arguments: str, call: str = "migrate.main()", **settings: str) -> Run:
        """A migration; settings by their names in `.env`. `arguments` are the program's."""
        code = PROGRAM.format(repository=str(REPO), stack=str(self.folder / "stack"), call=call)
        settings = {"DATABASE_URL": self.database.owner_url, **settings}
        prefixed = {f"STACK_{name}": value for name, value in settings.items()}
        url = self.url or self.database.owner_url
        return Run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "DATABASE_URL": url, **prefixed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, call: str = "migrate.main()", **settings: str) -> tuple[int, str]:
        """The exit code of a migration, and what it said."""
        run = self.start(*arguments, call=call, **settings)
        said = run.said()
        return run.returncode, said

    def migrate(self, **settings: str) -> None:
        code, said = self.run(**settings)
        assert code == 0, said


def bare(folder: Path, database: Database) -> App:
    """An app that doesn't use Alembic."""
    (folder / "stack").mkdir(parents=True)
    return App(folder, database)


def build(folder: Path, database: Database, **upgrades: str) -> App:
    """An app with these revisions, one after the other, each with its `upgrade()`."""
    versions = folder / "migrations/versions"
    versions.mkdir(parents=True)
    down = None
    for revision, upgrade in upgrades.items():
        text = REVISION.format(revision=revision, down=down, upgrade=upgrade)
        (versions / f"{revision}.py").write_text(text)
        down = revision
    return build_from(folder, database, versions)


def build_from(folder: Path, database: Database, versions: Path) -> App:
    """An app with the revisions of that folder."""
    app = bare(folder, database)
    (folder / "migrations").mkdir(exist_ok=True)
    shutil.copy(REPO / "tests/migrations/env.py", folder / "migrations")
    (folder / "alembic.ini").write_text(INI.format(versions=versions))
    code, said = app.run(call="install.record_revisions()")
    assert code == 0, said
    return app
