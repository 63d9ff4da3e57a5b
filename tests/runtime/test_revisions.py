"""What the build writes down of the revisions that the app's own Alembic knows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

# In the app's folder, as the build runs it.
RECORD = """
import sys
sys.path[0] = sys.argv[1]
from pathlib import Path
from runtime import install
install.STACK = Path(sys.argv[2])
install.record_revisions()
"""
REVISION = "revision = {0!r}\ndown_revision = {1!r}\n\ndef upgrade():\n    pass\n"


def record(folder: Path) -> tuple[dict[str, object] | None, str]:
    """What is written down of the app's revisions in that folder, and what is said."""
    stack = folder / "stack"
    stack.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RECORD, str(REPO), str(stack)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    file = stack / "migrations.json"
    return (json.loads(file.read_text()) if file.exists() else None), done.stderr


def write(folder: Path, *revisions: tuple[str, object], versions: str = "versions") -> None:
    (folder / "migrations" / versions).mkdir(parents=True)
    # Neither needed nor run: it would connect.
    (folder / "migrations/env.py").write_text("raise RuntimeError('env.py was run')")
    for name, down in revisions:
        (folder / "migrations" / versions / f"{name}.py").write_text(REVISION.format(name, down))


INI = "[alembic]\nscript_location = migrations\n"


def test_revisions_are_written_down(tmp_path: Path) -> None:
    """Heads, parents and the folder, without a database and without env.py."""
    (tmp_path / "alembic.ini").write_text(INI)
    write(tmp_path, ("a", None), ("b", "a"), ("c", "a"), ("d", ("b", "c")), ("e", "a"))
    graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["a"]}
    assert record(tmp_path) == ({"heads": ["d", "e"], "graph": graph, "versions": "migrations/versions"}, "")


def test_revisions_of_a_project(tmp_path: Path) -> None:
    """The configuration may be in pyproject.toml alone."""
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "migrations"\n')
    write(tmp_path, ("a", None))
    assert record(tmp_path)[0] == {"heads": ["a"], "graph": {"a": []}, "versions": "migrations/versions"}


def test_revisions_in_several_folders(tmp_path: Path) -> None:
    """Each folder's count; a new one would go into the first."""
    (tmp_path / "alembic.ini").write_text(
        INI + "path_separator = space\nversion_locations = migrations/one migrations/two\n"
    )
    write(tmp_path, ("a", None), versions="one")
    (tmp_path / "migrations/two").mkdir()
    (tmp_path / "migrations/two/b.py").write_text(REVISION.format("b", "a"))
    assert record(tmp_path) == ({"heads": ["b"], "graph": {"b": ["a"], "a": []}, "versions": "migrations/one"}, "")


@pytest.mark.parametrize("files", [{}, {"pyproject.toml": "[project]\nname = 'shop'\n"}, {"alembic.ini": "[other]\n"}])
def test_app_without_alembic(tmp_path: Path, files: dict[str, str]) -> None:
    """Nothing is written down, and nothing is wrong."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert record(tmp_path) == (None, "")


NEEDS = {
    "prints": "import os\nprint('loading', end='')\nos.write(1, b'\\xff')",
    "no such variable": "import os\nos.environ['NOT_WHILE_BUILT']",
    "several lines": "raise ValueError('1 error\\n  secret_key\\nsee https://example.com')",
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(40,)).start()",
    "ends": "import sys\nsys.exit(2)",
}


@pytest.mark.parametrize("why", NEEDS)
def test_revision_that_is_not_alone(tmp_path: Path, why: str) -> None:
    """What it prints is no answer; one whose app lacks its settings while an image is built is read, and not run."""
    (tmp_path / "alembic.ini").write_text(INI)
    write(tmp_path, ("a", None), ("b", "a"), ("c", ("a", "b")))
    typed = f"{NEEDS[why]}\nrevision: str = 'd'\ndown_revision: str | None = 'c'\n"
    (tmp_path / "migrations/versions/d.py").write_text(typed)
    graph = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["c"]}
    assert record(tmp_path) == ({"heads": ["d"], "graph": graph, "versions": "migrations/versions"}, "")


@pytest.mark.parametrize(
    "named",
    ["revision = str('b')\ndown_revision = 'a'", "revision = 'b'\ndown_revision = 'missing'", "revision = 'b'", "("],
    ids=["computed", "parent is not there", "no parent", "no Python"],
)
def test_revision_that_can_neither_be_run_nor_read(tmp_path: Path, named: str) -> None:
    """The build ends with the whole error, in one line."""
    (tmp_path / "alembic.ini").write_text(INI)
    write(tmp_path, ("a", None))
    (tmp_path / "migrations/versions/b.py").write_text(f"{NEEDS['several lines']}\n{named}\n")
    found, said = record(tmp_path)
    assert found is None
    assert said.startswith("The app's Alembic configuration can't be read: ")
    expected = "b.py" if named == "(" else "ValueError: 1 error secret_key see https://example.com"
    assert expected in said
    assert said.count("\n") == 1


def test_configuration_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """The build ends with what Alembic says of it."""
    (tmp_path / "alembic.ini").write_text(INI)
    found, said = record(tmp_path)
    assert found is None
    assert said.startswith("The app's Alembic configuration can't be read: ")
    assert said.count("\n") == 1
