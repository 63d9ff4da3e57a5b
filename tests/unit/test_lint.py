"""The programs that know the usual mistakes in Compose files, Dockerfiles and shell scripts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO


def tracked(*patterns: str) -> list[str]:
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout.split()


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_lint() -> None:
    """Nothing, however low, in compose.yaml but what .compose-lint.yml excuses with a reason."""
    run(str(Path(sys.executable).parent / "compose-lint"), "check", "--fail-on", "low", "compose.yaml")


@pytest.mark.parametrize("dockerfile", tracked("*Dockerfile"))
def test_hadolint(dockerfile: str) -> None:
    """Nothing, however low, in a Dockerfile but what .hadolint.yaml excuses with a reason."""
    run(str(Path(sys.executable).parent / "hadolint"), "--failure-threshold", "style", dockerfile)


# Those that are pinned; runtime/'s are named after where they go.
PINNED = [path for path in tracked("*requirements.txt", "runtime/*.txt") if "--hash" in (REPO / path).read_text()]


@pytest.mark.parametrize("requirements", PINNED)
def test_pip_audit(requirements: str) -> None:
    """No pinned package has a known vulnerability, as PyPI's advisories have it where they can be reached."""
    flags = ("--require-hashes", "--disable-pip", "--timeout", "5", "--progress-spinner", "off", "--format", "json")
    program = str(Path(sys.executable).parent / "pip-audit")
    argv = [program, *flags, "--requirement", requirements]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=280)
    if not done.stdout and re.search("ConnectionError|ServiceError|requests.exceptions", done.stderr):
        pytest.skip("PyPI's advisories can't be reached.")
    found = json.loads(done.stdout)["dependencies"]
    audited = [one for one in found if "vulns" in one]
    if not audited:
        pytest.skip("PyPI's advisories can't be reached: a mirror has none.")
    assert [one for one in audited if one["vulns"]] == []


@pytest.mark.long
def test_checkov(tmp_path: Path) -> None:
    """Nothing in a Dockerfile but what it or .checkov.yaml excuses with a reason. In a venv of its own: 96 packages."""
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python, program = str(tmp_path / "venv/bin/python"), str(tmp_path / "venv/bin/checkov")
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "tests/checkov/requirements.txt")
    files = [word for dockerfile in tracked("*Dockerfile") for word in ("--file", dockerfile)]
    run(python, program, "--config-file", ".checkov.yaml", *files)
