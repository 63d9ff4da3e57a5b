import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from app.settings import Settings

from offline.images import STAND_INS
from tests.conftest import REPO


def listed_in_example() -> set[str]:
    return set(re.findall(r"^# ?([A-Z][A-Z0-9_]+)=", (REPO / ".env.example").read_text(), re.MULTILINE))


def used_by_compose() -> set[str]:
    text = "".join((REPO / path).read_text() for path in ("compose.yaml", "traefik/static.env"))
    # Handed to the backup service by name alone.
    named = set(re.findall(r"\bBACKUP_[A-Z0-9_]+", text))
    return named | set(re.findall(r"\$\{([A-Z0-9_]+)", text))


def test_one_list_of_settings() -> None:
    """.env.example lists what compose.yaml and Traefik's configuration read, and nothing else."""
    assert listed_in_example() == used_by_compose()


def test_every_setting_of_the_code_reaches_it() -> None:
    """compose.yaml hands each setting of the code to a slot or to migrate."""
    compose: Any = yaml.safe_load((REPO / "compose.yaml").read_text())
    handed = set(compose["x-slot"]["environment"]) | set(compose["services"]["migrate"]["environment"])
    assert handed == {name.upper() for name in Settings.model_fields}


def test_stand_ins_have_settings() -> None:
    """Each base image that offline/ can build is chosen by a setting."""
    assert set(STAND_INS) <= used_by_compose()


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    """Start the settings' own check, as `./stack up` does."""
    argv = [sys.executable, "-m", "app.settings"]
    return subprocess.run(argv, cwd=REPO, env=settings, capture_output=True, text=True, timeout=60)


def test_defaults_are_right() -> None:
    """No setting is needed, and an empty one counts as not set."""
    assert check().returncode == 0
    assert check(WORKERS="", DATABASE_URL="", DRAIN_SECONDS="").returncode == 0


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("WORKERS", "many", "integer"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("STOP_GRACE_SECONDS", "8", "at least 9"),
        ("LOG_LEVEL", "loud", "'info'"),
        ("APP", "app/main.py", "match pattern"),
        ("APP", "missing.module:app", "no module missing.module"),
        ("POOL_SIZE", "1000", "less than or equal to 100"),
        ("MAX_CONNECTIONS", "20", "greater than or equal to 24"),
    ],
)
def test_wrong_setting_is_one_sentence(setting: str, value: str, allowed: str) -> None:
    """A wrong setting ends with 2 and one line that names it, its value, and what is allowed."""
    done = check(**{setting: value})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{setting}={value} is wrong: ")
    assert allowed in done.stderr


def test_pools_over_budget_are_refused_before_they_start() -> None:
    """The same check finds what is right alone and wrong together."""
    done = check(WORKERS="8", POOL_SIZE="10")
    assert done.returncode == 2
    assert done.stderr.startswith("The pools don't fit into Postgres: 2 slots x 8 workers x 2 engines x POOL_SIZE=10")


@pytest.mark.parametrize("url", ["mysql://app:hunter2@db/app", "postgresql//app:hunter2"])
def test_wrong_database_url_keeps_its_password(url: str) -> None:
    """The sentence about DATABASE_URL does not print it: it may hold a password."""
    done = check(DATABASE_URL=url)
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert "hunter2" not in done.stderr
