import pytest

from tests.conftest import REPO
from tests.programs import clean, tracked

# What needs packages of its own, and what has no ending that says it is Python.
UNTYPED = ("tests/apps/", "stack")


@pytest.mark.parametrize("argv", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_clean(argv: tuple[str, ...]) -> None:
    """Formatter, linter and the strict type checker have nothing to say."""
    files = tracked("*.py", "stack")
    if argv == ("mypy",):
        files = [file for file in files if not file.startswith(UNTYPED)]
    clean(*argv, *files)


def test_files_stay_small() -> None:
    """No file over 300 lines, compose.yaml near 150: small enough to read in half an hour."""
    lengths = {path: len((REPO / path).read_text().splitlines()) for path in tracked("*.py", "*.yaml", "stack")}
    assert {path: length for path, length in lengths.items() if length > 300} == {}
    assert lengths["compose.yaml"] <= 170
