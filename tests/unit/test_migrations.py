"""What `./stack migration` calls a new revision."""

from pathlib import Path

import pytest

from ops.database.migrations import next_number


@pytest.mark.parametrize(
    ("names", "option"),
    [
        ([], ("--rev-id", "0001")),
        (["0001", "0009"], ("--rev-id", "0010")),
        (["0001", "f00d"], ()),
        (["1a2b3c4d5e6f"], ()),
    ],
    ids=["none", "numbered", "one is not", "Alembic's own"],
)
def test_name_of_the_next_revision(tmp_path: Path, names: list[str], option: tuple[str, ...]) -> None:
    """The next number where all revisions have one, whatever their files are called; else Alembic chooses."""
    (tmp_path / "__init__.py").touch()
    for name in names:
        (tmp_path / f"2026_01_31_{name}.py").write_text(f"revision: str = '{name}'\ndown_revision = '0000'\n")
    assert next_number(tmp_path) == option
