"""What every revision must be: yours in migrations/versions, and docs/database.md's in tests/migrations/changes."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import REPO, Database
from tests.migrations.chains import Chain
from tests.migrations.rows import ROWS

CHANGES = Chain(REPO / "tests/migrations/changes")
CHANGES_ROWS = {
    "01": """
        INSERT INTO cities (name) VALUES ('Zürich'), ('São Paulo');
        INSERT INTO people (name, city_id) SELECT 'person ' || n, 1 FROM generate_series(1, 2500) AS n
    """
}
BOTH = pytest.mark.parametrize(("chain", "rows"), [(Chain(), ROWS), (CHANGES, CHANGES_ROWS)], ids=["yours", "changes"])
UNSAFE = """
from alembic import op

revision = "unsafe"
down_revision = None


def upgrade():
    op.execute("ALTER TABLE notes ALTER COLUMN text TYPE varchar(100)")
    op.execute("CREATE INDEX ix_notes_text ON notes (text)")
"""


@pytest.fixture
def owner(empty: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty.owner_url, autocommit=True) as connection:
        yield connection


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


def test_one_head() -> None:
    """Two heads would leave it open which one `upgrade head` means."""
    assert len(Chain().script.get_heads()) == 1


@BOTH
def test_stairway_on_data(owner: psycopg.Connection, chain: Chain, rows: dict[str, str]) -> None:
    """Each revision goes up, down and up again with rows in every table, and loses none that it did not make."""
    try:
        for revision in chain.revisions:
            chain.upgrade(revision)
            fill(owner, rows.get(revision))
            full = counts(owner)
            bare = [table for table, count in full.items() if not count]
            assert not bare, f"No row to try revision {revision} on: tests/migrations/rows.py makes none for {bare}."
            chain.downgrade("-1")
            before = counts(owner)
            assert before == {table: full[table] for table in before}
            chain.upgrade(revision)
            assert {table: count for table, count in counts(owner).items() if table in before} == before
            if 0 in counts(owner).values():
                fill(owner, rows.get(revision))
    finally:
        chain.downgrade()


def fill(owner: psycopg.Connection, statements: str | None) -> None:
    if statements:
        owner.execute(statements.encode())


@BOTH
def test_linter_finds_nothing(empty: Database, tmp_path: Path, chain: Chain, rows: dict[str, str]) -> None:
    """Squawk knows what locks a table for long, rewrites it or breaks a client; `-- squawk-ignore RULE` excepts."""
    assert chain.lint(tmp_path) == ""


def test_linter_finds_what_is_unsafe(empty: Database, tmp_path: Path) -> None:
    """An index built under a lock, and a type changed in place, are named with their revision."""
    (tmp_path / "unsafe.py").write_text(UNSAFE)
    said = Chain(tmp_path).lint(tmp_path)
    assert "unsafe.sql" in said
    assert "changing-column-type" in said
    assert "require-concurrent-index-creation" in said


def test_models_and_schema_agree(empty: Database) -> None:
    """After all migrations autogenerate finds nothing to do."""
    Chain().upgrade()
    Chain().check()


def test_sql_needs_no_database(database: Database) -> None:
    """`alembic upgrade --sql` prints the statements, and the timeouts that they run with."""
    printed = database.alembic("upgrade", "head", "--sql", DATABASE_URL="postgresql://nowhere.invalid/none").stdout
    assert printed.startswith("SET lock_timeout = '1s';")
    assert "CREATE TABLE" in printed
