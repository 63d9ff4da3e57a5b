"""The programs that know the usual mistakes in Compose files, Dockerfiles and packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.programs import audit, clean, tracked


def test_compose_lint() -> None:
    """Nothing, however low, in compose.yaml but what .compose-lint.yml excuses with a reason."""
    # What it calls partial: by which of two names in postgres/own.yaml a service is scaled.
    clean("compose-lint", "check", "--fail-on", "low", "--allow-partial-coverage", "compose.yaml")


@pytest.mark.parametrize("dockerfile", tracked("*Dockerfile"))
def test_hadolint(dockerfile: str) -> None:
    """Nothing, however low, in a Dockerfile but what .hadolint.yaml excuses with a reason."""
    clean("hadolint", "--failure-threshold", "style", dockerfile)


# Those that are pinned; runtime/'s are named after where they go.
PINNED = [path for path in tracked("*requirements.txt", "runtime/*.txt") if "--hash" in (REPO / path).read_text()]


@pytest.mark.parametrize("requirements", PINNED)
def test_pip_audit(requirements: str) -> None:
    """No pinned package has a known vulnerability, as PyPI's advisories have it where they can be reached."""
    audit(requirements)


@pytest.mark.long
def test_checkov(tmp_path: Path) -> None:
    """Nothing in a Dockerfile but what it or .checkov.yaml excuses with a reason. In a venv of its own: 96 packages."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python, program = str(tmp_path / "venv/bin/python"), str(tmp_path / "venv/bin/checkov")
    install = ("-m", "pip", "install", "--quiet", "--require-hashes", "-r", "tests/checkov/requirements.txt")
    subprocess.run([python, *install], cwd=REPO, check=True)
    files = [word for dockerfile in tracked("*Dockerfile") for word in ("--file", dockerfile)]
    clean(python, program, "--config-file", ".checkov.yaml", *files)
