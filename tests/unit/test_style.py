import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("argv", [("ruff", "format", "--check", "."), ("ruff", "check", "."), ("mypy",)], ids=" ".join)
def test_clean(argv: tuple[str, ...]) -> None:
    """Formatter, linter and the strict type checker have nothing to say."""
    done = subprocess.run([sys.executable, "-m", *argv], cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_small() -> None:
    """No file over 300 lines, compose.yaml near 150: small enough to read in half an hour."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.yaml", "stack"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    lengths = {path: len((REPO / path).read_text().splitlines()) for path in tracked.stdout.split()}
    assert {path: length for path, length in lengths.items() if length > 300} == {}
    assert lengths["compose.yaml"] <= 170
