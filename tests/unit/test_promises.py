"""docs/promises.md: each promise of the pages has its test, and each part of the pages is there."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from offline import engine
from tests.conftest import REPO
from tests.unit.test_pages import PAGES, anchors

PAGE = REPO / "docs/promises.md"
TEXT = PAGE.read_text()
ROW = re.compile(r"^\| \[(?P<promise>.+?)\]\((?P<place>[^)]+)\) \| (?P<tests>.+) \|$", re.MULTILINE)
ROWS = list(ROW.finditer(TEXT))
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`( \(long\))?")
NAMED = sorted({found.groups(default="") for found in TEST.finditer(TEXT)})
# Ends whichever test has it, whatever the machine.
SKIPPED = re.compile(r"(pytest\.)?(mark\.)?(skip|xfail)\b(?!if)")


@lru_cache
def of_file(path: str) -> dict[str, tuple[list[str], list[str]]]:
    """The tests of a file: each with its marks, those of the whole file among them, and its statements."""
    tree = ast.parse((REPO / path).read_text())
    of_all = [
        ast.unparse(mark)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for mark in (node.value.elts if isinstance(node.value, ast.List) else [node.value])
    ]
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {
        one.name: ([*map(ast.unparse, one.decorator_list), *of_all], [ast.unparse(line) for line in one.body])
        for one in found
    }


def test_promises_have_their_tests() -> None:
    """Each is there, runs wherever it can, and is marked when only `--long` runs it."""
    wrong = []
    for path, name, mark in NAMED:
        marks, body = of_file(path).get(name, (["not there"], []))
        skipped = [line for line in [*marks, *body] if SKIPPED.match(line)]
        if skipped or "not there" in marks or ("pytest.mark.long" in marks) != bool(mark):
            wrong.append((path, name, mark, marks, skipped))
    assert wrong == []


def test_every_row_names_a_place_and_a_test() -> None:
    """Nothing in a table but a promise that leads to where it stands, and its tests."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    heads = [line for line in lines if line in ("| promise | test |", "|---|---|")]
    assert len(lines) == len(ROWS) + len(heads)
    assert len(ROWS) > 100
    for row in ROWS:
        assert "<br>".join(found[0] for found in TEST.finditer(row["tests"])) == row["tests"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE], ids=lambda page: page.name)
def test_every_section_is_there(page: Path) -> None:
    """Each section of each page has a promise here, or is among those that have none."""
    there = set(re.findall(rf"\({re.escape(page.name)}(?:#([^)]+))?\)", TEXT))
    assert (anchors(page, "##") or {""}) - there == set()


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "docs/backups.md"])
def test_other_tables_lead_here(page: str) -> None:
    """The tests that another page's table of promises links to are among those here."""
    linked = set(re.findall(r"\((?:\.\./)?(tests/[\w/]+/test_\w+\.py)\)", (REPO / page).read_text()))
    assert linked
    assert linked - {path for path, _, _ in NAMED} == set()
    assert "promises.md" in (REPO / page).read_text()


def test_proofs_in_the_readme_run_as_they_say() -> None:
    """A row whose tests run only so says `[with --long]`; one that says anything of it has such tests."""
    rows = [line for line in (REPO / "README.md").read_text().splitlines() if "](tests/stack/" in line]
    assert len(rows) > 10
    for row in rows:
        files = re.findall(r"\((tests/stack/test_\w+\.py)\)", row)
        only_long = all("pytest.mark.long" in marks for path in files for marks, _ in of_file(path).values())
        assert ("[with `--long`]" in row) == only_long, row
        assert row.count("`--long`") == row.count("with `--long`"), row
        assert "`--long`" not in row or any("pytest.mark.long" in (REPO / path).read_text() for path in files), row


def test_floor_is_what_is_refused() -> None:
    """The versions that README.md asks for are those that `./stack` refuses to go below."""
    least = ".".join(map(str, engine.MINIMUM_COMPOSE))
    assert f"Engine {engine.MINIMUM_ENGINE[0]}, Compose {least} or newer" in (REPO / "README.md").read_text()
