"""The programs that know the usual mistakes, for the stack's own files and for the app's."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ops.update.merge import is_yours
from tests.conftest import REPO

# What an app in this checkout has beside them is its own.
STACK = (
    *(
        f"{folder}/"
        for folder in ("backup", "benchmarks", "deploy", "lock", "offline", "ops", "postgres", "runtime", "tests")
    ),
    "traefik/",
    "compose.yaml",
    "stack",
)


def tracked(*patterns: str) -> list[str]:
    """The stack's own files: an app that takes the sample's place is held to nothing here."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    ours = [path for path in listed if path.startswith(STACK) and not is_yours(path)]
    return [path for path in ours if (REPO / path).exists()]


def clean(program: str, *argv: str) -> None:
    """Nothing is wrong: the program, one of the tests' own packages, ends with 0."""
    done = subprocess.run([beside(program), *argv], cwd=REPO, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def beside(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def audit(requirements: str) -> None:
    """No pinned package has a known vulnerability, as PyPI's advisories have it where they can be reached."""
    flags = ("--require-hashes", "--disable-pip", "--timeout", "5", "--progress-spinner", "off", "--format", "json")
    argv = [beside("pip-audit"), *flags, "--requirement", requirements]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=280)
    not_checked = f"Not checked for known vulnerabilities: {requirements}. PyPI's advisories can't be reached"
    if not done.stdout and re.search("ConnectionError|ServiceError|requests.exceptions", done.stderr):
        pytest.skip(f"{not_checked}.")
    found = json.loads(done.stdout)["dependencies"]
    passed_over = {one["name"]: one.get("skip_reason") for one in found if "vulns" not in one}
    if len(passed_over) == len(found):
        pytest.skip(f"{not_checked}: a mirror has none.")
    # Where they are reached they are for every package.
    assert passed_over == {}
    assert [one for one in found if one["vulns"]] == []
