"""The pages for people: what they point to is there."""

import re
import subprocess
from pathlib import Path

import pytest

from ops.update.merge import is_yours
from tests.conftest import REPO

DOCS = REPO / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EVERY = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "SECURITY.md", *PAGES]
BY_PATH = pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(REPO)))


def anchors(page: Path, marks: str = "#+") -> set[str]:
    """The addresses, as the repository's host makes them, of the headings that have such `marks` before them."""
    headings = re.findall(rf"^{marks} (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short() -> None:
    """The door, not the manual."""
    assert len((REPO / "README.md").read_text().splitlines()) <= 120


@BY_PATH
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file leads to one that is there, and to a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@BY_PATH
def test_commands_are_there(page: Path) -> None:
    """Each verb of `./stack`, each test and each benchmark that a page names."""
    text = page.read_text()
    verbs = set(re.findall(r'add_parser\("([\w-]+)"', (REPO / "stack").read_text()))
    assert set(re.findall(r"\./stack ([a-z][\w-]*)", text)) <= verbs
    named = re.findall(r"\btests/[\w/]+(?:\.\w+)?", text)
    named += [f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (benchmarks\.\w+)", text)]
    # The app's own tests are there if its owner has some.
    assert [path for path in named if not is_yours(f"{path}/") and not (REPO / path).exists()] == []


def test_index_has_every_page() -> None:
    """docs/README.md leads to each of them."""
    listed = set(re.findall(r"^\| \[([\w-]+\.md)\]", (DOCS / "README.md").read_text(), re.MULTILINE))
    assert listed == {page.name for page in PAGES} - {"README.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_page_opens_with_its_command(page: Path) -> None:
    """A heading, then what to type."""
    heading, empty, command = page.read_text().splitlines()[:3]
    assert heading.startswith("# ")
    assert not empty
    assert re.match(r"    (\./stack|docker|kubectl|\.venv/bin/python) ", command), command


def test_version_is_the_changelogs_newest() -> None:
    """VERSION, the newest section of the changelog and pyproject.toml say the same."""
    version = (REPO / "VERSION").read_text()
    headings = [line for line in (REPO / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"
    assert f"{headings[1].split()[1]}\n" == version
    assert f'\nversion = "{version.strip()}"\n' in (REPO / "pyproject.toml").read_text()


def test_programs_keep_their_line_ends() -> None:
    """Where git turns them into Windows' own (core.autocrlf), no script would run."""
    names = ["stack", "compose.yaml", "postgres/tune", "traefik/begin", ".env.example"]
    said = subprocess.check_output(["git", "check-attr", "eol", "--", *names], cwd=REPO, text=True)
    assert said == "".join(f"{name}: eol: lf\n" for name in names)
