"""Which tests a run has, and in which order: the lists in tests/conftest.py name what is there."""

import subprocess
import sys

import pytest

from tests.conftest import LONGEST, QUICK, REPO, SHARED, YOUR_TESTS

FILES = {path.stem.removeprefix("test_") for path in (REPO / "tests/stack").glob("test_*.py")}


@pytest.fixture(scope="module")
def quick() -> list[str]:
    argv = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "--quiet", "--quick", "tests"]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=240)
    return [line for line in done.stdout.splitlines() if "::" in line and not line.startswith("ERROR")]


def test_quick_is_what_the_list_says(quick: list[str]) -> None:
    """Some of each that it names, and nothing else."""
    assert all(one.startswith(QUICK) for one in quick)
    # Your own may be none.
    missing = [begin for begin in QUICK if begin not in YOUR_TESTS and not any(one.startswith(begin) for one in quick)]
    assert missing == []


def test_quick_leaves_the_long_ones_out(quick: list[str]) -> None:
    """Of those that need no engine, too."""
    assert any("test_killed_at_any_moment[some]" in one for one in quick)
    assert not any("test_killed_at_any_moment[every]" in one for one in quick)


def test_rooms_are_files() -> None:
    """A file that is renamed keeps its place, and its stack."""
    assert set(SHARED) <= FILES
    assert set(LONGEST) <= FILES | {"stack", "echo", "host"}
