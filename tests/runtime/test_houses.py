"""Who may import whom: the app and the stack around it know nothing of each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO

RUNTIME = sorted((REPO / "runtime").glob("*.py"))
# The stack's folders, as modules; in the image the runtime is stack_runtime.
STACK = {"backup", "benchmarks", "offline", "ops", "runtime", "stack_runtime"}
SAMPLE = {"app", "migrations", "tests.app"}
# In processes that the app's never sees.
PSYCOPG = {"schema.py", "migrate.py"}
# Of the app's own, and where the app's image is built.
ALEMBIC = {"revisions.py"}
# What a machine's own Python 3.9 reads, for `./stack plan`.
OLD = {"__init__.py", "limits.py"}


def imported(file: Path) -> Iterator[str]:
    """The first name of each module that the file imports from elsewhere, wherever it does; of the tests' two."""
    for node in ast.walk(ast.parse(file.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [f"{node.module}.{name.name}" for name in node.names]
        for module in modules:
            names = module.split(".")
            yield ".".join(names[:2] if names[0] == "tests" else names[:1])


def all_imported(*folders: str) -> dict[str, set[str]]:
    found = (path for folder in folders for path in (REPO / folder).rglob("*.py"))
    return {str(path.relative_to(REPO)): set(imported(path)) for path in found}


@pytest.mark.parametrize("file", RUNTIME, ids=lambda file: file.name)
def test_runtime_needs_next_to_nothing(file: Path) -> None:
    """The standard library, itself by relative imports, and Uvicorn; the others in processes of their own."""
    allowed = {*sys.stdlib_module_names, "uvicorn"} | ({"psycopg"} if file.name in PSYCOPG else set())
    allowed |= {"alembic"} if file.name in ALEMBIC else set()
    assert set(imported(file)) <= allowed


def test_sample_knows_nothing_of_the_stack() -> None:
    """It is an app like any other."""
    assert {file: tops & STACK for file, tops in all_imported("app", "migrations").items() if tops & STACK} == {}


def test_stack_knows_nothing_of_the_sample() -> None:
    """It goes on when another app is in its place."""
    tests = (f"tests/{folder}" for folder in ("migrations", "runtime", "stack", "unit"))
    found = all_imported("backup", "offline", "ops", "runtime", *tests)
    assert {file: tops & SAMPLE for file, tops in found.items() if tops & SAMPLE} == {}


def test_runtime_knows_nothing_of_the_operators_command() -> None:
    """It is in the image, and the command is not."""
    known = STACK - {"runtime"}
    assert {file: tops & known for file, tops in all_imported("runtime").items() if tops & known} == {}


@pytest.mark.parametrize("file", RUNTIME, ids=lambda file: file.name)
def test_syntax_of_the_oldest_python(file: Path) -> None:
    """3.10 in the app's image; 3.9 where a machine's own Python reads it too."""
    ast.parse(file.read_text(), feature_version=(3, 9) if file.name in OLD else (3, 10))


def test_command_needs_the_oldest_python_alone() -> None:
    """`./stack` runs on a bare machine: in the syntax of 3.9, with its standard library and no package."""
    files = [REPO / "stack", *(REPO / "ops").rglob("*.py"), *(REPO / "offline").rglob("*.py")]
    allowed = {*sys.stdlib_module_names, "ops", "offline", "runtime"} - {"tomllib"}
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 9))
        assert set(imported(file)) <= allowed, file


def test_library_of_the_oldest_python() -> None:
    """What the standard library of 3.10 has not, typeshed knows: only find.py asks for it, and does without."""
    argv = [sys.executable, "-m", "mypy", "--python-version", "3.10", "--no-error-summary", "runtime"]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=280)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    [tomllib] = errors
    assert tomllib.startswith("runtime/find.py:")
    assert '"tomllib"' in tomllib
