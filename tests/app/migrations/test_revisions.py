"""What every revision must be: yours, in migrations/versions, tried on the rows of rows.py."""

from pathlib import Path

import psycopg
import pytest

from tests.app.migrations.rows import ROWS
from tests.conftest import REPO
from tests.migrations.chains import Chain

REVISIONS = Chain(REPO / "migrations/versions", REPO / "migrations")


def test_one_head() -> None:
    """Two heads would leave it open which one `upgrade head` means."""
    assert len(REVISIONS.script.get_heads()) == 1


def test_stairway_on_data(owner: psycopg.Connection) -> None:
    """Each revision goes up, down and up again with rows in every table, and loses none that it did not make."""
    REVISIONS.stairway(owner, ROWS)


@pytest.mark.usefixtures("empty")
def test_linter_finds_nothing(tmp_path: Path) -> None:
    """Squawk knows what locks a table for long, rewrites it or breaks a client; `-- squawk-ignore RULE` excepts."""
    assert REVISIONS.lint(tmp_path) == ""


@pytest.mark.usefixtures("empty")
def test_models_and_schema_agree() -> None:
    """After all migrations autogenerate finds nothing to do."""
    REVISIONS.upgrade()
    REVISIONS.check()
