"""The programs that know the usual mistakes in Compose files, Dockerfiles and shell scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO


def tracked(*patterns: str) -> list[str]:
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout.split()


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_lint() -> None:
    """Nothing, however low, in compose.yaml but what .compose-lint.yml excuses with a reason."""
    run(str(Path(sys.executable).parent / "compose-lint"), "check", "--fail-on", "low", "compose.yaml")


@pytest.mark.parametrize("dockerfile", tracked("*Dockerfile"))
def test_hadolint(dockerfile: str) -> None:
    """Nothing, however low, in a Dockerfile but what .hadolint.yaml excuses with a reason."""
    run(str(Path(sys.executable).parent / "hadolint"), "--failure-threshold", "style", dockerfile)
