"""docs/database.md's examples: revisions that change tables while two releases use them."""

import re
from pathlib import Path

import psycopg
import pytest

from tests.conftest import REPO, Database
from tests.migrations.chains import Chain

CHANGES = Chain(REPO / "tests/migrations/changes")
ROWS = {
    "01": """
        INSERT INTO cities (name) VALUES ('Zürich'), ('São Paulo');
        INSERT INTO people (name, city_id) SELECT 'person ' || n, 1 FROM generate_series(1, 2500) AS n
    """
}
FIRST = """
from alembic import op

revision = "{revision}"
down_revision = None


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
"""


def test_stairway_on_data(owner: psycopg.Connection) -> None:
    """Each revision goes up, down and up again with rows in every table, and loses none that it did not make."""
    CHANGES.stairway(owner, ROWS)


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "said"),
    [
        ("op.execute('CREATE TABLE bare (id int)')", "op.execute('DROP TABLE bare')", "there are none for ['bare']"),
        ("op.execute('CREATE TABLE made AS SELECT 1')", "pass", 'relation "made" already exists'),
        ("pass", "op.execute('DELETE FROM kept')", "The way back of revision first leaves rows {'kept': 0}"),
        ("op.execute('DELETE FROM kept WHERE id = 2')", "pass", "Revision first leaves rows {'kept': 1}"),
    ],
    ids=["no rows", "no way back", "lost on the way back", "lost"],
)
def test_stairway_finds(owner: psycopg.Connection, tmp_path: Path, upgrade: str, downgrade: str, said: str) -> None:
    """A table without rows to try it on, a revision that can't go up again, and rows that are gone."""
    owner.execute("CREATE TABLE kept AS SELECT n AS id FROM generate_series(1, 2) AS n")
    (tmp_path / "first.py").write_text(FIRST.format(revision="first", upgrade=upgrade, downgrade=downgrade))
    with pytest.raises(Exception, match=re.escape(said)):
        Chain(tmp_path).stairway(owner, {"first": "INSERT INTO kept VALUES (2)"})


def test_linter_finds_nothing(empty: Database, tmp_path: Path) -> None:
    """Squawk knows what locks a table for long, rewrites it or breaks a client; `-- squawk-ignore RULE` excepts."""
    assert CHANGES.lint(tmp_path) == ""


def test_linter_finds_what_is_unsafe(empty: Database, tmp_path: Path) -> None:
    """An index built under a lock, and a type changed in place, are named with their revision."""
    unsafe = (
        'op.execute("ALTER TABLE people ALTER COLUMN name TYPE varchar(100)");'
        'op.execute("CREATE INDEX ix_people_name ON people (name)")'
    )
    (tmp_path / "unsafe.py").write_text(FIRST.format(revision="unsafe", upgrade=unsafe, downgrade="pass"))
    said = Chain(tmp_path).lint(tmp_path)
    assert "unsafe.sql" in said
    assert "changing-column-type" in said
    assert "require-concurrent-index-creation" in said


def test_sql_needs_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statements of every revision are printed without one."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere.invalid/none")
    assert "CREATE TABLE people" in CHANGES.sql()["01"]
