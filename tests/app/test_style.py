"""The sample is held to what the stack's own files are; leave this away if your app is not."""

import pytest

from tests.programs import audit, clean

FILES = ("app", "migrations", "tests/app")


@pytest.mark.parametrize("argv", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_clean(argv: tuple[str, ...]) -> None:
    """Formatter, linter and the strict type checker have nothing to say."""
    clean(*argv, *FILES)


def test_hadolint() -> None:
    """Nothing, however low, in the Dockerfile but what .hadolint.yaml excuses with a reason."""
    clean("hadolint", "--failure-threshold", "style", "Dockerfile")


def test_pip_audit() -> None:
    """No pinned package has a known vulnerability, as PyPI's advisories have it where they can be reached."""
    audit("requirements.txt")
